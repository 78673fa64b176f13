"""Training of an autoencoder: its loss, its two gradients, and the whole batch.

The gradient of a step is written again from the equations of `losses.autoencoding`, for
the whole batch at once. Devices and accumulated parts must give the same.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.losses.autoencoding import (
    adaptive_weight,
    hinge_loss,
    kl_of_latents,
    pixel_loss,
)
from jaxdiff.networks.classifier import Classifier
from jaxdiff.networks.feature_maps import feature_distance
from jaxdiff.training.autoencoder import Autoencoding, last_layer
from jaxdiff.training.autoencoder_experiment import (
    KL,
    AutoencoderExperiment,
    ClassifierFeatures,
    Tiny,
)
from jaxdiff.training.experiment import DataInfo
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.recipe import Recipe
from jaxdiff.typing import Batch
from tests.helpers.gradients import gradient_of_step

pytestmark = pytest.mark.usefixtures("standard_promotion")
SHAPE = (8, 8, 1)
INFO = DataInfo(SHAPE, 10, None)


class Scales:
    """Autoencoder with a Gaussian, whose parts are products; it compiles at once."""

    def apply(self, variables, x, method):
        params = variables["params"]
        if method == "decode":
            return jnp.tanh(x) * params["decoder"]["conv_out"]["kernel"]
        mean, slope = (params["encoder"][name] for name in ("mean", "slope"))
        return x * mean, jnp.sin(x * slope)


class Critic:
    """Discriminator that compiles at once."""

    def apply(self, variables, x):
        return jnp.sin(x * variables["params"]["kernel"] + 0.3)


def random_params():
    values = np.random.default_rng(1).uniform(0.5, 1.5, (4, 1, *SHAPE))
    mean, slope, kernel, own = values.astype(np.float32)
    return {
        "autoencoder": {
            "encoder": {"mean": mean, "slope": slope},
            "decoder": {"conv_out": {"kernel": kernel}},
        },
        "discriminator": {"kernel": own},
    }


TASK = Autoencoding(
    network=Scales(), image_shape=SHAPE, kl_weight=0.5, discriminator=Critic(),
    start=1, weight=0.5,
)  # fmt: skip
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, *SHAPE)).astype(np.float32)
BATCH = Batch(IMAGES, None, np.arange(8, dtype=np.int32))


def recipe(**options):
    optimizer = Optimizer(learning_rate=1e-2, warmup_steps=0, clip_norm=1e6)
    return Recipe(task=TASK, optimizer=optimizer, num_steps=4, **options)


@pytest.fixture(scope="module")
def state():
    found = recipe().state_of(jax.tree.map(jnp.asarray, random_params()))
    return found._replace(step=jnp.int32(1))


def test_losses_in_closed_form():
    x, y = jnp.zeros((2, 4, 4, 1)), jnp.full((2, 4, 4, 1), 0.5)
    np.testing.assert_allclose(pixel_loss(x, y, "l1"), 0.5)
    np.testing.assert_allclose(pixel_loss(x, y, "l2"), 0.25)
    mean, log_variance = jnp.full((1, 2, 2, 3), 2.0), jnp.full((1, 2, 2, 3), 1.0)
    expected = 12 * (4 + np.e - 1 - 1) / 2
    np.testing.assert_allclose(kl_of_latents(mean, log_variance), expected, rtol=1e-6)
    assert float(kl_of_latents(0 * mean, 0 * mean)[0]) == 0
    real, fake = jnp.array([3.0, 0.5]), jnp.array([-3.0, 1.0])
    assert float(hinge_loss(real, fake)) == (0.25 + 1.0) / 2
    ratio = adaptive_weight(jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(ratio, 5 / 2.0001, rtol=1e-6)


def test_feature_distance_ignores_the_length_of_features():
    network = Classifier(3, 4)
    x, y = jnp.asarray(IMAGES[:4]), jnp.asarray(IMAGES[4:])
    variables = network.init(jax.random.key(0), x)
    kernel = variables["params"]["Conv_0"]["kernel"]
    params = {**variables["params"], "Conv_0": {"kernel": 7 * kernel}}
    found = feature_distance(network, variables, x, y)
    assert found.shape == (4,)
    assert 0.01 < float(found.min()) <= float(found.max()) < 4
    np.testing.assert_allclose(feature_distance(network, variables, x, x), 0, atol=1e-9)
    scaled = feature_distance(network, {"params": params}, x, y)
    np.testing.assert_allclose(scaled, found, rtol=1e-4)


@jax.jit
def by_hand(params: Any, key: Any) -> Any:
    """Gradients of equations (3) and (5), for the whole batch."""
    images = jnp.asarray(IMAGES)
    noise = rng.normal(rng.example_keys(key, jnp.arange(8)), SHAPE)
    critic = partial(TASK.discriminator.apply, {"params": params["discriminator"]})

    def drawn(own: Any) -> Any:
        mean, log_variance = TASK.network.apply(
            {"params": own}, images, method="encode"
        )
        z = mean + jnp.exp(log_variance / 2) * noise
        kl = (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum() / 2 / 8
        return TASK.network.apply({"params": own}, z, method="decode"), kl

    def loss(own: Any) -> Any:
        found, kl = drawn(own)
        return jnp.abs(images - found).mean() + 0.5 * kl / 64

    def fooled(own: Any) -> Any:
        return -critic(drawn(own)[0]).mean()

    def judged(own: Any) -> Any:
        found = jax.lax.stop_gradient(drawn(params["autoencoder"])[0])
        apply = partial(TASK.discriminator.apply, {"params": own})
        return (
            jax.nn.relu(1 - apply(images)) + jax.nn.relu(1 + apply(found))
        ).mean() / 2

    own = params["autoencoder"]
    value, plain = jax.value_and_grad(loss)(own)
    sharper = jax.grad(fooled)(own)
    lengths = [jnp.linalg.norm(last_layer(g).ravel()) for g in (plain, sharper)]
    scale = lengths[0] / (lengths[1] + 1e-4)
    joined = jax.tree.map(lambda a, b: a + 0.5 * scale * b, plain, sharper)
    return value, joined, jax.grad(judged)(params["discriminator"]), scale


@pytest.mark.parametrize(("accumulate", "count"), [(1, 1), (2, 1), (1, 8), (2, 4)])
def test_gradient_is_that_of_the_whole_batch(state, accumulate, count):
    key = jax.random.fold_in(rng.key(0), 1)
    value, own, critic, scale = by_hand(state.params, key)
    found, metrics = gradient_of_step(
        recipe(accumulate=accumulate), state, jd.parallel.Pmap(num_devices=count), BATCH
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["adaptive_weight"], scale, rtol=1e-4)
    for name, expected in (("autoencoder", own), ("discriminator", critic)):
        for a, b in zip(
            jax.tree.leaves(found[name]), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()) + 1e-7)


def test_discriminator_rests_before_its_start(state):
    step = jax.jit(recipe().step)
    before = state._replace(step=jnp.int32(0))
    after, metrics = step(before, BATCH)
    assert float(metrics["adaptive_weight"]) == float(metrics["discriminator"]) == 0
    assert same(before.params["discriminator"], after.params["discriminator"])
    assert not same(before.params["autoencoder"], after.params["autoencoder"])
    after, metrics = step(state, BATCH)
    assert float(metrics["discriminator"]) > 0
    assert not same(state.params["discriminator"], after.params["discriminator"])


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def test_discriminator_has_a_learning_rate_of_its_own(state):
    task = dataclasses.replace(TASK, learning_rate=1e-4)
    optimizer = task.optimizer(Optimizer(learning_rate=1e-2, warmup_steps=0), 4)
    ones = jax.tree.map(jnp.ones_like, state.params)
    updates, _ = optimizer.update(ones, optimizer.init(state.params), state.params)
    rates = {
        n: float(jnp.abs(jax.tree.leaves(one)[0]).max()) for n, one in updates.items()
    }
    np.testing.assert_allclose(rates["autoencoder"], 1e-2, rtol=1e-3)
    np.testing.assert_allclose(rates["discriminator"], 1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "info", "message"),
    [
        ({}, INFO._replace(data_range=None), "data must be images"),
        ({}, INFO._replace(image_shape=(9, 8, 1)), "multiple of 4"),
        (
            {"features": ClassifierFeatures()}, INFO._replace(num_classes=None),
            "the data must have classes",
        ),
        ({"autoencoder": KL(channels=12)}, INFO, "groups must divide the channels 12"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_the_data(options, info, message):
    with pytest.raises(InputError, match=message):
        AutoencoderExperiment(**options).task_of(info)


def test_factor_is_that_of_the_levels():
    for levels in (1, 3):
        assert Tiny(levels=levels).config(3).factor == 2 ** (levels - 1)
        assert KL(multipliers=(1,) * levels).config(3).factor == 2 ** (levels - 1)
