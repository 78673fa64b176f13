"""Small images as a condition: the operator, the noise and its level, exact answers.

For Gaussian data x_0 ~ N(m, C) the small image y_s = alpha_s A x_0 + sigma_s e is a
linear measurement. All answers are then known in closed form:

    Cov[x_0 | x_t, y_s]^-1 = C^-1 + (alpha_t / sigma_t)^2 + (alpha_s / sigma_s)^2 A^T A
    E[x_0 | y_s] = m + C A^T (A C A^T + (sigma_s / alpha_s)^2)^-1 (y_s / alpha_s - A m)
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.conditioning.low_resolution import LowResolution, augmentation_level
from jaxdiff.denoisers.inverse_problems import downsample, given_measurement
from jaxdiff.denoisers.network import taken_by
from jaxdiff.errors import InputError
from jaxdiff.networks import (
    CrossAttentionUNetConfig,
    DiTConfig,
    EDM2Config,
    NCSNppConfig,
    UNetConfig,
)
from jaxdiff.runs.run import Run
from jaxdiff.training.experiment import DataInfo, Experiment, Sampling
from jaxdiff.training.initialize import build_model
from jaxdiff.training.task import Diffusion
from tests.helpers.long_parameters import long_where

SIDE, D = 4, 16
LOW = LowResolution(factor=2, augmentation=0.5)
SCHEDULE = jd.Linear(num_steps=200, beta_start=1e-3, beta_end=0.06)
PLACES = np.stack(np.meshgrid(*[np.arange(SIDE)] * 2), -1).reshape(D, 2)
APART = np.abs(PLACES[:, None] - PLACES[None]).sum(-1)
C = 0.3 * 0.7**APART
"""Covariance of the data: neighbours are alike."""
M = np.linspace(-0.5, 0.5, D)
DATA = jd.oracles.Gaussian.of(mean=M.reshape(SIDE, SIDE, 1), covariance=C)
UNIT = np.eye(D, dtype=np.float32).reshape(D, SIDE, SIDE, 1)
A = np.asarray(LOW.reduced(jnp.asarray(UNIT)), float).reshape(D, 4).T
B = np.asarray(LOW.enlarged(jnp.eye(4).reshape(4, 2, 2, 1)), float).reshape(4, D).T


@dataclass(frozen=True)
class Exact:
    """Network that is the exact denoiser of `DATA`, given what it reads.

    Attributes:
        reads: "all", "image" (and takes the noise for 0.05), or "nothing".
    """

    reads: str = "all"
    takes = needs = ("image", "image_level")

    def example_condition(self, image_shape):
        """Returns a condition of one example."""
        return jd.Condition(image=jnp.zeros((1, *image_shape)), image_level=jnp.ones(1))

    def init(self, *args):
        """Returns no parameters."""
        return {"params": {}}

    def apply(self, variables, x, t, condition=None, keys=None):
        """Returns the exact eps."""
        level = SCHEDULE.build().level(t)
        if self.reads == "nothing":
            return DATA(x, level).eps
        noisy = condition.image.reshape(-1, D) @ jnp.asarray(np.linalg.pinv(B).T, float)
        s = condition.image_level if self.reads == "all" else jnp.full(len(x), 0.05)
        told = augmentation_level(s)
        alpha, sigma = told.scales(x)
        denoiser = given_measurement(
            DATA, downsample(2), noisy.reshape(-1, 2, 2, 1) / alpha, sigma / alpha,
            iterations=4,
        )  # fmt: skip
        return denoiser(x, level).eps


def test_small_images_are_area_means_and_enlarged_bicubically():
    images = np.random.default_rng(0).normal(size=(2, 12, 8, 3)).astype(np.float32)
    for factor in (2, 4):
        low = LowResolution(factor=factor)
        small = np.asarray(low.reduced(jnp.asarray(images)))
        shape = (2, 12 // factor, factor, 8 // factor, factor, 3)
        np.testing.assert_allclose(
            small, images.reshape(shape).mean(axis=(2, 4)), atol=1e-6
        )
        large = np.asarray(low.enlarged(jnp.asarray(small)))
        for image, wanted in zip(large[0].T, small[0].T, strict=True):
            found = Image.fromarray(wanted.T.copy(), "F").resize(
                (8, 12), Image.Resampling.BICUBIC
            )
            np.testing.assert_allclose(image.T, np.asarray(found), atol=1e-5)


def test_the_level_is_that_of_the_noise():
    num = 4000
    keys = rng.example_keys(rng.key(0), jnp.arange(num))
    zero, one = (
        np.asarray(LOW.drawn(jnp.full((num, 8, 8, 1), value), keys).image)
        for value in (0.0, 1.0)
    )
    told = np.asarray(LOW.drawn(jnp.zeros((num, 8, 8, 1)), keys).image_level)
    signal = (one - zero).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(signal, np.cos(np.pi / 2 * told), atol=1e-5)
    # Whatever the level, its sigma leaves noise of one deviation.
    unit = (zero / np.sin(np.pi / 2 * told)[:, None, None, None]) ** 2
    parts = [part.mean() for part in np.array_split(unit[np.argsort(told)], 5)]
    np.testing.assert_allclose(parts, np.mean(parts), rtol=0.05)
    alone = LOW.enlarged(rng.normal(keys, (4, 4, 1)))
    np.testing.assert_allclose(np.mean(parts), (alone**2).mean(), rtol=0.03)
    assert 0 <= told.min() < 0.005
    assert 0.495 < told.max() <= 0.5
    np.testing.assert_allclose(told.mean(), 0.25, atol=0.01)


def test_a_condition_depends_on_its_example_alone():
    images = jnp.asarray(np.random.default_rng(1).normal(size=(6, 8, 8, 1)), float)
    keys = rng.example_keys(rng.key(3), jnp.arange(6))
    every, some = LOW.drawn(images, keys), LOW.drawn(images[4:], keys[4:])
    np.testing.assert_array_equal(every.image_level[4:], some.image_level)
    np.testing.assert_allclose(every.image[4:], some.image, atol=1e-6)


def exact_loss(share):
    """Returns the mean of (alpha_t / sigma_t)^2 tr Cov[x_0 | x_t, y_s] / D."""
    schedule = SCHEDULE.build()
    levels = schedule.level(schedule.times)
    ratios = np.asarray(levels.alpha / levels.sigma, float) ** 2
    found = []
    for s in (np.arange(40) + 0.5) / 40 * LOW.augmentation:
        known = share / np.tan(np.pi / 2 * s) ** 2 * A.T @ A
        values = np.linalg.eigvalsh(np.linalg.inv(C) + known)
        # Eigenvectors are those of the sum without x_t, which adds a multiple of 1.
        found.append([r * (1 / (values + r)).mean() for r in ratios])
    return np.mean(found)


def test_a_network_that_ignores_its_condition_has_a_higher_loss():
    num = 20_000
    model = jd.Model(
        Exact(), SCHEDULE.build(), jd.predictions.Eps(), (SIDE, SIDE, 1),
        data_range=None,
    )  # fmt: skip
    images = DATA.draw(jax.random.key(0), num)
    batch = jd.Batch(images, None, jnp.arange(num))
    losses = {}
    for reads in ("all", "image", "nothing"):
        task = Diffusion(replace(model, network=Exact(reads)), condition=LOW)
        loss = jax.jit(task.loss)({}, (), batch, rng.key(1), ())[0]
        losses[reads] = float(loss)
    np.testing.assert_allclose(losses["all"], exact_loss(1), rtol=0.02)
    np.testing.assert_allclose(losses["nothing"], exact_loss(0), rtol=0.02)
    assert losses["all"] < 0.97 * losses["image"]
    assert losses["all"] < 0.9 * losses["nothing"]


@pytest.mark.parametrize("level", [pytest.param(0.0, marks=pytest.mark.long), 0.4])
def test_enlargements_have_the_exact_conditional_mean(level):
    num = 3000
    sampling = Sampling(
        sampler=jd.DPMSolver(spacing=jd.spacing.Trailing(num_steps=50)), clip=False,
        chunk=num,
    )  # fmt: skip
    experiment = Experiment(condition=LOW, schedule=SCHEDULE, sampling=sampling)
    model = jd.Model(Exact(), SCHEDULE.build(), experiment.prediction, (SIDE, SIDE, 1))
    run = Run(experiment, DataInfo((SIDE, SIDE, 1), None, None), model, {}, 0)
    y = np.array([0.9, -0.4, 0.1, -0.8])
    small = np.broadcast_to(y.reshape(1, 2, 2, 1), (num, 2, 2, 1))
    found = run.enlarge(small, None, 0, augmentation=level).reshape(num, D)
    alpha, sigma = np.cos(np.pi / 2 * level), np.sin(np.pi / 2 * level)
    gain = C @ A.T @ np.linalg.inv(A @ C @ A.T + (sigma / alpha) ** 2 * np.eye(4))
    mean = M + gain @ (y - A @ M)
    covariance = C - gain @ A @ C + (sigma / alpha) ** 2 * gain @ gain.T
    error = np.sqrt(np.diag(covariance) / num)
    assert (np.abs(found.mean(axis=0) - mean) < 4 * error + 0.01).all()
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.025)
    if level == 0:
        np.testing.assert_allclose(found @ A.T, small.reshape(num, 4), atol=0.02)


NETWORKS: dict[str, Any] = {
    "unet": UNetConfig(
        channels=4, multipliers=(1,), blocks=1, attention=(), groups=2,
        middle="no-attention",
    ),
    "dit": DiTConfig(width=8, depth=1, heads=2),
    "cross": CrossAttentionUNetConfig(
        widths=(8,), blocks=(1,), down=("plain",), up=("plain",), middle="none",
        heads=(1,), layers=(1,), text_only=(False,), text_channels=None, groups=2,
    ),
    "ncsnpp": NCSNppConfig(channels=32, multipliers=(1,), blocks=1, attention=()),
    "edm2": EDM2Config(
        channels=8, multipliers=(1,), blocks=1, attention=(), head_channels=8
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", long_where(lambda name: name != "dit", NETWORKS))
def test_every_network_takes_the_small_image_and_its_level(name):
    experiment = Experiment(condition=LOW, network=NETWORKS[name])
    model = build_model(experiment, DataInfo((8, 8, 1), 3, None))
    assert {"labels", "image", "image_level"} <= set(taken_by(model.network))
    params = model.init(0)
    draw = np.random.default_rng(0).normal
    # The last layers, and the part of the level, start at zero.
    params = jax.tree.map(lambda a: a + 0.1 * draw(size=a.shape).astype("f"), params)
    x, images = (draw(size=(2, 8, 8, 1)).astype(np.float32) for _ in range(2))
    apply = jax.jit(model.network.apply)

    def output(image, level):
        given = jd.Condition(
            np.array([1, 2]), image=image, image_level=jnp.array(level)
        )
        return apply({"params": params}, x, jnp.array([3.0, 5.0]), given, None)

    first = output(images, [0.1, 0.2])
    for other in (output(images + 0.1, [0.1, 0.2]), output(images, [0.1, 0.4])):
        apart = np.abs(np.asarray(first - other)).max(axis=(1, 2, 3))
        assert apart[1] > 1e-5
    assert apart[0] < 1e-6  # the level of the other image


def test_what_does_not_fit_is_one_error():
    info = DataInfo((8, 8, 1), None, None)
    experiment = Experiment(condition=LOW, network=NETWORKS["unet"])
    with pytest.raises(InputError, match="must divide the images' 8x8 pixels, got 3"):
        build_model(replace(experiment, condition=LowResolution(factor=3)), info)
    with pytest.raises(InputError, match="condition must be none for latents"):
        build_model(experiment, info._replace(data_range=None))
    network = replace(NETWORKS["unet"], condition_channels=3)
    with pytest.raises(InputError, match="condition_channels must be that of the smal"):
        build_model(replace(experiment, network=network), info)
    with pytest.raises(InputError, match="image_level must be off without an image"):
        replace(NETWORKS["unet"], image_level=True)
