"""Power-function averages against brute force and the numbers of their paper."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from jaxdiff.errors import InputError
from jaxdiff.training.ema import (
    LONGEST,
    gamma_of,
    length_of,
    post_hoc_weights,
    power_weight,
)


def profile(gamma, step):
    """Returns the weight of each step: the profile's integral over (i - 1, i]."""
    edges = (np.arange(step + 1) / step) ** (gamma + 1)
    return np.diff(edges)


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_published_pairs(length, gamma):
    assert gamma_of(length) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("length", [1e-4, 0.01, 0.075, 0.2, 0.28, 0.2886])
def test_the_length_is_the_profile_s_deviation(length):
    gamma = gamma_of(length)
    assert gamma > 0
    assert length_of(gamma) == pytest.approx(length, rel=1e-9)
    if length > 0.005:  # the quadrature misses narrower ones
        mean, square = (
            quad(lambda x, n=n: (gamma + 1) * x ** (gamma + n), 0, 1)[0] for n in (1, 2)
        )
        assert np.sqrt(square - mean**2) == pytest.approx(length, rel=1e-5)


@pytest.mark.parametrize("length", [0, -0.1, LONGEST, 0.3, np.nan])
def test_lengths_out_of_range_are_refused(length):
    with pytest.raises(InputError, match=r"must lie in \(0, 0.288\).* got"):
        gamma_of(length)


@pytest.mark.parametrize("length", [0.02, 0.1, 0.25])
def test_the_recurrence_is_the_integral(length):
    gamma = gamma_of(length)
    weights = np.zeros(0)
    for t in range(1, 301):
        w = float(power_weight(gamma, jnp.int32(t)))
        weights = np.append(weights * (1 - w), w)
        if t in (1, 2, 300):
            np.testing.assert_allclose(weights, profile(gamma, t), rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("step", [1, 2, 1000, 800_000, 10**8])
def test_the_weight_is_exact_in_float32(step):
    gamma = gamma_of(0.1)
    weight = power_weight(gamma, jnp.int32(step))
    exact = 1.0 if step == 1 else -np.expm1((gamma + 1) * np.log1p(-1 / step))
    assert weight.dtype == np.float32
    np.testing.assert_allclose(weight, exact, rtol=1e-6)


def snapshots(lengths, num_steps, count):
    steps = [num_steps * (i + 1) // count for i in range(count) for _ in lengths]
    return steps, [gamma_of(length) for length in lengths] * count


@pytest.mark.parametrize(("length", "target"), [(0.05, 512), (0.10, 512), (0.05, 256)])
def test_a_stored_average_is_itself(length, target):
    steps, gammas = snapshots((0.05, 0.10), 512, 16)
    weights = post_hoc_weights(steps, gammas, target, gamma_of(length))
    expected = (np.array(steps) == target) & (np.array(gammas) == gamma_of(length))
    np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("length", [0.05, 0.06, 0.07, 0.085, 0.10])
@pytest.mark.parametrize(("walk", "bound"), [(True, 1e-4), (False, 4e-3)])
def test_lengths_between_the_tracks_are_rebuilt(length, walk, bound):
    """A rebuilt average is close to the average over all steps.

    The bound is for the worst of 64 parameters, in standard deviations of the averages.
    The parameters walk, or are independent at each step, which is the hardest case.
    """
    num_steps = 2048
    steps, gammas = snapshots((0.05, 0.10), num_steps, 32)
    params = np.random.default_rng(0).normal(size=(num_steps, 64))
    if walk:
        params = params.cumsum(0)
    stored = np.stack(
        [profile(g, t) @ params[:t] for t, g in zip(steps, gammas, strict=True)]
    )
    weights = post_hoc_weights(steps, gammas, num_steps, gamma_of(length))
    expected = profile(gamma_of(length), num_steps) @ params
    error = np.abs(weights @ stored - expected).max() / expected.std()
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert error < bound


def test_the_closed_form_is_the_least_squares_fit():
    """The fit is of the profiles as vectors on a fine grid of times."""
    steps, gammas = [30, 30, 60, 60, 100, 100], [16.97, 6.94] * 3
    times = (np.arange(200_000) + 0.5) / 200_000 * 100
    curves = np.stack(
        [
            (g + 1) * (times / t) ** g / t * (times <= t)
            for t, g in zip([*steps, 100], [*gammas, 10.0], strict=True)
        ]
    )
    expected = np.linalg.lstsq(curves[:-1].T, curves[-1], rcond=None)[0]
    weights = post_hoc_weights(steps, gammas, 100, 10.0)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("length", [0.03, 0.08, 0.2])
def test_few_snapshots_do_not_scale_the_parameters(length):
    """As in EDM2's code, the coefficients are divided by their sum."""
    steps, gammas = snapshots((0.05, 0.10), 512, 2)
    weights = post_hoc_weights(steps, gammas, 512, gamma_of(length))
    assert weights.sum() == pytest.approx(1, abs=1e-12)


def test_what_cannot_be_rebuilt_is_refused():
    with pytest.raises(InputError, match="at least 1, got 0 and 0"):
        post_hoc_weights([], [], 10, 3.0)
    with pytest.raises(InputError, match=r"at least 20, .* got 10"):
        post_hoc_weights([20, 30], [3.0, 3.0], 10, 3.0)
