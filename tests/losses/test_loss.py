"""Loss function: exact values, its minimum, and one key per example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.losses.loss import draw
from jaxdiff.losses.noised import Noised
from jaxdiff.losses.objectives import Simple


class Linear:
    """Network with one parameter that outputs params * x_t, without classes."""

    num_classes: int | None = None

    def apply(self, variables: Any, x_t, t, labels=None, keys=None) -> Any:
        return variables["params"] * x_t


def batch_of(images, labels=None):
    return jd.Batch(images, labels, jnp.arange(len(images)))


def test_loss_of_a_linear_network_is_its_closed_form():
    """Data 0 makes x_t = sigma eps, so the loss is the mean of (w sigma - 1)^2."""
    schedule = jd.Linear().build()
    num = 20_000
    zeros = batch_of(jnp.zeros((num, 2, 2, 1)))
    for weight in (0.0, 0.7, 1.3):
        loss, metrics = jax.jit(jd.loss_fn, static_argnums=1)(
            jnp.float32(weight), Linear(), schedule, zeros, jax.random.key(0)
        )
        sigma = np.asarray(schedule.sqrt_one_minus_alphas_bar, np.float64)
        exact = (weight * sigma - 1) ** 2
        # An example's loss is exact * (mean of 4 squared normals), of variance 1/2.
        second = (exact**2 * 1.5).mean() - exact.mean() ** 2
        assert abs(float(loss) - exact.mean()) < 4 * (second / num) ** 0.5
        quarters = metrics["loss_by_quarter"] / metrics["share_by_quarter"]
        expected = exact.reshape(4, 250).mean(axis=1)
        np.testing.assert_allclose(quarters, expected, rtol=0.08, atol=1e-3)
        np.testing.assert_allclose(metrics["loss_by_quarter"].sum(), loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["share_by_quarter"], 0.25, atol=0.02)


def test_the_true_noise_has_no_loss(short):
    """For data x_0 = 0, the noise is exactly eps = x_t / sigma."""

    class Exact(Linear):
        def apply(self, variables: Any, x_t, t, labels=None, keys=None) -> Any:
            return x_t / short.level(t).scales(x_t)[1]

    images = batch_of(jnp.zeros((8, 2, 2, 1)))
    loss, _ = jd.loss_fn(None, Exact(), short, images, jax.random.key(0))
    assert float(loss) < 1e-10

    class Negated(Exact):
        def apply(self, variables: Any, x_t, t, labels=None, keys=None) -> Any:
            return -super().apply(variables, x_t, t)

    wrong, _ = jd.loss_fn(None, Negated(), short, images, jax.random.key(0))
    assert float(wrong) > 2


@pytest.fixture(scope="module")
def loss_of(tiny, short):
    """Function that returns the loss of some of eight examples."""
    network, params = tiny
    images = np.random.default_rng(5).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)
    loss_fn = jax.jit(jd.loss_fn, static_argnums=1)

    def loss_of(places, seed=0):
        batch = jd.Batch(images[places], np.array(places), np.array(places))
        return float(loss_fn(params, network, short, batch, jax.random.key(seed))[0])

    return loss_of


def test_an_examples_loss_depends_on_its_index_alone(loss_of):
    parts = np.mean([loss_of([i]) for i in range(8)])
    for order in (range(8), [6, 1, 3, 0, 2, 7, 5, 4]):
        np.testing.assert_allclose(loss_of(list(order)), parts, rtol=1e-5)


def test_what_chance_gives_an_example_is_independent():
    """The time, the noise and the dropout of an example have different keys."""
    num = 4000
    batch = batch_of(jnp.zeros((num, 2, 1, 1)))
    schedule, objective = jd.Linear().build(), jd.losses.Simple()
    drawn = draw(batch, jax.random.key(0), schedule, objective, ())
    keys = drawn.dropout_keys
    columns = [
        drawn.u, *drawn.eps.reshape(num, 2).T,
        rng.uniform(keys), *rng.normal(keys, (2,)).T,
    ]  # fmt: skip
    found = np.corrcoef(columns)
    # The last three columns share a key: the uniform and the first normal share bits.
    found[3:, 3:] = np.eye(3)
    np.testing.assert_allclose(found, np.eye(6), atol=5 / num**0.5)


def test_other_keys_draw_other_noise(loss_of):
    assert len({loss_of(list(range(8)), seed) for seed in (0, 0, 1)}) == 2


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            np.zeros((2, 8, 8), np.float32),
            None,
            r"height, width, channels\], got shape",
        ),
        (np.zeros((2, 8, 8, 1), np.uint8), None, r"got uint8\. Use to_float"),
        (np.full((2, 8, 8, 1), 255.0), [0, 1], "got 255 to 255"),
        (np.zeros((2, 8, 8, 1), np.float32), None, "with 10 classes, got None"),
        (np.zeros((2, 8, 8, 1), np.float32), [0, 10], r"0\.\.9, got 10"),
        (np.zeros((2, 8, 8, 1), np.float32), [0], r"of one length, got \[1, 2\]"),
    ],
)
def test_bad_batches(tiny, short, images, labels, message):
    network, params = tiny
    batch = jd.Batch(images, labels and np.array(labels), np.arange(2))
    with pytest.raises(ValueError, match=message):
        jd.loss_fn(params, network, short, batch, jax.random.key(0))


def test_latents_are_drawn_around_their_means(short):
    rows = 4000
    mean = jnp.full((rows, 2, 1, 1), 3.0)
    deviation = jnp.broadcast_to(jnp.array([0.0, 0.5])[:, None, None], mean.shape)
    batch = jd.Batch(mean, None, jnp.arange(rows), deviation)
    key, objective = jax.random.key(1), Simple()
    drawn = draw(batch, key, short, objective, ())
    assert np.array_equal(drawn.x_0[:, 0], mean[:, 0])
    noise = (drawn.x_0 - mean)[:, 1].ravel() / 0.5
    assert abs(noise.mean()) < 4 / rows**0.5
    assert abs(noise.std() - 1) < 4 / (2 * rows) ** 0.5
    assert abs(np.corrcoef(noise, drawn.eps[:, 1].ravel())[0, 1]) < 4 / rows**0.5
    seventh = jax.tree.map(lambda a: a[7:8], batch)
    one = draw(seventh, key, short, objective, ())
    assert np.array_equal(one.x_0, drawn.x_0[7:8])
    images = draw(batch._replace(deviation=None), key, short, objective, ())
    assert np.array_equal(images.x_0, mean)


def test_deviations_have_the_shape_of_the_means(short):
    batch = jd.Batch(jnp.zeros((2, 4, 4, 1)), None, jnp.arange(2), jnp.ones((2, 4, 4)))
    with pytest.raises(InputError, match="deviation must have the shape"):
        jd.loss_fn(jnp.float32(0), Linear(), short, batch, jax.random.key(0))


class Dropping(Linear):
    """Network whose output depends on everything that it is given; counts its calls."""

    num_classes = 3

    def __init__(self, channels: int):
        self.channels, self.calls = channels, 0

    def apply(self, variables: Any, x_t, t, labels=None, keys=None) -> Any:
        self.calls += 1
        kept = rng.uniform(keys) < 0.5
        labels, t = labels.astype("f4"), t.astype("f4")
        scale = jnp.where(kept, 1 + labels, 0.5) + 1e-3 * t
        x = variables["params"] * scale[:, None, None, None] * jnp.sin(x_t)
        return jnp.concatenate([x] * self.channels, axis=-1)


@pytest.mark.parametrize(
    "objective", [jd.losses.Simple(), jd.losses.Bound(), jd.losses.Hybrid()]
)
def test_an_objective_of_one_output_evaluates_the_network_once(short, objective):
    """Its loss and gradient are those of the output, to the last bit."""
    learned = not isinstance(objective, jd.losses.Simple)
    prediction = jd.predictions.EDM(learn_variance=learned)
    network = Dropping(1 + learned)
    images = jax.random.uniform(jax.random.key(3), (8, 2, 2, 1), minval=-1)
    batch, key = batch_of(images, jnp.arange(8) % 3), jax.random.key(1)

    def now(params):
        return jd.loss_fn(params, network, short, batch, key, prediction, objective)[0]

    def before(params):
        drawn = draw(batch, key, short, objective, ())
        x_t = jd.q_sample(short, drawn.x_0, drawn.t, drawn.eps)
        level = short.level(drawn.t)
        output = network.apply(
            {"params": params}, prediction.scaled(x_t, level), level.t, batch.labels,
            drawn.dropout_keys,
        )  # fmt: skip
        noised = Noised(drawn.x_0, drawn.eps, x_t, level, short.next_level(drawn.t))
        losses = objective.losses(lambda *_: output, noised, prediction, short)
        return (drawn.importance * losses["loss"]).mean()

    params = jnp.float32(0.7)
    found = jax.jit(jax.value_and_grad(now))(params)
    assert network.calls == 1
    expected = jax.jit(jax.value_and_grad(before))(params)
    np.testing.assert_array_equal(found, expected)
    assert found[1] != 0
