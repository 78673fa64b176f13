"""Strategies of the fuzzers: numbers, texts, JSON, and files with changes."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from jaxdiff.errors import InputError

SLOW = 20.0
"""Seconds after which an example counts as hanging."""


def or_refused(fn: Callable[[], Any], expected: str = "the last step keeps") -> Any:
    """Returns the result of `fn`, or None if `fn` raises an InputError of one line.

    Any other exception, a hang, or a warning that does not begin as `expected` fails.
    """
    start = time.monotonic()
    result, message = None, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", expected, UserWarning)
        try:
            result = fn()
        except InputError as error:
            message = str(error)
    assert not caught, caught[0]
    assert message == "" or message.isprintable()
    assert len(message) < 60_000
    assert time.monotonic() - start < SLOW, "it hangs"
    return result


def mostly(
    main: st.SearchStrategy[Any], other: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """Draws three of four from `main`; `st.one_of` would draw all branches alike."""
    return st.integers(0, 3).flatmap(lambda i: other if i == 0 else main)


_MUTATIONS = [*["flip"] * 4, *["set"] * 3, "cut", "insert", "splice"]


def mutated(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Draws valid bytes with changes, cuts, insertions, or the end of another file."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(valid))
        for _ in range(draw(st.integers(1, 3))):
            # Headers are short, and most errors are in headers.
            end = len(data) if draw(st.booleans()) else min(len(data), 64)
            place = draw(st.integers(0, max(end - 1, 0)))
            match draw(st.sampled_from(_MUTATIONS)):
                case "flip" if data:
                    data[place] ^= 1 << draw(st.integers(0, 7))
                case "set":
                    numbers = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF])
                    width = draw(st.sampled_from([1, 2, 4]))
                    data[place : place + width] = bytes([draw(numbers)]) * width
                case "cut":
                    del data[place : place + draw(st.integers(1, len(data) + 1))]
                case "insert":
                    data[place:place] = draw(st.binary(min_size=1, max_size=16))
                case "splice":
                    other = draw(valid)
                    cut = draw(st.integers(0, len(other)))
                    data[place:] = other[cut:]
        return bytes(data)

    return build()


def _deep(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"type": value}
    return value


NUMBERS = st.one_of(
    st.integers(),
    st.integers(-3, 2000),
    st.floats(),
    st.floats(0, 1),
    st.sampled_from(
        [math.nan, math.inf, -math.inf, 0.0, 5e-324, 1e-300, 1e300, 10**12, 2**31,
         2**63, 10**400, -(10**400), 1e-3, 1e3]
    ),
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["a\nb", "\x1b[31m", "\0", "\ud800", "float32", "x" * 30_000]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.one_of(
    st.recursive(
        LEAVES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)
        ),
        max_leaves=8,
    ),
    st.sampled_from([10, 400, 5000]).map(_deep),
)


def _places(data: Any) -> list[tuple[Any, Any]]:
    """Returns each (container, key) below a value, at any depth."""
    found: list[tuple[Any, Any]] = []
    left = [data]
    while left:
        inner = left.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        found += [(inner, key) for key in keys]
        left += [inner[key] for key in keys if isinstance(inner[key], dict | list)]
    return found


_CHANGES = ["leaf", *["number"] * 15, "json", "del", "add", *["swap"] * 2]


@st.composite
def with_changes(
    draw: st.DrawFn, valid: Sequence[Any], parts: Callable[[Any], list[Any]]
) -> Any:
    """Draws JSON records with values changed, removed, or taken from another.

    Args:
        draw: function of Hypothesis.
        valid: records to change.
        parts: function from a record to the parts whose values are changed.
    """
    record = copy.deepcopy(draw(st.sampled_from(valid)))
    changed = parts(record)
    for _ in range(draw(st.integers(1, 3))):
        places = _places(draw(st.sampled_from(changed)))
        if not places:
            continue
        container, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(_CHANGES)):
            case "leaf":
                container[key] = draw(LEAVES)
            case "number":
                container[key] = draw(_like(container[key]))
            case "json":
                container[key] = draw(JSON)
            case "del":
                del container[key]
            case "add" if isinstance(container, dict):
                container[draw(TEXTS)] = draw(JSON)
            case "swap":
                other = draw(st.sampled_from(valid))
                values = [c[k] for c, k in _places(other)]
                container[key] = copy.deepcopy(draw(st.sampled_from(values)))
    return record


def _like(old: Any) -> st.SearchStrategy[Any]:
    """Returns a strategy for values of the same type, invalid only by their size."""
    match old:
        case bool():
            return st.booleans()
        case int():
            return NUMBERS.filter(lambda n: isinstance(n, int))
        case float():
            return NUMBERS.filter(lambda n: abs(n) < 1e308).map(float)
        case list():
            return st.lists(NUMBERS, max_size=40)
        case _:
            return st.just(old)
