"""Models and training without a run folder, with custom networks."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.errors import NonFiniteError
from jaxdiff.training.model import describe_network
from tests.helpers.compilations import compilations
from tests.helpers.own_networks import MLP, Batchwise, ConvNet, Unlike, toy_images
from tests.helpers.runs import same_bits

pytestmark = pytest.mark.usefixtures("standard_promotion")
SHAPE = (4, 4, 1)
SCHEDULE = jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6)
EPS = jd.predictions.Eps()
ADAM = jd.training.Optimizer(learning_rate=1e-2, warmup_steps=0)


def mlp():
    return jd.Model(MLP(), SCHEDULE.build(), EPS, SHAPE)


def convnet():
    return jd.Model(ConvNet(num_classes=2), SCHEDULE.build(), EPS, SHAPE, 2)


def batches(labels=False, size=16):
    images = toy_images(size)
    item = (images, np.arange(size) % 2) if labels else images
    return itertools.repeat(item)


def loss_of(model, params, labels=None):
    images = toy_images(256)
    batch = jd.Batch(images, labels, np.arange(256))
    fn = jax.jit(jd.loss_fn, static_argnums=(1, 5))
    loss, _ = fn(params, model.network, model.schedule, batch, jax.random.key(9), EPS)
    return float(loss)


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_fit_lowers_the_loss_of_a_network_of_ones_own(name):
    labels = np.arange(256) % 2 if name == "convnet" else None
    model = {"mlp": mlp, "convnet": convnet}[name]()
    before = loss_of(model, model.init(0), labels)
    state = jd.training.fit(
        model, batches(labels is not None), 200, optimizer=ADAM, progress=False
    )
    assert int(state.step) == 200
    assert loss_of(model, state.ema, labels) < 0.8 * before
    drawn = jd.sample(
        model.denoiser(state.ema, None if labels is None else labels[:4]), jd.DDPM(),
        model.schedule, jax.random.key(0), (4, *SHAPE),
    )  # fmt: skip
    assert np.isfinite(drawn).all()


def test_fit_is_train_step_by_step():
    model, found = mlp(), []
    state = jd.training.fit(
        model, batches(), 3, optimizer=ADAM, ema_decay=0.9, seed=7, progress=False,
        parallel=jd.parallel.Pmap(num_devices=1),
        on_step=lambda step, metrics: found.append((step, float(metrics["loss"]))),
    )  # fmt: skip
    optimizer = ADAM.build(3)
    expected = jd.TrainState.create(model.init(7), optimizer)
    batch = jd.Batch(toy_images(16), None, np.arange(16, dtype=np.int32))
    one_step = jax.jit(
        partial(
            jd.train_step, network=model.network, schedule=model.schedule,
            prediction=EPS, objective=jd.losses.Simple(), optimizer=optimizer,
            ema_decay=0.9, seed=7,
        )
    )  # fmt: skip
    for step in range(3):
        expected, metrics = one_step(expected, batch)
        assert found[step] == (step + 1, pytest.approx(float(metrics["loss"]), 1e-5))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_fit_continues_from_a_state_which_stays():
    model = mlp()
    options = {"optimizer": optax.adam(1e-2), "progress": False}
    first = jd.training.fit(model, batches(), 2, **options)
    kept = jax.device_get(first)
    second = jd.training.fit(model, batches(), 2, state=first, **options)
    assert int(second.step) == 4
    assert same_bits(kept, first)
    whole = jd.training.fit(model, batches(), 4, **options)
    for a, b in zip(
        jax.tree.leaves(second.params), jax.tree.leaves(whole.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_second_equal_fit_compiles_nothing():
    jd.training.fit(mlp(), batches(), 2, optimizer=ADAM, progress=False)
    with compilations() as count:
        jd.training.fit(mlp(), batches(), 2, optimizer=ADAM, progress=False)
    assert count() == 0


def test_batches_of_a_dataset_walk_through_it():
    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    dataset = jd.data.from_arrays(pixels, np.arange(6) % 2)
    drawn = list(itertools.islice(dataset.batches(4, seed=1), 3))
    seen = np.concatenate([np.asarray(b.images).ravel() for b in drawn])
    np.testing.assert_array_equal(
        np.sort(seen[:6]), np.asarray(jd.data.to_float(pixels)).ravel()
    )
    assert all(np.asarray(b.labels).shape == (4,) for b in drawn)


def test_equal_models_are_equal_by_value():
    assert mlp() == mlp()
    assert hash(mlp()) == hash(mlp())
    assert mlp() != jd.Model(MLP(width=8), SCHEDULE.build(), EPS, SHAPE)
    assert mlp() != jd.Model(MLP(), jd.Linear(num_steps=21).build(), EPS, SHAPE)
    assert mlp() != jd.Model(MLP(), SCHEDULE.build(), jd.predictions.V(), SHAPE)
    assert mlp() != jd.Model(MLP(), SCHEDULE.build(), EPS, (8, 8, 1))
    continuous = [jd.schedules.VP().build() for _ in range(2)]
    one, two = (jd.Model(MLP(), schedule, EPS, SHAPE) for schedule in continuous)
    assert one == two


def test_a_network_is_described_by_its_fields():
    assert describe_network(ConvNet(num_classes=3)) == "ConvNet(width=8, num_classes=3)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: jd.training.fit(mlp(), batches(), 0), "num_steps must be at least 1"),
        (lambda: jd.training.fit(mlp(), [], 1), "one item per step, got none"),
        (
            lambda: jd.training.fit(
                mlp(), itertools.islice(batches(), 2), 3, progress=False
            ),
            "must yield 3 items, one per step, got 2",
        ),
        (lambda: jd.training.fit(mlp(), [np.zeros((2, 4, 4))], 1), "images must be "),
        (lambda: jd.training.fit(convnet(), batches(), 1), "Give the batch labels"),
        (
            lambda: jd.Model(MLP(), SCHEDULE.build(), EPS, SHAPE, 3),
            "num_classes must be the network's number, None, got 3",
        ),
        (
            lambda: jd.Model(Unlike(), SCHEDULE.build(), EPS, SHAPE).init(),
            r"Unlike must be called with \(x_t, t, labels, keys\)",
        ),
        (
            lambda: jd.Model(Batchwise(), SCHEDULE.build(), EPS, SHAPE).init(),
            "no variables besides its params, got batch_stats",
        ),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(jd.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_fit():
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, x, t, labels=None, keys=None):
            return nn.Dense(1)(x) * np.float32(np.inf)

    model = jd.Model(Broken(), SCHEDULE.build(), EPS, SHAPE)
    with pytest.raises(NonFiniteError, match="the loss of step 1 is"):
        jd.training.fit(model, batches(), 2, progress=False)
