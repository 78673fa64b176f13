"""Loops of diffusers' UnCLIPScheduler, compared with that library.

The "network" is x (t + 9) / (t + 20), followed by a variance in [-1, 1] if there is a
learned one.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_export import scheduler_record
from jaxdiff.pretrained.schedulers import read_scheduler
from jaxdiff.pretrained.schedulers_unclip import unclip_scheduler_of
from jaxdiff.samplers.ancestral import FixedLarge
from tests.helpers.pytorch import diffusers, torch
from tests.pretrained.test_schedulers import Noise

NAME = "UnCLIPScheduler"
CASES: list[dict[str, Any]] = [
    {"prediction_type": "sample", "clip_sample_range": 5.0},
    {"variance_type": "learned_range"},
    {},
    {"prediction_type": "sample", "clip_sample": False, "num_train_timesteps": 300},
    {
        "variance_type": "learned_range", "prediction_type": "sample",
        "clip_sample_range": 0.4, "num_train_timesteps": 1713,
    },
    {"clip_sample_range": 12.0, "num_train_timesteps": 60},
]  # fmt: skip
CLOSE, CLOSE_IN_FLOAT32 = 2e-5, 4e-4
"""Largest differences, in parts of the largest number. Their tables are float32; the
smaller one is of tables in float64."""


def network(x: Any, t: Any) -> Any:
    return x * ((t + 9) / (t + 20))


@dataclasses.dataclass(frozen=True)
class Learned:
    """The network with a variance, if it is learned, as a Flax module sees it."""

    learned: bool

    def apply(
        self, variables: Any, x_t: Any, t: Any, labels: Any = None, keys: Any = None
    ) -> Any:
        found = network(x_t, t.astype(x_t.dtype)[:, None, None, None])
        return jnp.concatenate([found, jnp.sin(x_t)], -1) if self.learned else found


class Repeatable(Noise):
    """Noise that can be drawn again."""

    def restart(self) -> None:
        """Draws the same noise again."""
        self.__init__()  # type: ignore[misc]


def in_float64(scheduler: Any) -> Any:
    """Returns the scheduler with tables in float64."""
    places = np.arange(scheduler.config.num_train_timesteps + 1)
    share = places / scheduler.config.num_train_timesteps
    signal = np.cos((share + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = torch.from_numpy(np.minimum(1 - signal[1:] / signal[:-1], 0.999))
    np.testing.assert_allclose(betas, scheduler.betas, rtol=1e-6)
    scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    return scheduler


def theirs(scheduler: Any, x: np.ndarray, num_steps: int, learned: bool) -> Any:
    """Returns the result of a loop of their pipeline, and its times."""
    scheduler.set_timesteps(num_steps)
    image = torch.from_numpy(x.transpose(0, 3, 1, 2))
    times = [*scheduler.timesteps, None]
    for t, after in itertools.pairwise(times):
        output = network(image, t)
        if learned:
            output = torch.cat([output, image.sin()], 1)
        image = scheduler.step(output, t, image, prev_timestep=after).prev_sample
    return image.numpy().transpose(0, 2, 3, 1), [int(t) for t in times[:-1]]


def compare(monkeypatch, options: dict[str, Any], num_steps: int) -> None:
    drawn = Repeatable()
    module = "diffusers.schedulers.scheduling_unclip"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda shape, **_: drawn(
        (shape[0], 3, *shape[2:])
    ))  # fmt: skip
    learned = options.get("variance_type") == "learned_range"
    if learned:  # they draw noise for the image alone
        monkeypatch.setattr(f"{module}.randn_tensor", drawn)
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    made = diffusers.UnCLIPScheduler(**options)
    rounded, times = theirs(made, x, num_steps, learned)
    drawn.restart()
    wanted, _ = theirs(in_float64(made), x, num_steps, learned)
    scheduler = read_scheduler({"_class_name": NAME, **options}, "a file")
    schedule = scheduler.schedule().build()
    sampling = scheduler.sampling(schedule, num_steps)
    assert np.asarray(sampling.sampler.grid(schedule).t)[:-1].tolist() == times
    denoiser: Any = jd.bind(Learned(learned), {}, None, scheduler.prediction(learned))
    if sampling.clip:
        limit = sampling.clip_range or 1.0
        denoiser = jd.clip_x0(denoiser, -limit, limit)
    noise = np.stack([*drawn.drawn, np.zeros((2, 3, 4, 4))]).transpose(0, 1, 3, 4, 2)
    sampler: Any = sampling.sampler
    exact = dataclasses.replace(
        sampler, spacing=dataclasses.replace(sampler.spacing, data_alpha=1.0)
    )
    for given, result, close in (
        (exact, wanted, CLOSE), (sampler, rounded, CLOSE_IN_FLOAT32)
    ):  # fmt: skip
        found = jd.sample(
            denoiser, given, schedule, jax.random.key(0), x.shape,
            x_T=jnp.asarray(x), noise=jnp.asarray(noise, jnp.float32),
        )  # fmt: skip
        assert np.isfinite(result).all()
        assert result.std() > 0.05
        assert np.abs(found - result).max() < close * np.abs(result).max(), options


@pytest.mark.parametrize("options", CASES[:2], ids=["prior", "decoder"])
def test_a_loop_gives_what_theirs_gives(monkeypatch, options):
    compare(monkeypatch, options, 5)


@pytest.mark.long
@pytest.mark.parametrize("num_steps", [2, 7, 25, 50])
@pytest.mark.parametrize("place", range(len(CASES)))
def test_every_setting_gives_what_theirs_gives(monkeypatch, place, num_steps):
    compare(monkeypatch, CASES[place], num_steps)


@pytest.mark.parametrize("options", CASES)
def test_a_scheduler_is_written_as_it_was_read(options):
    scheduler = read_scheduler({"_class_name": NAME, **options}, "a file")
    learned = options.get("variance_type") == "learned_range"
    sampling = scheduler.sampling(scheduler.schedule().build(), 7)
    prediction = scheduler.prediction(learned)
    found, count = unclip_scheduler_of(scheduler.schedule(), prediction, sampling)
    assert (found, count) == (scheduler, 7)
    assert read_scheduler(scheduler_record(found), "a file") == scheduler


def test_what_it_does_not_have_is_one_line():
    scheduler: Any = read_scheduler({"_class_name": NAME}, "a file")
    options = scheduler.schedule()
    with pytest.raises(InputError, match="num_steps must be at least 2 for an UnCLIP"):
        scheduler.sampling(options.build(), 1)
    sampling = scheduler.sampling(options.build(), 5)
    sampler = dataclasses.replace(sampling.sampler, variance=FixedLarge())
    other = dataclasses.replace(sampling, sampler=sampler)
    prediction = scheduler.prediction(False)
    for given in (
        (options, prediction, other),
        (jd.Linear(), prediction, sampling),
        (options, jd.predictions.V(), sampling),
    ):
        with pytest.raises(InputError, match="must be sampled as in an UnCLIPSched"):
            unclip_scheduler_of(*given)
