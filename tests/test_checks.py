"""Bounds that an option's type declares: enforced, with the same words everywhere."""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annotated_types import (
    Ge,
    Gt,
    Interval,
    IsFinite,
    Le,
    Lt,
    MaxLen,
    MultipleOf,
    Predicate,
)

from jaxdiff.checks import (
    Checked,
    DiskPath,
    Seed,
    bounds_of,
    check_fields,
    check_value,
    field_types,
)
from jaxdiff.errors import InputError
from jaxdiff.evaluation.features import Features
from jaxdiff.samplers import DDIM, DPMSolver, Euler
from jaxdiff.serialization import union_members
from jaxdiff.training.experiment import Experiment

NAN, INF = math.nan, math.inf


def classes(cls: Any) -> set[type]:
    """Returns an option class and all option classes that its fields can hold."""
    found = {cls}
    for hint in field_types(cls).values():
        members = union_members(hint) or (hint,)
        for member in filter(dataclasses.is_dataclass, members):
            found |= classes(member)
    return found


CLASSES = sorted(
    {c for cls in (Experiment, *get_args(Features)) for c in classes(cls)},
    key=lambda cls: (cls.__qualname__, cls.__module__),
)


def probes(hint: Any) -> Iterator[tuple[Any, bool]]:
    """Yields values at the bounds of a type, with True if a value obeys all bounds."""
    kinds = get_args(hint)
    if get_origin(hint) is tuple:
        for value, keeps in probes(kinds[0]):
            yield (value,), keeps
    elif get_origin(hint) is Literal:
        yield from ((choice, True) for choice in kinds)
        yield f"{kinds[0]}?", False
    elif type(None) in kinds:
        yield None, True
        yield from probes(kinds[0])
    elif get_origin(hint) is Annotated and hint is not DiskPath:
        kind = kinds[0]
        for bound in kinds[1:]:
            for part in bound if isinstance(bound, Interval) else [bound]:
                yield from probes_of_a_bound(part, kind)
        if kind is float:
            yield NAN, False


def probes_of_a_bound(bound: Any, kind: type) -> Iterator[tuple[Any, bool]]:
    def beside(value: Any, side: int) -> Any:
        return value + side if kind is int else math.nextafter(value, side * INF)

    match bound:
        case Gt(limit):
            yield from [(kind(limit), False), (beside(limit, 1), True)]
        case Ge(limit):
            yield from [(beside(limit, -1), False), (kind(limit), True)]
        case Lt(limit):
            yield from [(kind(limit), False), (beside(limit, -1), True)]
        case Le(limit):
            yield from [(beside(limit, 1), False), (kind(limit), True)]
        case MultipleOf(2):
            yield from [(8, True), (9, False)]
        case Predicate(math.isfinite):
            yield from [(INF, False), (-INF, False)]
        case _:
            raise AssertionError(bound)


FIELDS = [
    pytest.param(cls, name, hint, id=f"{cls.__qualname__}.{name}")
    for cls in CLASSES
    for name, hint in field_types(cls).items()
    if list(probes(hint))
]


def made(cls: Any, name: str, value: Any) -> Any:
    """Makes options with a value in a field; a schedule checks fields when built."""
    options = cls(**{name: value})
    return options if isinstance(options, Checked) else options.build()


@pytest.mark.parametrize(("cls", "name", "hint"), FIELDS)
def test_a_field_is_held_against_its_bounds(cls, name, hint):
    options = copy.copy(cls())
    for value, keeps in probes(hint):
        object.__setattr__(options, name, value)
        if keeps:
            check_fields(options)
        else:
            with pytest.raises(InputError, match=rf"^{name} must (be|lie) .*, got "):
                check_fields(options)
            with pytest.raises(InputError, match=rf"^{name} must (be|lie) .*, got "):
                made(cls, name, value)


