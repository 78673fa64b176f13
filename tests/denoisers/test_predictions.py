"""Predictions: each recovers x_0 and the noise, and is its paper's formula."""

import dataclasses
import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.schedules import ScheduleOptions

PREDICTIONS = get_args(Prediction)
SCHEDULES = get_args(ScheduleOptions)
PRESERVING = [
    o for o in SCHEDULES if o not in (jd.schedules.VE, jd.schedules.RectifiedFlow)
]
PURE_NOISE = [jd.schedules.RectifiedFlow, jd.schedules.ZeroTerminalSNR]
REFUSED = "must not divide by the signal scale, which is 0 .* Predict v, x_0 or"

rng = np.random.default_rng(0)
X_0, EPS, OUTPUT, OTHER = rng.normal(size=(4, 6, 3))


@functools.cache
def level_of(options: Any) -> Any:
    """Returns the first, middle and last levels, float64 in NumPy."""
    with jax.enable_x64(True):
        schedule = options().build()
        times = np.asarray(schedule.times)[[0, 1, 300, 700, 998, 999]]
        return jax.tree.map(np.float64, schedule.level(times))


def noised(level):
    alpha, sigma = level.scales(X_0)
    return alpha * X_0 + sigma * EPS


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@jax.jit(static_argnums=0)
def target(prediction, x_0, eps, level):
    return prediction.target(x_0, eps, level)


@jax.jit(static_argnums=0)
def answers(prediction, output, x_t, level):
    """Returns the estimate, the gain and the network's input."""
    return (
        prediction.estimate(output, x_t, level),
        prediction.x0_error_scale(level),
        prediction.scaled(x_t, level),
    )


def visible(prediction: Any, options: Any) -> Any:
    """Returns the slice of `level_of` at which the output determines x_0."""
    blind = isinstance(prediction, jd.predictions.Eps) and options in PURE_NOISE
    return slice(-1) if blind else slice(None)


CLOSE: Any = {"rtol": 1e-9, "atol": 1e-10}
"""Tolerances: rounding of x_t is divided by alpha (down to 5e-5) or sigma (1e-3)."""
every_prediction = pytest.mark.parametrize(
    "prediction", [p() for p in PREDICTIONS], ids=lambda p: type(p).__name__
)
every_schedule = pytest.mark.parametrize("options", SCHEDULES)


@every_schedule
@every_prediction
def test_target_gives_the_image_and_the_noise_back(options, prediction, x64):
    level = level_of(options)
    output = target(prediction, X_0, EPS, level)
    estimate = answers(prediction, output, noised(level), level)[0]
    assert estimate.variance_fraction is None
    seen = visible(prediction, options)
    np.testing.assert_allclose(estimate.x_0[seen], X_0[seen], **CLOSE)
    np.testing.assert_allclose(estimate.eps[seen], EPS[seen], **CLOSE)


@every_schedule
@every_prediction
def test_only_eps_without_signal_is_refused(options, prediction):
    schedule = options().build()
    if visible(prediction, options) == slice(None):
        prediction.check_schedule(schedule)
    else:
        assert level_of(options).alpha[-1] == 0
        with pytest.raises(jd.InputError, match=REFUSED):
            prediction.check_schedule(schedule)


@every_schedule
@every_prediction
def test_any_output_is_consistent_with_the_noisy_image(options, prediction, x64):
    level, x_t = level_of(options), noised(level_of(options))
    alpha, sigma = level.scales(x_t)
    estimate = jax.device_get(answers(prediction, OUTPUT, x_t, level)[0])
    seen = visible(prediction, options)
    rebuilt = alpha[seen] * estimate.x_0[seen] + sigma[seen] * estimate.eps[seen]
    np.testing.assert_allclose(rebuilt, x_t[seen], **CLOSE)


@every_schedule
@every_prediction
def test_gain_is_the_images_change_per_change_of_output(options, prediction, x64):
    level, x_t = level_of(options), noised(level_of(options))
    one, gain, _ = jax.device_get(answers(prediction, OUTPUT, x_t, level))
    other = answers(prediction, OUTPUT + OTHER, x_t, level)[0]
    assert gain.shape == (6,)
    seen = visible(prediction, options)
    change = abs(other.x_0 - one.x_0)[seen]
    np.testing.assert_allclose(change, gain[seen, None] * abs(OTHER)[seen], **CLOSE)


