"""Weightings: each is its paper's formula, if the paper defines one."""

import warnings
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.losses.weightings import WeightingOptions
from jaxdiff.schedules import ScheduleOptions

# Weights of the output's squared error, as the papers write them in alpha and sigma.
PAPERS: dict[type, list[tuple[Any, Any, Any]]] = {
    jd.losses.Uniform: [
        (jd.losses.Uniform(), prediction(), lambda a, s: np.ones_like(s))
        for prediction in get_args(Prediction)
    ],
    jd.losses.UniformX0: [
        (jd.losses.UniformX0(), jd.predictions.X0(), lambda a, s: np.ones_like(s))
    ],
    jd.losses.UniformEps: [
        (jd.losses.UniformEps(), jd.predictions.Eps(), lambda a, s: np.ones_like(s))
    ],
    jd.losses.SNRPlusOne: [
        (jd.losses.SNRPlusOne(), jd.predictions.V(), lambda a, s: np.ones_like(s)),
        (jd.losses.SNRPlusOne(), jd.predictions.X0(), lambda a, s: a**2 / s**2 + 1),
    ],
    # Hang et al. 2023, section 3.4.
    jd.losses.MinSNR: [
        (
            jd.losses.MinSNR(),
            jd.predictions.X0(),
            lambda a, s: np.minimum(a**2 / s**2, 5),
        ),
        (
            jd.losses.MinSNR(gamma=3.0),
            jd.predictions.Eps(),
            lambda a, s: np.minimum(a**2 / s**2, 3) / (a**2 / s**2),
        ),
        (
            jd.losses.MinSNR(gamma=0.5),
            jd.predictions.V(),
            lambda a, s: np.minimum(a**2 / s**2, 0.5) / (a**2 / s**2 + 1),
        ),
    ],
    # Choi et al. 2022, equation 8: on eps, 1 / (k + SNR)^gamma.
    jd.losses.P2: [
        (jd.losses.P2(), jd.predictions.Eps(), lambda a, s: 1 / (1 + a**2 / s**2)),
        (
            jd.losses.P2(k=0.5, gamma=0.3),
            jd.predictions.Eps(),
            lambda a, s: (0.5 + (a / s) ** 2) ** -0.3,
        ),
        (jd.losses.P2(gamma=0.0), jd.predictions.Eps(), lambda a, s: np.ones_like(s)),
    ],
    # Kingma & Gao 2023: on eps, sigmoid(b - log SNR).
    jd.losses.SigmoidWeighting: [
        (
            jd.losses.SigmoidWeighting(bias=bias),
            jd.predictions.Eps(),
            lambda a, s, b=bias: 1 / (1 + np.exp(2 * np.log(a / s) - b)),
        )
        for bias in (2.0, -1.0)
    ],
    # Karras et al. 2022, table 1: lambda(sigma) c_out(sigma)^2 = 1 on F; lambda on the
    # denoiser's own output, x_0, of x_t / alpha.
    jd.losses.EDMWeighting: [
        (jd.losses.EDMWeighting(), jd.predictions.EDM(), lambda a, s: np.ones_like(s)),
        (
            jd.losses.EDMWeighting(data_deviation=0.7),
            jd.predictions.EDM(data_deviation=0.7),
            lambda a, s: np.ones_like(s),
        ),
        (
            jd.losses.EDMWeighting(data_deviation=0.7),
            jd.predictions.X0(),
            lambda a, s: ((s / a) ** 2 + 0.7**2) / (s / a * 0.7) ** 2,
        ),
    ],
}


def levels_of(options, num):
    """Returns a schedule, and levels over its whole range, with both ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        schedule = options().build()
    return schedule, schedule.level(schedule.time(jnp.linspace(0.0, 1.0, num)))


@pytest.mark.parametrize("options", get_args(ScheduleOptions))
@pytest.mark.parametrize("weighting", get_args(WeightingOptions))
def test_the_papers_formula(weighting, options):
    _, level = levels_of(options, 50)
    visible = np.asarray(level.alpha) > 0  # the papers' formulas need a signal
    alpha, sigma = (np.asarray(x, np.float64)[visible] for x in level[1:])
    for ours, prediction, formula in PAPERS[weighting]:
        got = ours.output_weight(prediction, level)
        assert got.shape == level.sigma.shape
        assert got.dtype == level.sigma.dtype
        expected = formula(alpha, sigma)
        np.testing.assert_allclose(got[visible], expected, rtol=1e-5, err_msg=str(ours))


@pytest.mark.parametrize("options", get_args(ScheduleOptions))
@pytest.mark.parametrize("weighting", get_args(WeightingOptions))
def test_finite_wherever_the_prediction_is(weighting, options):
    """The weight stays finite and at least 0, without signal or with little noise."""
    schedule, level = levels_of(options, 50)
    if not schedule.has_terminal_signal:
        assert float(level.alpha[-1]) == 0
    for prediction in get_args(Prediction):
        try:
            prediction().check_schedule(schedule)
        except jd.InputError:
            assert (prediction, schedule.has_terminal_signal) == (
                jd.predictions.Eps,
                False,
            )
            continue
        weight = np.asarray(weighting().output_weight(prediction(), level))
        assert np.isfinite(weight).all(), prediction
        assert (weight >= 0).all(), prediction
        assert (weight[:-1] > 0).all(), prediction


def test_the_weight_where_there_is_no_signal():
    """At SNR 0, v is -x_0 and has the weight w(0); F is x_0 / d and has w(0) d^2."""
    level = jd.Level(*(jnp.float32(value) for value in (1000, 0, 1)))
    at_zero = {
        jd.losses.UniformX0(): 1,
        jd.losses.UniformEps(): 0,
        jd.losses.SNRPlusOne(): 1,
        jd.losses.MinSNR(): 0,
        jd.losses.P2(): 0,
        jd.losses.SigmoidWeighting(): 0,
        jd.losses.EDMWeighting(data_deviation=0.5): 4,
    }
    assert {type(w) for w in at_zero} | {jd.losses.Uniform} == set(
        get_args(WeightingOptions)
    )
    for weighting, weight in at_zero.items():
        for prediction in (
            jd.predictions.X0(),
            jd.predictions.V(),
            jd.predictions.Velocity(),
        ):
            assert weighting.output_weight(prediction, level) == weight
        edm = weighting.output_weight(jd.predictions.EDM(data_deviation=0.5), level)
        assert edm == weight / 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jd.losses.MinSNR(gamma=0.0), "gamma must be above 0, got 0"),
        (
            lambda: jd.losses.MinSNR(gamma=float("nan")),
            "gamma must be above 0, got nan",
        ),
        (lambda: jd.losses.P2(k=0.0), "k must be above 0, got 0"),
        (lambda: jd.losses.P2(k=-1.0), "k must be above 0, got -1"),
        (
            lambda: jd.losses.EDMWeighting(data_deviation=-0.5),
            "data_deviation must be above 0, got -0.5",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(jd.InputError, match=f"^{message}$"):
        make()