def test_every_number_has_bounds_but_for_these():
    bounded = {param.id for param in FIELDS}
    numbers = {
        f"{cls.__qualname__}.{name}"
        for cls in CLASSES
        for name, hint in field_types(cls).items()
        if {int, float} & {hint, *get_args(hint)}
    }
    assert {"Training.num_steps", "Upkeep.keep_best", "VE.rho"} <= bounded
    assert numbers - bounded == {
        "Betas.betas", "Leading.offset", "LogNormal.mean", "LossHistory.warmup_steps",
        "P2.gamma", "Sigmoid.start", "Sigmoid.end", "SigmoidWeighting.bias",
        "Times.times", "Training.ema_lengths", "VE.sigma_min", "VE.sigma_max",
        "VP.beta_min", "VP.beta_max",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hint", "value", "words"),
    [
        (Annotated[int, Ge(1)], 0, "be at least 1, got 0"),
        (Annotated[int, Ge(1)], -(10**200), r"be at least 1, got -10*\.\.\."),
        (Annotated[int, Ge(4), MultipleOf(2)], 3, "be at least 4, got 3"),
        (Annotated[int, Ge(4), MultipleOf(2)], 5, "be even, got 5"),
        (
            Annotated[int, Ge(1), Le(10**6)],
            10**6 + 1,
            "be at most 1000000, got 1000001",
        ),
        (Annotated[int, Interval(ge=1, le=9)], 10, r"lie in 1\.\.9, got 10"),
        (Seed, -1, r"lie in 0\.\.2\^32 - 1, got -1"),
        (Annotated[float, Gt(0)], 0, "be above 0, got 0"),
        (Annotated[float, Gt(0)], np.float32(-0.5), "be above 0, got -0.5"),
        (Annotated[float, Lt(2)], 2.0, "be below 2, got 2"),
        (Annotated[float, Ge(0.1)], NAN, r"be at least 0\.1, got nan"),
        (Annotated[float, Interval(ge=0, lt=1)], 1.0, r"lie in \[0, 1\), got 1"),
        (Annotated[float, Interval(gt=0, le=1)], 0.0, r"lie in \(0, 1\], got 0"),
        (IsFinite[Annotated[float, Gt(0)]], INF, "be finite, got inf"),
        (Annotated[int, Ge(1)] | None, 0, "be at least 1, got 0"),
        (tuple[Annotated[int, Ge(1)], ...], (2, 0), r"be at least 1, got \(2, 0\)"),
        (Literal["a", "b"], "c", "be 'a' or 'b', got 'c'"),
        (Literal["a", "b", "c"] | None, 1, "be 'a', 'b' or 'c', got 1"),
        (Literal[1, 3], 2, "be 1 or 3, got 2"),
    ],
)
def test_the_words_of_a_refusal(hint, value, words):
    with pytest.raises(InputError, match=f"^x must {words}$"):
        check_value("x", value, hint)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, ""),
        (Literal["a", "b"], ""),
        (Seed, "in 0..2^32 - 1"),
        (Annotated[int, Ge(4), MultipleOf(2)] | None, "at least 4, even"),
        (tuple[Annotated[float, Gt(0)], ...], "above 0"),
    ],
)
def test_the_words_for_help(hint, words):
    assert bounds_of(hint) == words


def test_a_bound_without_words_is_a_defect():
    with pytest.raises(NotImplementedError):
        check_value("x", "abc", Annotated[str, MaxLen(2)])


def test_what_is_traced_is_not_looked_at():
    def noise(eta, churn):
        return DDIM(eta=eta).eta + Euler(churn=churn).churn

    assert jax.jit(noise)(-1.0, -2.0) == -3
    assert jax.grad(noise, argnums=(0, 1))(-1.0, -2.0) == (1, 1)
    assert jax.tree.map(jnp.negative, DDIM(eta=0.5)).eta == -0.5


def test_a_part_of_a_number_is_no_whole_number():
    for value in (1.5, float("nan"), float("inf")):
        with pytest.raises(
            InputError, match=f"order must be a whole number, got {value}"
        ):
            DPMSolver(order=value)  # type: ignore[arg-type]
    assert DPMSolver(order=2.0).order == 2  # type: ignore[arg-type]


def test_types_that_are_not_there_have_no_bounds():
    @dataclasses.dataclass(frozen=True)
    class Own(Checked):
        size: "Unknown" = 1  # type: ignore[name-defined]  # noqa: F821

    assert Own().size == 1
