"""Train state: the changes of a step, and the averages of the parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.training.ema import gamma_of
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.training.state import TrainState, warm_decay

pytestmark = pytest.mark.usefixtures("standard_promotion")

OPTIONS = Optimizer(learning_rate=0.05, warmup_steps=0, clip_norm=1e9)


def random(seed):
    a, b = jax.random.split(jax.random.key(seed))
    return {"a": jax.random.normal(a, (4, 3)), "b": {"c": jax.random.normal(b, (5,))}}


def create(seed=0, num_tracks=0):
    return TrainState.create(random(seed), OPTIONS.build(10), num_tracks=num_tracks)


@functools.partial(jax.jit, static_argnames=("decay", "lengths"))
def apply(state, gradients, decay, lengths=()):
    return state.apply_gradients(gradients, OPTIONS.build(10), decay, lengths)


def trained(decay, num=12, lengths=()):
    """Returns the states after 0 to `num` steps."""
    states = [create(num_tracks=len(lengths))]
    for i in range(num):
        states.append(apply(states[-1], random(100 + i), decay, lengths))
    return states


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_average_starts_from_the_parameters():
    state = create()
    assert_equal(state.ema, state.params)
    assert_equal(state.params, random(0))
    assert state.step == 0
    assert (state.step.dtype, state.step.shape) == (np.int32, ())


@pytest.mark.parametrize("create", [create, jax.jit(create)])
def test_no_two_arrays_share_a_buffer(create):
    """A state without shared buffers can be donated, and its average can stay."""
    state = create()
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)
    assert len(pointers) == 1 + 2 * 2 + 2 * 2 + 2  # step; params, ema; mu, nu; counts


def test_each_step_is_counted_once():
    states = trained(0.9, 3)
    assert [int(state.step) for state in states] == [0, 1, 2, 3]
    counts = [x for x in jax.tree.leaves(states[-1].opt_state) if x.dtype == jnp.int32]
    assert list(map(int, counts)) == [3, 3]


@pytest.mark.parametrize(
    ("decay", "step", "expected"),
    [
        (0.9999, 0, 0.1),
        (0.9999, 1, 2 / 11),
        (0.9999, 90, 0.91),
        (0.9999, 10**4, 10001 / 10010),
        (0.9999, 10**6, 0.9999),
        (0.5, 7, 8 / 17),
        (0.5, 8, 0.5),  # both agree
        (0.5, 9, 0.5),
        (0.0, 0, 0.0),
    ],
)
def test_the_decay_is_warmed_up(decay, step, expected):
    value = warm_decay(decay, jnp.int32(step))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.9999, 0.3, 0.0])
def test_the_average_is_that_of_all_parameters_so_far(decay):
    """The reference is a sum with weights (1 - d_i) d_{i+1} ... d_n, in float64."""
    states = trained(decay)
    for n in (1, 2, 7, 12):
        decays = [min(decay, (1 + i) / (10 + i)) for i in range(n)]
        weights = [np.prod(decays)]
        weights += [(1 - decays[i]) * np.prod(decays[i + 1 :]) for i in range(n)]
        assert sum(weights) == pytest.approx(1)

        def average(*params, weights=weights):
            return sum(w * np.float64(p) for w, p in zip(weights, params, strict=True))

        expected = jax.tree.map(average, *(state.params for state in states[: n + 1]))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            states[n].ema,
            expected,
        )
    if decay == 0:
        assert_equal(states[-1].ema, states[-1].params)


def test_a_track_is_the_integral_over_all_parameters_so_far():
    """Each weight is the integral of the power profile over one step, in float64."""
    lengths = (0.05, 0.2)
    states = trained(0.9, lengths=lengths)
    for n in (1, 2, 7, 12):
        for length, track in zip(lengths, states[n].tracks, strict=True):
            weights = np.diff((np.arange(n + 1) / n) ** (gamma_of(length) + 1))

            def average(*params, weights=weights):
                return sum(
                    w * np.float64(p) for w, p in zip(weights, params, strict=True)
                )

            params = (state.params for state in states[1 : n + 1])
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                track,
                jax.tree.map(average, *params),
            )


def test_tracks_change_nothing_else():
    for a, b in zip(trained(0.9, 3), trained(0.9, 3, (0.1,)), strict=True):
        assert_equal(a, b._replace(tracks=()))


def test_tracks_share_no_buffer():
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(create(0, 2))]
    assert len(set(pointers)) == len(pointers) == 11 + 2 * 2


def test_the_average_does_not_change_what_is_learned():
    for a, b in zip(trained(0.9999, 3), trained(0.0, 3), strict=True):
        assert_equal((a.params, a.opt_state), (b.params, b.opt_state))


def test_a_step_goes_against_the_gradient():
    """Adam's first step is the learning rate, against the gradient's sign."""
    before, after = trained(0.5, 1)
    change = jax.tree.map(lambda a, b: a - b, after.params, before.params)
    expected = jax.tree.map(lambda g: -0.05 * np.sign(g), random(100))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), change, expected
    )


def test_a_state_may_be_donated():
    step = jax.jit(
        lambda state, gradients: state.apply_gradients(
            gradients, OPTIONS.build(10), 0.9
        ),
        donate_argnums=0,
    )
    expected = apply(create(), random(100), 0.9)
    state = step(create(), random(100))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, expected
    )
