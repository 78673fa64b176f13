"""Checks of ranges and shapes, of options and of arrays.

An option class declares the bounds of its fields in their types,

    batch_size: Annotated[int, Ge(1)] = 128
    ema_decay: Annotated[float, Interval(ge=0, lt=1)] = 0.9999

and derives from `Checked`. A single bound reads "must be at least 1", an `Interval`
"must lie in [0, 1)". Rules across fields stay code, in `__post_init__`.
"""

import math
import operator
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass, replace
from functools import cache, partial
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import jax
import jax.numpy as jnp
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
DiskPath = Annotated[str, "a path"]
"""Path of a file or folder; see `with_absolute_paths`."""

Options = TypeVar("Options")


class Checked:
    """Base of the option classes; checks fields against the bounds in their types."""

    def __post_init__(self) -> None:
        check_fields(self)


def check_fields(options: Any) -> None:
    """Checks that all fields lie in the bounds, or choices, that their types declare.

    NumPy numbers, whole floats for integers, lists for tuples and `os.PathLike` objects
    for text become the plain values that they stand for. Only numbers are compared with
    bounds. Tracers, which JAX puts into fields, are skipped.

    Raises:
        InputError: a field is out of its bounds.
    """
    cls: Any = type(options)
    for name, hint in field_types(cls).items():
        check_value(name, getattr(options, name), hint)
    make_plain(options)


def make_plain(options: Any) -> None:
    """Replaces values of the fields by the plain values of their types; in place.

    The values stay equal, except paths. Values of other types stay as they are.
    """
    cls: Any = type(options)
    for name, hint in field_types(cls).items():
        plain = _plain(getattr(options, name), hint)
        if plain is not getattr(options, name):
            object.__setattr__(options, name, plain)


def _plain(value: Any, hint: Any) -> Any:
    """Returns the plain value of a type for one that stands for it; else the value."""
    hint = bare(hint)
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType) and kinds[1:] == (NoneType,):
        return _plain(value, kinds[0])
    if origin is tuple and isinstance(value, list | tuple):
        parts = tuple(_plain(part, kinds[0]) for part in value)
        same = isinstance(value, tuple) and all(map(operator.is_, parts, value))
        return value if same else parts
    if hint is int and isinstance(value, float | np.floating) and _is_whole(value):
        return int(value)
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


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


def with_absolute_paths(options: Options) -> Options:
    """Returns nested options whose fields of the type `DiskPath` are absolute paths.

    They mean the same from another working directory. Empty paths stay empty.
    """
    cls: Any = type(options)
    changes: dict[str, Any] = {}
    for name, hint in field_types(cls).items():
        old = new = getattr(options, name)
        if isinstance(old, str) and old and DiskPath in (hint, *get_args(hint)):
            new = os.path.abspath(os.path.expanduser(old))
        elif is_dataclass(old):
            new = with_absolute_paths(old)
        if new is not old:
            changes[name] = new
    return replace(cast(Any, options), **changes) if changes else options


