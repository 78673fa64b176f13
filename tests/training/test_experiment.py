"""Options out of range raise errors with their name and value."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import TFDS, Digits, ImageFolder
from jaxdiff.denoisers.predictions import Eps
from jaxdiff.errors import InputError
from jaxdiff.networks import UNetConfig
from jaxdiff.networks.time_embedding import Fourier, Sinusoids
from jaxdiff.samplers import DDIM, DDPM, Karras, Leading
from jaxdiff.schedules.continuous import VE, RectifiedFlow
from jaxdiff.schedules.discrete import (
    Cosine,
    Linear,
    Quadratic,
    Sigmoid,
    ZeroTerminalSNR,
)
from jaxdiff.serialization import from_dict, to_dict
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        *((Training, "num_steps", v) for v in (0, -1)),
        *((Training, "batch_size", v) for v in (0, -8)),
        *((Training, "ema_decay", v) for v in (-0.1, 1.0, 1.5, NAN)),
        *(
            (Training, "ema_lengths", v)
            for v in ((0.0,), (0.1, 0.3), (0.1, 0.1), (NAN,))
        ),
        *((Upkeep, "log_every", v) for v in (0, -1)),
        *((Upkeep, "checkpoint_every", v) for v in (0, -100)),
        *((Upkeep, "keep_every", v) for v in (0, -100, 150)),
        *((Upkeep, "keep", v) for v in (0, -1)),
        *((Upkeep, "sample_every", v) for v in (0, -100)),
        *((Upkeep, "sample_steps", v) for v in (0, -1)),
        *((Upkeep, "snapshots", v) for v in (0, -1)),
        *((Sampling, "chunk", v) for v in (0, -1)),
        *((Experiment, "seed", v) for v in (-1, 2**32)),
        *((Optimizer, "learning_rate", v) for v in (0.0, -0.5, NAN)),
        *((Optimizer, "warmup_steps", v) for v in (-1, -100)),
        *((Optimizer, "beta_1", v) for v in (-0.1, 1.0, NAN)),
        *((Optimizer, "beta_2", v) for v in (-0.1, 1.0, NAN)),
        *((Optimizer, "epsilon", v) for v in (0.0, -1e-8, NAN)),
        *((Optimizer, "weight_decay", v) for v in (-0.1, NAN)),
        *((Optimizer, "clip_norm", v) for v in (0.0, -1.0, NAN)),
        *((UNetConfig, "channels", v) for v in (0, -4, 2, 5)),
        *((UNetConfig, "multipliers", v) for v in ((), (1, 0), (-1,))),
        *((UNetConfig, "head_channels", v) for v in (0, -1, 3)),
        *((UNetConfig, "smallest_group", v) for v in (0, -1)),
        *((UNetConfig, "epsilon", v) for v in (0.0, 1.0, NAN)),
        *((Fourier, "scale", v) for v in (0.0, -1.0, NAN)),
        *((Sinusoids, "shift", v) for v in (2.0, NAN)),
        *((UNetConfig, "blocks", v) for v in (0, -1)),
        *((UNetConfig, "heads", v) for v in (0, -1, 3)),
        *((UNetConfig, "groups", v) for v in (0, -1)),
        *((UNetConfig, "dropout", v) for v in (-0.1, 1.0, NAN)),
        *((UNetConfig, "label_dropout", v) for v in (-0.1, 1.0, NAN)),
    ],
)
def test_an_option_out_of_range_is_refused_by_name_and_value(cls, field, value):
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    # "field must ..., got value", with no other field's name before it; ema_lengths
    # has a remedy.
    remedy = r"(\. Give the share of the run that each average spans\.)?"
    with pytest.raises(
        InputError, match=rf"^{field} must .*got {re.escape(shown)}{remedy}$"
    ):
        cls(**{field: value})


@pytest.mark.parametrize("field", ["middle", "resample", "padding"])
def test_a_choice_that_there_is_not(field):
    options: dict[str, Any] = {field: "x"}
    with pytest.raises(InputError, match=f"^{field} must be '.*' or '.*', got 'x'$"):
        UNetConfig(**options)


@pytest.mark.parametrize("value", [1.3, math.inf, 1e-9])
def test_levels_of_part_of_a_channel(value):
    with pytest.raises(InputError, match=rf"whole numbers .* got {value:g} times 128"):
        UNetConfig(multipliers=(1, value))


def test_hiding_the_class_needs_a_null_class():
    with pytest.raises(InputError, match=r"got 0\.1\. Set label_dropout to 0"):
        UNetConfig(null_class=False)


def test_too_many_levels_are_refused():
    with pytest.raises(InputError, match=r"multipliers must .* 20 levels, got 20000"):
        UNetConfig(multipliers=(1,) * 20_000)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"optimizer": Optimizer(clip_norm=INF)}, "optimizer.clip_norm"),
        ({"optimizer": Optimizer(clip_norm=1e39)}, "optimizer.clip_norm"),
        ({"schedule": Linear(beta_end=NAN)}, "schedule.beta_end"),
    ],
)
def test_an_experiment_has_finite_numbers(options, path):
    """An experiment with other numbers could be written to a file, but not read."""
    with pytest.raises(InputError, match=f"^{path} must be a finite float32, got"):
        Experiment(**options)


def test_values_that_stand_for_plain_ones_become_plain():
    options = Experiment(
        data=ImageFolder(path=Path("images"), size=np.int64(8), flip=np.True_),  # type: ignore[arg-type]
        init=Path("runs/a"),  # type: ignore[arg-type]
        seed=np.uint32(3),  # type: ignore[arg-type]
        schedule=Linear(num_steps=20.0, beta_end=np.float32(0.5)),  # type: ignore[arg-type]
        network=UNetConfig(multipliers=[1, np.int8(2)]),  # type: ignore[arg-type]
        training=Training(num_steps=2.0, ema_lengths=(np.float64(0.1),)),  # type: ignore[arg-type]
    )
    plain = Experiment(
        data=ImageFolder(path="images", size=8, flip=True),
        init="runs/a",
        seed=3,
        schedule=Linear(num_steps=20, beta_end=0.5),
        network=UNetConfig(multipliers=(1, 2)),
        training=Training(num_steps=2, ema_lengths=(0.1,)),
    )
    assert repr(options) == repr(plain)
    data = json.loads(json.dumps(to_dict(options)))
    assert from_dict(Experiment, data) == plain


class Own(DDPM):
    pass


def untyped(cls: Any, **options: Any) -> Any:
    """Creates options from values that the types forbid."""
    return cls(**options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {"conditional": "no"}, "conditional must be True or False, got 'no'"),
        (lambda: {"seed": jnp.int32(3)}, "seed must be a whole number, got Array"),
        (lambda: {"seed": True}, "seed must be a whole number, got True"),
        (lambda: {"init": 3}, "init must be text or None, got 3"),
        (
            lambda: {"data": untyped(ImageFolder, path=b"x")},
            "data.path must be text, got b'x'",
        ),
        (
            lambda: {"sampling": Sampling(sampler=untyped(DDIM, eta=jnp.ones(())))},
            r"sampling\.sampler\.eta must be a number, got Array\(1",
        ),
        (
            lambda: {"training": untyped(Training, num_steps="8")},
            "a whole number, got '8'",
        ),
        (
            lambda: {"optimizer": untyped(Optimizer, learning_rate="1")},
            "a number, got '1'",
        ),
        (
            lambda: {"network": untyped(UNetConfig, multipliers=2)},
            "must be a tuple, got 2",
        ),
        (lambda: {"schedule": Linear}, r"got the class\. Write Linear\(\)\."),
        (
            lambda: {"schedule": Linear().build()},
            "schedule .* Linear, .*'Schedule'",
        ),
        (lambda: {"sampling": Sampling(sampler=Own())}, r"sampling\.sampler .* 'Own'"),
        (lambda: {"data": "digits"}, "data must be an object of Digits, .*got 'str'"),
    ],
)
def test_an_experiment_that_no_file_can_hold_is_refused_by_name(
    make: Callable[[], Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Experiment(**make())


@pytest.mark.parametrize("spacing", [Leading, Karras])
def test_a_chain_of_too_many_steps_is_refused(spacing):
    with pytest.raises(InputError, match="num_steps must be at most 1000000, got 1000"):
        spacing(num_steps=10**12)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        *(
            (
                s(num_steps=10**12),
                "num_steps must be at most 1000000, got 1000000000000",
            )
            for s in (Linear, Cosine, RectifiedFlow)
        ),
        (
            ZeroTerminalSNR(base=Linear(beta_start=1e-30, beta_end=1e-30)),
            r"betas\[0\] = ",
        ),
        (VE(rho=0.01), "rho must be at least 0.0777 .*, got 0.01"),
        *((s(num_steps=0), "num_steps must .* got 0") for s in (Linear, Quadratic)),
        *((s(num_steps=-2), "num_steps must .* got -2") for s in (Cosine, Sigmoid)),
        (Linear(beta_start=0), "beta_start must .* got 0"),
        (Linear(beta_start=-0.5), "beta_start must .* got -0.5"),
        (Linear(beta_end=1), "beta_end must .* got 1"),
        (Linear(beta_end=NAN), "beta_end must .* got nan"),
        (Quadratic(beta_start=-0.5), "beta_start must .* got -0.5"),
        (Quadratic(beta_start=0), "beta_start must .* got 0"),
        (Quadratic(beta_end=1), "beta_end must .* got 1"),
        (Cosine(offset=-1), "offset must be at least 0, got -1"),
        (Cosine(max_beta=0), "max_beta must .* got 0"),
        (Cosine(max_beta=1), "max_beta must .* got 1"),
        (Sigmoid(start=1, end=1), "start must be less than end, got 1 and 1"),
        (Sigmoid(start=2, end=1), "start must be less than end, got 2 and 1"),
        (Sigmoid(start=NAN), "start must be less than end, got nan and 3"),
        (Sigmoid(tau=0), "tau must be above 0, got 0"),
        (Sigmoid(tau=-1), "tau must be above 0, got -1"),
        (Sigmoid(tau=NAN), "tau must be above 0, got nan"),
        (Sigmoid(max_beta=1.5), "max_beta must .* got 1.5"),
    ],
)
def test_a_schedule_out_of_range_is_not_built(schedule, words):
    with pytest.raises(InputError, match=words) as error:
        schedule.build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cls", "field"), [(Optimizer, "decay"), (UNetConfig, "dtype")]
)
def test_an_unknown_word_is_refused(cls, field):
    with pytest.raises(InputError, match=f"{field} must .*'cosin'"):
        cls(**{field: "cosin"})


@pytest.mark.parametrize("schedule", [Linear, Quadratic])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_an_end_of_the_betas_is_refused_by_its_own_name(schedule, value):
    with pytest.raises(InputError, match=f"beta_end must .* got {value:g}$"):
        schedule(beta_end=value).build()


@pytest.mark.parametrize("channels", [4, 6, 128])
@pytest.mark.parametrize(
    "options",
    [
        {"multipliers": (1,), "heads": 2},
        {"multipliers": (3, 1), "attention": (), "groups": 1},
        {"dropout": 0.0, "label_dropout": 0.0},
        {"dropout": 0.999, "label_dropout": 0.999},
    ],
)
def test_the_ends_of_the_ranges_are_good(channels, options):
    config = UNetConfig(channels=channels, **options)
    assert config.build(1).config == config


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (Training, {"num_steps": 1, "batch_size": 1, "ema_decay": 0.0}),
        (Training, {"ema_lengths": (1e-4, 0.288)}),
        (Upkeep, {"log_every": 1, "checkpoint_every": 1, "keep": 1}),
        (Upkeep, {"log_every": 7, "checkpoint_every": 21}),
        (Sampling, {"chunk": 1}),
        (Experiment, {"seed": 0}),
        (Experiment, {"seed": 2**32 - 1}),
        (Optimizer, {"warmup_steps": 0, "beta_1": 0.0, "beta_2": 0.0}),
        (Optimizer, {"weight_decay": 0.0, "clip_norm": INF}),
    ],
)
def test_what_is_in_range_is_kept_as_given(cls, options):
    made = cls(**options)
    assert {name: getattr(made, name) for name in options} == options


@pytest.mark.parametrize("options", [{"bogus": 1}, {"num_step": 3}])
@pytest.mark.parametrize("cls", [Experiment, Training, Upkeep, Sampling, Optimizer])
def test_an_option_that_is_none_is_pythons_own_mistake(cls: Any, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        cls(**options)


def test_options_are_given_by_name_alone():
    classes: list[Any] = [Experiment, Training, Upkeep, Sampling, Optimizer, Linear]
    for cls in classes:
        with pytest.raises(TypeError, match="positional"):
            cls(1)


def test_the_defaults_are_those_of_ddpm():
    """Ho et al. 2020, section 4 and appendix B, for CIFAR-10."""
    experiment = Experiment()
    assert experiment.schedule == Linear(num_steps=1000, beta_start=1e-4, beta_end=0.02)
    assert experiment.prediction == Eps()
    assert experiment.optimizer == Optimizer(
        learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0, weight_decay=0.0
    )
    assert experiment.training == Training(
        num_steps=800_000, batch_size=128, ema_decay=0.9999
    )
    assert experiment.sampling.sampler == DDPM()
    assert experiment.network == UNetConfig(multipliers=(1, 2, 2, 2))
    assert (Digits().flip, TFDS().flip) == (False, True)
