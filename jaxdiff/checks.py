"""Checks of ranges and shapes, of options and of arrays.

An option class declares the bounds of its fields in their types,

    batch_size: Annotated[int, Ge(1)] = 128
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.9999

and derives from `Checked`. A single bound reads "must be at least 1", an `Interval`
"must lie in [0, 1)". Rules across fields stay code, in `__post_init__`.
"""

import math
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import cache, partial
from numbers import Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import jax
import numpy as np
from annotated_types import (
    BaseMetadata,
    Ge,
    Gt,
    Interval,
    Le,
    Lt,
    MultipleOf,
    Predicate,
)

from jaxdiff.errors import InputError, shown

MOST_STEPS = 1_000_000
"""Largest number of steps; the tables of a mistyped number would fill the memory."""
NumSteps = Annotated[int, Ge(1), Le(MOST_STEPS)]
"""Number of steps."""
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
"""Unsigned 32-bit number."""
Share = Annotated[float, Interval(ge=0, lt=1)]
"""Rate, or decay of an average, in [0, 1)."""


class Checked:
    """Base of the option classes; checks fields against the bounds in their types."""

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(options: Any) -> None:
    """Checks that all fields lie in the bounds, or choices, that their types declare.

    Only numbers are compared with bounds. Tracers, which JAX puts into fields, are
    skipped.

    Raises:
        InputError: a field is out of its bounds.
    """
    cls: Any = type(options)
    for name, hint in field_types(cls).items():
        check_value(name, getattr(options, name), hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Checks that a value lies in the bounds, or choices, that a type declares.

    Raises:
        InputError: the value is out of the bounds.
    """
    for rule in _rules(hint):
        if not rule.holds(value):
            verb = "lie" if rule.words.startswith("in ") else "be"
            show = "{:g}".format if isinstance(value, float | np.floating) else shown
            raise InputError(f"{name} must {verb} {rule.words}, got {show(value)}")


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields, with the bounds that they declare.

    A user's class may name types that do not exist at run time. Its fields have no
    bounds.
    """
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError:
        return {}
    return {field.name: hints[field.name] for field in fields(cls)}


def bounds_of(hint: Any) -> str:
    """Returns the bounds that a type declares, such as "at least 1", or "" if none."""
    return ", ".join(rule.words for rule in _rules(hint) if rule.is_bound)


_BOUNDS = (BaseMetadata, Interval)


class _Rule(NamedTuple):
    words: str  # such as "at least 1"
    holds: Callable[[Any], bool]
    is_bound: bool = True


@cache
def _rules(hint: Any) -> tuple[_Rule, ...]:
    """Returns the rules of a type; for a tuple, the rules of each of its values."""
    origin, kinds = get_origin(hint), get_args(hint)
    if hint is int:
        return (_Rule("a whole number", _is_whole, is_bound=False),)
    if origin is Annotated:
        bounds = [bound for bound in kinds[1:] if isinstance(bound, _BOUNDS)]
        return _rules(kinds[0]) + tuple(_rule(bound, kinds[0]) for bound in bounds)
    if origin is Literal:
        *most, last = map(repr, kinds)
        words = f"{', '.join(most)} or {last}"
        return (_Rule(words, lambda value: value in kinds, is_bound=False),)
    if origin is tuple:
        return _lifted(lambda holds, value: all(map(holds, value)), kinds[0])
    if origin in (Union, UnionType) and kinds[1:] == (NoneType,):
        return _lifted(lambda holds, value: value is None or holds(value), kinds[0])
    return ()


def _is_whole(value: Any) -> bool:
    return not isinstance(value, Real) or float(value).is_integer()


def _lifted(lift: Callable[..., bool], hint: Any) -> tuple[_Rule, ...]:
    """Returns the rules of a type, applied to a container of its values."""
    return tuple(r._replace(holds=partial(lift, r.holds)) for r in _rules(hint))


def _rule(bound: Any, kind: type) -> _Rule:
    """Returns the rule of a bound; it accepts all values that are not numbers."""
    words, holds = _bound(bound, kind)
    return _Rule(words, lambda value: not isinstance(value, Real) or holds(value))


def _bound(bound: Any, kind: type) -> tuple[str, Callable[[Any], bool]]:
    """Returns the words of a bound, and a function that checks a number against it."""
    match bound:
        case Gt(least):
            return f"above {least}", partial(operator.lt, least)
        case Ge(least):
            return f"at least {least}", partial(operator.le, least)
        case Lt(most):
            return f"below {most}", partial(operator.gt, most)
        case Le(most):
            return f"at most {most}", partial(operator.ge, most)
        case MultipleOf(2):
            return "even", lambda value: value % 2 == 0
        case Predicate(math.isfinite):
            return "finite", math.isfinite
        case Interval():
            parts = [_bound(part, kind)[1] for part in bound]
            return _interval(bound, kind), lambda value: all(p(value) for p in parts)
    raise NotImplementedError(bound)


def _interval(bound: Any, kind: type) -> str:
    """Returns an interval in words: "in 1..1000" for integers, else "in [0, 1)"."""
    if kind is int:
        most = f"2^{bound.lt.bit_length() - 1} - 1" if bound.lt else bound.le
        return f"in {bound.ge}..{most}"
    low = f"({bound.gt}" if bound.ge is None else f"[{bound.ge}"
    high = f"{bound.lt})" if bound.le is None else f"{bound.le}]"
    return f"in {low}, {high}"


def concrete(array: Any) -> np.ndarray | None:
    """Returns the array's values for a check, or None if `jit` traces the array.

    The checks must use NumPy: inside `jit`, even `jnp.min` of a constant is traced.
    """
    return None if isinstance(array, jax.core.Tracer) else np.asarray(array)


def check_seed(seed: int) -> None:
    """Checks that a seed is an unsigned 32-bit number.

    Raises:
        InputError: the seed is out of range.
    """
    check_value("seed", seed, Seed)


def is_finite(value: float) -> bool:
    """Returns True if a number is finite in float32, the type of the computation."""
    return abs(value) <= float(np.finfo(np.float32).max)


def check_finite(options: Any, prefix: str = "") -> None:
    """Checks that all floats in nested options are finite in float32.

    A larger number would become infinite in float32, and JSON has no infinite numbers.

    Raises:
        InputError: a field has another number.
    """
    for field in fields(options):
        value, name = getattr(options, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            check_finite(value, f"{name}.")
        elif isinstance(value, float) and not is_finite(value):
            raise InputError(f"{name} must be a finite float32, got {value:g}")


VISIBLE_SIGNAL = 0.05
"""Share of the image's contrast in the last level above which a schedule warns."""


_TRAINED = ContextVar("trained", default=False)


@contextmanager
def of_a_trained_model() -> Iterator[None]:
    """Turns `warn_visible_signal` off: a trained model keeps its schedule."""
    token = _TRAINED.set(True)
    try:
        yield
    finally:
        _TRAINED.reset(token)


def warn_visible_signal(left: float) -> None:
    """Warns if the last level of a schedule keeps a visible share of the signal."""
    if left > VISIBLE_SIGNAL and not _TRAINED.get():
        warnings.warn(
            f"the last step keeps {left:.3g} of the signal (alphas_bar = "
            f"{left**2:.3g}), so sampling starts from noise that the network was not "
            "trained on. Use more steps or larger betas.",
            stacklevel=4,
        )


def check_range(name: str, array: Any, size: int) -> None:
    """Checks that integers lie in 0..size-1; traced integers are skipped.

    Raises:
        InputError: an integer is out of range.
    """
    values = concrete(array)
    if values is not None and values.size:
        worst = values.min() if values.min() < 0 else values.max()
        if not 0 <= worst < size:
            raise InputError(f"{name} must lie in 0..{size - 1}, got {worst}")


def above_0(value: Any) -> bool:
    """Returns True if a number is concrete and above 0."""
    known = concrete(value)
    return known is not None and bool(known > 0)