def bare(hint: Any) -> Any:
    """Returns a type without the bounds that it declares."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def holds_float(hint: Any) -> bool:
    """Returns True for the type of a number, with or without bounds or None."""
    if get_origin(hint) in (Annotated, Union, UnionType):
        return any(map(holds_float, get_args(hint)))
    return hint is float


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
    if hint is float:
        return (_Rule("a number", _is_number, is_bound=False),)
    if origin is Annotated:
        bounds = [bound for bound in kinds[1:] if isinstance(bound, _BOUNDS)]
        return _rules(kinds[0]) + tuple(_rule(bound, kinds[0]) for bound in bounds)
    if origin is Literal:
        *most, last = map(repr, kinds)
        words = f"{', '.join(most)} or {last}"
        return (_Rule(words, lambda value: value in kinds, is_bound=False),)
    if origin is tuple:
        rules = _lifted(lambda holds, value: all(map(holds, value)), kinds[0])
        return (_Rule("a tuple", _is_tuple, is_bound=False), *rules)
    if origin in (Union, UnionType) and kinds[1:] == (NoneType,):
        return _lifted(lambda holds, value: value is None or holds(value), kinds[0])
    return ()


def _is_whole(value: Any) -> bool:
    if isinstance(value, Real):  # a large integer does not fit into a float
        return isinstance(value, Integral) or float(value).is_integer()
    return _is_number(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Integral) or math.isfinite(value)


def _is_number(value: Any) -> bool:
    return not isinstance(value, str)


def _is_tuple(value: Any) -> bool:
    return isinstance(value, tuple | list)


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
            return "finite", _is_finite
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


def check_object(name: str, value: Any, *needs: str) -> None:
    """Checks that a value is an object, not its class, and has these attributes.

    Raises:
        InputError: the value is a class, or lacks an attribute.
    """
    if isinstance(value, type):
        raise InputError(
            f"{name} must be an object, got the class. Write {value.__name__}()."
        )
    missing = [need for need in needs if not hasattr(value, need)]
    if missing:
        raise InputError(
            f"{name} must have {' and '.join(missing)}, got {type(value).__name__} "
            "without. Define each, as jaxdiff.typing describes it."
        )


def check_built(schedule: Any, *needs: str) -> None:
    """Checks that a schedule is built, and has these attributes besides `level`.

    Raises:
        InputError: the schedule is its options or a class, or lacks an attribute.
    """
    if hasattr(schedule, "build") and not hasattr(schedule, "level"):
        kind = getattr(schedule, "__name__", type(schedule).__name__)
        raise InputError(
            f"schedule must be a built schedule, got {kind}. Call its method build()."
        )
    check_object("schedule", schedule, "level", *needs)


def concrete(array: Any) -> np.ndarray | None:
    """Returns the array's values for a check, or None if `jit` traces the array.

    The checks must use NumPy: inside `jit`, even `jnp.min` of a constant is traced.
    """
    return None if isinstance(array, jax.core.Tracer) else np.asarray(array)


def check_untraced(name: str, values: Any, remedy: str) -> None:
    """Checks that JAX traces none of the leaves of a pytree.

    Raises:
        InputError: a leaf is a tracer, as an argument is inside `jit`.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values)):
        raise InputError(f"{name} must have known values, got traced ones. {remedy}.")


def check_seed(seed: int) -> None:
    """Checks that a seed is an unsigned 32-bit number.

    Raises:
        InputError: the seed is out of range.
    """
    check_value("seed", seed, Seed)


def is_finite(value: float) -> bool:
    """Returns True if a number is finite in float32, the type of the computation."""
    return abs(value) <= float(np.finfo(np.float32).max)


VISIBLE_SIGNAL = 0.05
"""Share of the image's contrast in the last level above which a schedule warns."""


_ANY_SIGNAL = ContextVar("any last signal", default=False)


@contextmanager
def any_last_signal() -> Iterator[None]:
    """Turns `warn_visible_signal` off, as for the schedule of a trained model."""
    token = _ANY_SIGNAL.set(True)
    try:
        yield
    finally:
        _ANY_SIGNAL.reset(token)


def warn_visible_signal(left: float) -> None:
    """Warns if the last level of a schedule keeps a visible share of the signal."""
    if left > VISIBLE_SIGNAL and not _ANY_SIGNAL.get():
        warnings.warn(
            f"the last step keeps {left:.3g} of the signal (alphas_bar = "
            f"{left**2:.3g}), so sampling starts from noise that the network was not "
            "trained on. Use more steps or larger betas.",
            stacklevel=4,
        )


def at_least_float32(name: str, x: Any) -> jax.Array:
    """Returns an array of floats in its type, but at least float32.

    Raises:
        InputError: the array is not floating point.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(
            f"{name} must be floating point, got {x.dtype}. Scale images to [-1, 1]."
        )
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


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