@pytest.mark.parametrize("options", PRESERVING)
def test_v_is_the_textbooks(options, x64):
    """The target is alpha eps - sigma x_0 (Salimans & Ho 2022).

    On these schedules alpha^2 + sigma^2 = 1.
    """
    level = level_of(options)
    alpha, sigma = level.scales(X_0)
    expected = alpha * EPS - sigma * X_0
    # The tables' float32 scales are off the circle alpha^2 + sigma^2 = 1 by rounding.
    np.testing.assert_allclose(
        target(jd.predictions.V(), X_0, EPS, level), expected, atol=1e-6
    )


@every_schedule
@pytest.mark.parametrize("deviation", [0.5, 1.3])
def test_edm_is_karras_preconditioning(options, deviation, x64):
    """Karras et al. 2022, table 1, applied to x_t / alpha, which is x_t for VE."""
    prediction, level = jd.predictions.EDM(data_deviation=deviation), level_of(options)
    alpha, sigma = level.scales(X_0)
    seen = slice(-1) if options in PURE_NOISE else slice(None)
    s = sigma[seen] / alpha[seen]
    c_skip = deviation**2 / (s**2 + deviation**2)
    c_out = s * deviation / np.sqrt(deviation**2 + s**2)
    c_in = 1 / np.sqrt(s**2 + deviation**2)
    x = X_0[seen] + s * EPS[seen]
    asked = (X_0[seen] - c_skip * x) / c_out
    np.testing.assert_allclose(
        target(prediction, X_0, EPS, level)[seen], asked, **CLOSE
    )
    estimate, gain, scaled = answers(prediction, OUTPUT, noised(level), level)
    denoised = c_skip * x + c_out * OUTPUT[seen]
    np.testing.assert_allclose(estimate.x_0[seen], denoised, **CLOSE)
    np.testing.assert_allclose(scaled[seen], c_in * x, **CLOSE)
    np.testing.assert_allclose(gain[seen], c_out[:, 0], **CLOSE)


def test_edms_deviation_is_karras():
    assert jd.predictions.EDM().data_deviation == 0.5


@every_schedule
@pytest.mark.parametrize(
    ("prediction", "deviation"),
    [
        (jd.predictions.V(), 1.0),
        (jd.predictions.EDM(), 0.5),
        (jd.predictions.EDM(data_deviation=1.3), 1.3),
    ],
)
def test_v_and_edm_ask_for_unit_variance_uncorrelated_with_the_input(
    prediction, deviation, options, x64
):
    """The target is uncorrelated with x_t for data of the given deviation."""
    level = level_of(options)
    alpha, sigma = level.scales(X_0)
    zero, one = np.zeros_like(X_0), np.ones_like(X_0)
    of_x_0 = np.asarray(target(prediction, deviation * one, zero, level))
    of_eps = np.asarray(target(prediction, zero, one, level))
    np.testing.assert_allclose(of_x_0**2 + of_eps**2, one)
    overlap = of_x_0 * alpha * deviation + of_eps * sigma
    np.testing.assert_allclose(overlap, zero, atol=1e-12)


def test_velocity_is_the_straight_paths_derivative(x64):
    schedule = jd.schedules.RectifiedFlow(t_min=0.01).build()
    u = jnp.asarray([0.0, 0.1, 0.3, 0.6, 0.9, 1.0])
    _, derivative = jax.jvp(
        lambda u: jd.q_sample(schedule, jnp.asarray(X_0), u, jnp.asarray(EPS)),
        (u,),
        (jnp.full(6, 1 / 0.99),),  # of t = t_min + (1 - t_min) u
    )
    velocity = target(jd.predictions.Velocity(), X_0, EPS, schedule.level(u))
    np.testing.assert_allclose(velocity, derivative, rtol=1e-12)


@every_schedule
@every_prediction
def test_what_the_network_sees(options, prediction, x64):
    """The network sees x_t, scaled to unit variance for VE and EDM."""
    level, one = level_of(options), np.ones_like(X_0)
    alpha, sigma = level.scales(one)
    deviation = 0.5 if isinstance(prediction, jd.predictions.EDM) else 1.0
    from_x_0 = answers(prediction, OUTPUT, deviation * alpha * one, level)[2]
    from_eps = answers(prediction, OUTPUT, sigma * one, level)[2]
    if isinstance(prediction, jd.predictions.EDM) or options is jd.schedules.VE:
        np.testing.assert_allclose(from_x_0**2 + from_eps**2, one)
    else:
        # The tables' float32 scales are off the unit circle by rounding.
        np.testing.assert_allclose(from_x_0, alpha * one, rtol=1e-7)
        np.testing.assert_allclose(from_eps, sigma * one, rtol=1e-7)


