"""Training of two towers: the gradient of a step is the gradient of the whole batch."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.data import Latents
from jaxdiff.errors import InputError
from jaxdiff.losses.contrastive import contrastive_loss
from jaxdiff.networks.text_transformer import TextTransformerConfig
from jaxdiff.networks.towers import MOST, TowersConfig
from jaxdiff.training.augment import shifted
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.recipe import Recipe
from jaxdiff.training.towers import Contrast, equal_rows
from jaxdiff.training.towers_experiment import TowersExperiment
from jaxdiff.typing import Batch, Condition
from tests.helpers.gradients import gradient_of_step

pytestmark = pytest.mark.usefixtures("standard_promotion")
SHAPE, LENGTH, FEATURES = (4, 4, 1), 3, 5
CHANCE = np.random.default_rng(0)


class Products:
    """Towers of one product each, which compile at once."""

    config = SimpleNamespace(text=SimpleNamespace(length=LENGTH))

    def apply(self, variables, images, tokens, mask):
        params = variables["params"]
        u = jnp.tanh(images.reshape(len(images), -1) @ params["image"])
        v = jnp.sin((tokens * mask).astype(jnp.float32) @ params["text"])
        lengths = [jnp.linalg.norm(a, axis=1, keepdims=True) for a in (u, v)]
        return u / lengths[0], v / (lengths[1] + 1e-3)


PARAMS = {
    "image": CHANCE.normal(size=(16, FEATURES)).astype(np.float32),
    "text": CHANCE.normal(size=(LENGTH, FEATURES)).astype(np.float32),
    "log_scale": np.float32(1.2),
}
IMAGES = CHANCE.uniform(-1, 1, (8, *SHAPE)).astype(np.float32)
TOKENS = np.array(
    [[1, 2, 0], [3, 0, 0], [1, 2, 0], [4, 5, 6], [0, 0, 0], [3, 1, 0], [7, 0, 0],
     [0, 0, 0]], np.int32,
)  # fmt: skip
"""Tokens of texts: two are equal, two are no text."""
NUMBERS, WEIGHT = [0, 1, 0, 3, 4, 5, 6, 4], [1, 1, 1, 1, 0, 1, 1, 0]
MASK = np.ones((8, LENGTH), bool)
BATCH = Batch(IMAGES, Condition(tokens=TOKENS, mask=MASK), np.arange(8, dtype=np.int32))
TASK = Contrast(Products(), SHAPE, 8)  # type: ignore[arg-type]


def recipe(**options):
    optimizer = Optimizer(learning_rate=1e-2, warmup_steps=0, clip_norm=1e6)
    return Recipe(task=TASK, optimizer=optimizer, num_steps=4, **options)


@pytest.fixture(scope="module")
def state():
    return recipe().state_of(jax.tree.map(jnp.asarray, PARAMS))


@jax.jit
def by_hand(params: Any, key: Any) -> Any:
    """Loss and gradient of the whole batch at once."""

    def loss(params: Any) -> Any:
        keys = rng.example_keys(key, jnp.arange(8))
        vectors: Any = TASK.network.apply(
            {"params": params}, shifted(jnp.asarray(IMAGES), keys), TOKENS, MASK
        )
        return contrastive_loss(
            vectors[0],
            vectors[1],
            params["log_scale"],
            jnp.array(NUMBERS),
            jnp.array(WEIGHT) * 1.0,
        )[0]

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    ("parallel", "accumulate"),
    [
        (jd.parallel.Pmap(num_devices=1), 1),
        (jd.parallel.Pmap(num_devices=8), 1),
        (jd.parallel.Pmap(num_devices=2), 4),
        (jd.parallel.Sharded(data=2, fsdp=2), 2),
    ],
    ids=["one", "eight", "accumulated", "sharded"],
)
def test_gradient_is_that_of_the_whole_batch(state, parallel, accumulate):
    key = jax.random.fold_in(rng.key(0), 0)
    value, gradient = by_hand(state.params, key)
    found, metrics = gradient_of_step(
        recipe(accumulate=accumulate), state, parallel, BATCH
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    for name, expected in gradient.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)


def test_scale_has_a_largest_value(state):
    large = {**state.params, "log_scale": jnp.float32(9)}
    scale = jnp.exp(TASK.constrained(large)["log_scale"])
    np.testing.assert_allclose(scale, MOST, rtol=1e-5)
    assert TASK.constrained(state.params)["log_scale"] == state.params["log_scale"]


def test_equal_rows_share_a_number():
    found = np.asarray(jax.jit(equal_rows)(TOKENS.astype(np.float32)))
    expected = np.array(NUMBERS)
    same = found[:, None] == found[None]
    np.testing.assert_array_equal(same, expected[:, None] == expected[None])


def test_towers_give_vectors_of_length_1():
    text = TextTransformerConfig(
        vocabulary=9, length=LENGTH, width=4, layers=1, heads=1
    )
    network = TowersConfig(features=FEATURES, channels=2, text=text).build()
    params = network.init(rng.key(0), IMAGES, TOKENS)
    vectors = jax.jit(network.apply)(params, IMAGES, TOKENS, MASK)
    for found in vectors:
        assert found.shape == (8, FEATURES)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors[1][0], vectors[1][2], atol=1e-6)


def test_latents_are_refused():
    with pytest.raises(InputError, match="data must be images for two towers"):
        TowersExperiment(data=Latents(path="x"))


@pytest.mark.parametrize("channels", [1, 5, 20])
def test_channels_must_fit_the_groups(channels):
    with pytest.raises(InputError, match="channels must be an even number up to 16"):
        TowersConfig(channels=channels)
