"""JAX_ENABLE_X64: all steps of training and sampling trace, and keep their types."""

import itertools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.losses.weightings import WeightingOptions
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.recipe import Recipe
from jaxdiff.training.task import Diffusion
from tests.helpers.own_networks import MLP

SCHEDULES: tuple[Any, ...] = (
    jd.Cosine(num_steps=20),
    jd.schedules.RectifiedFlow(num_steps=20),
)
TIMES = (jd.losses.UniformTimes(), jd.losses.LossHistory(), jd.losses.LogNormal())
OBJECTIVES = [
    *(jd.losses.Simple(weighting=kind()) for kind in get_args(WeightingOptions)),
    *(jd.losses.Simple(times=times) for times in TIMES),
    jd.losses.Bound(), jd.losses.Hybrid(times=jd.losses.LossHistory()),
]  # fmt: skip
SHAPE = (2, 4, 4, 1)


class Doubled(MLP):
    """Network with an output for a learned variance."""

    def __call__(self, x, t, labels=None, keys=None):
        return jnp.concatenate([super().__call__(x, t, labels, keys)] * 2, axis=-1)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def shapes_of(tree):
    return jax.tree.map(lambda a: (a.shape, a.dtype), tree)


@pytest.mark.parametrize(
    ("options", "dtype"), zip(SCHEDULES, (np.float32, np.float64), strict=True)
)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_a_step_of_training_keeps_the_types_of_the_state(objective, options, dtype):
    learned = not isinstance(objective, jd.losses.Simple)
    network: Any = Doubled() if learned else MLP()
    prediction = jd.predictions.V(learn_variance=learned)
    recipe = Recipe(
        task=Diffusion(
            jd.Model(network, options.build(), prediction, SHAPE[1:]), objective
        ),
        optimizer=Optimizer(decay="cosine", weight_decay=0.01),
        num_steps=10,
        ema_lengths=(0.1,),
        guard=False,
    )
    state = jax.eval_shape(recipe.init)
    batch = jd.Batch(np.zeros(SHAPE, dtype), None, np.arange(2, dtype=np.int32))
    after, metrics = jax.eval_shape(
        lambda state, batch: recipe.step(state, batch), state, batch
    )
    assert shapes_of(after) == shapes_of(state)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize(
    "sampler",
    [
        cls
        for cls in get_args(jd.samplers.SamplerOptions)
        if cls is not jd.samplers.FlowMap  # which needs a network of its own
    ],
)
def test_samples_have_the_type_of_their_start(sampler):
    shapes = jax.eval_shape(MLP().init, jax.random.key(0), jnp.zeros(SHAPE), np.ones(2))
    params = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes)["params"]
    denoiser = jd.bind(MLP(), params, None, jd.predictions.V())
    rule = sampler(spacing=jd.spacing.Karras(num_steps=3))
    for options, dtype in itertools.product(SCHEDULES, (np.float32, np.float64)):
        found = jax.eval_shape(lambda x, schedule: jd.sample(
            denoiser, rule, schedule, jax.random.key(0), SHAPE, x_T=x),
            np.zeros(SHAPE, dtype), options.build())  # fmt: skip
        assert found.dtype == dtype