@every_prediction
def test_learned_variance_is_the_second_half(prediction, x64):
    level, x_t = level_of(jd.Cosine), noised(level_of(jd.Cosine))
    raw = np.linspace(-1, 1, x_t.size).reshape(x_t.shape)
    learned = dataclasses.replace(prediction, learn_variance=True)
    output = np.concatenate([OUTPUT, raw], axis=-1)
    got = answers(learned, output, x_t, level)[0]
    plain = answers(prediction, OUTPUT, x_t, level)[0]
    np.testing.assert_allclose(got.x_0, plain.x_0, **CLOSE)
    np.testing.assert_allclose(got.eps, plain.eps, **CLOSE)
    expected = np.linspace(0, 1, x_t.size).reshape(x_t.shape)
    np.testing.assert_allclose(got.variance_fraction, expected, **CLOSE)


@every_prediction
@pytest.mark.parametrize(
    ("learn_variance", "shape"),
    [
        (False, (4, 2, 2, 6)),
        (False, (4, 2, 2, 1)),
        (True, (4, 2, 2, 3)),
        (True, (4, 2, 2, 12)),
        (True, (1, 2, 2, 6)),
    ],
)
def test_wrong_channels(prediction, learn_variance, shape):
    chosen = dataclasses.replace(prediction, learn_variance=learn_variance)
    x_t, level = jnp.ones((4, 2, 2, 3)), jd.Level(*jnp.ones((3, 4)))
    wanted = rf"\(4, 2, 2, {6 if learn_variance else 3}\) with learn_variance="
    with pytest.raises(jd.InputError, match=wanted) as error:
        chosen.estimate(jnp.ones(shape), x_t, level)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("deviation", [0.0, -1.0, np.nan])
def test_wrong_deviation(deviation):
    with pytest.raises(jd.InputError, match="data_deviation must be above 0, got"):
        jd.predictions.EDM(data_deviation=deviation)


@dataclasses.dataclass(frozen=True)
class Affine:
    """Network that outputs its parameter times the input, plus time and label."""

    num_classes: int | None = None

    def apply(self, variables, x_t, t, labels=None, keys=None):
        add = t if labels is None else t + labels.astype(t.dtype)
        return variables["params"] * x_t + add[:, None]


CONDITIONAL: Any = Affine(num_classes=3)
PLAIN: Any = Affine()
denoise = jax.jit(lambda denoiser, x_t, level: denoiser(x_t, level))


@every_schedule
@every_prediction
def test_bound_network_is_told_the_scaled_image_and_the_time(options, prediction, x64):
    level, x_t = level_of(options), noised(level_of(options))
    labels = np.array([0, 2, 1, 0, 1, 2])
    denoiser: Any = jd.bind(CONDITIONAL, 2.0, jnp.asarray(labels), prediction)
    got = denoise(denoiser, x_t, level)
    scaled = np.asarray(answers(prediction, OUTPUT, x_t, level)[2])
    output = 2 * scaled + (level.t + labels)[:, None]
    expected = answers(prediction, output, x_t, level)[0]
    seen = visible(prediction, options)
    np.testing.assert_allclose(got.x_0[seen], expected.x_0[seen], **CLOSE)
    np.testing.assert_allclose(got.eps[seen], expected.eps[seen], **CLOSE)


BATCH = jd.Batch(np.zeros((2, 2, 2, 1), np.float32), None, np.arange(2))


@pytest.mark.parametrize("options", PURE_NOISE)
def test_eps_without_signal_is_refused_wherever_it_is_chosen(options, tmp_path):
    schedule, key = options().build(), jax.random.key(0)
    denoiser = jd.bind(PLAIN, 1.0, prediction=jd.predictions.Eps())
    chain = (jd.DDPM(), schedule, key, (1, 2))
    for refused in (
        lambda: jd.loss_fn(1.0, PLAIN, schedule, BATCH, key),
        lambda: jd.sample(denoiser, *chain),
        lambda: jd.sample(jd.clip_x0(denoiser), *chain),
        lambda: jd.train(jd.Experiment(schedule=options()), tmp_path / "run"),
    ):
        with pytest.raises(jd.InputError, match=REFUSED):
            refused()
    assert not (tmp_path / "run").exists()


def test_others_start_from_pure_noise():
    """Samples from pure noise are finite for every prediction except eps."""
    schedule = jd.schedules.RectifiedFlow(num_steps=3).build()
    for prediction in PREDICTIONS[1:]:
        denoiser = jd.bind(PLAIN, 0.0, prediction=prediction())
        images = jd.sample(denoiser, jd.DDPM(), schedule, jax.random.key(0), (2, 1))
        assert np.isfinite(images).all()
