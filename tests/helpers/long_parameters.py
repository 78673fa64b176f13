"""Parameters of a test, of which some take minutes together."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def long_where(is_long: Callable[[Any], bool], values: Iterable[Any]) -> list[Any]:
    """Returns values for `parametrize`; those that are long have the mark."""
    return [
        pytest.param(value, marks=[pytest.mark.long] if is_long(value) else [])
        for value in values
    ]
