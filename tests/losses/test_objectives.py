"""Objectives: the truth is their minimum, by closed form, for every prediction."""

import warnings
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.denoisers.predictions import X0, Prediction
from jaxdiff.evaluation.likelihood import variational_bound
from jaxdiff.losses import Consistency, MeanFlow, Progressive
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.losses.noised import Noised
from jaxdiff.losses.objectives import Objective
from jaxdiff.losses.weightings import WeightingOptions
from jaxdiff.schedules import ScheduleOptions
from tests.helpers.long_parameters import long_where

PREDICTIONS = [prediction() for prediction in get_args(Prediction)]
WEIGHTINGS = [weighting() for weighting in get_args(WeightingOptions)]
SHORT = (jd.Linear, jd.schedules.ZeroTerminalSNR, jd.schedules.VP)
"""Schedules of the tests that are not long: a table of betas, one without signal at its
end, and a continuous one."""
# A list of betas has a number of steps of its own.
KINDS = [kind for kind in get_args(ScheduleOptions) if kind is not jd.schedules.Betas]
SCHEDULES = long_where(lambda options: options not in SHORT, KINDS)
SHAPE = (2, 1, 1)
BATCHES, SIZE = 32, 1024

ORACLES: dict[str, Any] = {
    "gaussian": jd.oracles.Gaussian.of(
        jnp.full(SHAPE, 0.2), jnp.array([[0.2, 0.1], [0.1, 0.3]])
    ),
    "mixture": jd.oracles.GaussianMixture.of(
        jnp.array([0.3, 0.7]),
        [
            jd.oracles.Gaussian.of(
                jnp.array(mean).reshape(SHAPE), jnp.full(SHAPE, variance)
            )
            for mean, variance in (([-0.6, 0.5], 0.01), ([0.4, 0.1], 0.04))
        ],
    ),
}


@cache
def built(options, num_steps=1000):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if options is jd.schedules.ZeroTerminalSNR:
            return options(base=jd.Linear(num_steps=num_steps)).build()
        return options(num_steps=num_steps).build()


def fits(prediction, schedule):
    """Returns True if the prediction is defined at all levels of the schedule."""
    try:
        prediction.check_schedule(schedule)
    except jd.InputError:
        return False
    return True


def rounded(schedule, t):
    """Returns the level of the time that a network receives."""
    if isinstance(schedule, jd.Schedule):
        return schedule.level(t)
    if isinstance(schedule, jd.schedules.VE):
        return jd.Level(t, jnp.ones_like(t), jnp.exp(t / 250))
    t = t / 1000
    if isinstance(schedule, jd.schedules.RectifiedFlow):
        return jd.Level(t, 1 - t, t)
    slope = schedule.beta_max - schedule.beta_min
    log_alpha = -(t**2) * slope / 4 - t * schedule.beta_min / 2
    return jd.Level(t, jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha)))


@dataclass(eq=False)
class Truth:
    """Oracle as a network, which outputs the target plus perturbations.

    The parameters are the sizes of three perturbations of the output: 1, the output
    itself, and the network's input. A fourth parameter is a constant raw variance in
    the second half of the channels.
    """

    oracle: Any
    schedule: Any
    prediction: Any
    num_classes: int | None = None

    def apply(self, variables: Any, x_t, t, labels=None, keys=None) -> Any:
        level = rounded(self.schedule, t)
        estimate = self.oracle(x_t / self.prediction.scaled(x_t * 0 + 1, level), level)
        output = self.prediction.target(estimate.x_0, estimate.eps, level)
        constant, scale, slope, *raw = variables["params"]
        output = output + constant + scale * output + slope * x_t
        if not raw:
            return output
        return jnp.concatenate([output, jnp.full_like(output, raw[0])], axis=-1)


def draws(oracle, key):
    """Returns batches of data [BATCHES, SIZE, ...], and a key for each batch."""
    data, keys = jax.random.split(key)
    x_0 = oracle.draw(data, BATCHES * SIZE).reshape(BATCHES, SIZE, *SHAPE)
    return x_0, jax.random.split(keys, BATCHES)


def moments(samples):
    """Returns the mean of the batches' means [..., BATCHES], and its standard error."""
    samples = np.asarray(samples, np.float64)
    return samples.mean(axis=-1), samples.std(axis=-1, ddof=1) / BATCHES**0.5


STRENGTH = 0.3
NONE = (0.0, 0.0, 0.0)
"""Parameters without perturbation."""


@partial(jax.jit, static_argnames="predictions")
def perturbed_losses(schedule, oracle, key, predictions):
    """Returns each prediction's simple loss [P, 4, BATCHES]: exact, and perturbed."""
    params = STRENGTH * jnp.concatenate([jnp.zeros((1, 3)), jnp.eye(3)])
    x_0, keys = draws(oracle, key)

    def losses(params, x_0, key):
        batch = jd.Batch(x_0, None, jnp.arange(SIZE))
        return jnp.stack(
            [
                jd.loss_fn(params, Truth(oracle, schedule, p), schedule, batch, key, p)[
                    0
                ]
                for p in predictions
            ]
        )

    each = jax.vmap(jax.vmap(losses, (None, 0, 0), 1), (0, None, None), 1)
    return each(params, x_0, keys)


@partial(jax.jit, static_argnames="predictions")
def closed_forms(schedule, oracle, key, predictions):
    """Returns the least loss and its increase by each perturbation [P, 4, BATCHES].

    The output's error is x_0's error, of covariance Cov(x_0 | x_t), over the gain. The
    target a x_0 + b eps has the mean square a^2 m + b^2, and the output has this mean
    square less the error's. The network sees k x_t, of mean square
    k^2 (alpha^2 m + sigma^2).
    """
    x_0, keys = draws(oracle, key)

    def forms(x_0, key):
        u = (jnp.arange(SIZE, dtype=jnp.float32) + jax.random.uniform(key)) / SIZE
        level = schedule.level(schedule.time(u))
        alpha, sigma = level.scales(x_0)
        eps = jax.random.normal(jax.random.fold_in(key, 1), x_0.shape)
        covariance = oracle.posterior_covariance(alpha * x_0 + sigma * eps, level)
        error = jnp.trace(covariance, axis1=-2, axis2=-1) / 2
        m = (x_0**2).mean()
        one, zero = jnp.ones(SIZE), jnp.zeros(SIZE)
        rows = []
        for prediction in predictions:
            least = error / prediction.x0_error_scale(level) ** 2
            a = prediction.target(one, zero, level)
            b = prediction.target(zero, one, level)
            k = prediction.scaled(one, level)
            seen = k**2 * (level.alpha**2 * m + level.sigma**2)
            raised = [STRENGTH**2 * x for x in (one, a**2 * m + b**2 - least, seen)]
            rows.append(jnp.stack([least, *raised]).mean(axis=-1))
        return jnp.stack(rows)

    return jnp.moveaxis(jax.vmap(forms)(x_0, keys), 0, -1)


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("options", SCHEDULES)
def test_the_truth_has_the_least_loss(options, oracle):
    """The minimum is E tr Cov(x_0 | x_t) / (D gain^2), in every prediction.

    Any error of the output adds its mean square to the minimum.
    """
    schedule, data = built(options, 50), ORACLES[oracle]
    # One program serves all discrete schedules, whose signal is a traced value.
    discrete = isinstance(schedule, jd.Schedule)
    predictions = tuple(p for p in PREDICTIONS if discrete or fits(p, schedule))
    kept = [fits(p, schedule) for p in predictions]
    assert sum(kept) == len(PREDICTIONS) - (not schedule.has_terminal_signal)
    losses = perturbed_losses(schedule, data, jax.random.key(2), predictions)
    forms = closed_forms(schedule, data, jax.random.key(3), predictions)
    samples = np.concatenate([losses[:, :1], losses[:, 1:] - losses[:, :1]], axis=1)
    got, error = moments(samples[kept])
    expected, error_of_expected = moments(np.asarray(forms)[kept])
    error = np.hypot(error, error_of_expected)
    np.testing.assert_array_less(abs(got - expected), 4 * error + 1e-6)
    assert (got > 4 * error).all()


@pytest.mark.parametrize("options", KINDS)
def test_a_weight_on_x_0_is_one_loss_for_every_prediction(options):
    """One estimate has one loss per example; in float64, as eps holds little of x_0."""
    schedule = built(options)
    num = 64
    with jax.enable_x64(True):
        level = schedule.level(schedule.time(jnp.linspace(0.0, 1.0, num, dtype="f4")))
        level = jd.Level(level.t, *(x.astype(jnp.float64) for x in level[1:]))
        alpha, sigma = level.scales(jnp.zeros((num, *SHAPE)))
        x_0, eps, error = jax.random.normal(jax.random.key(0), (3, num, *SHAPE))
        x_t = alpha * x_0 + sigma * eps
        noised = Noised(x_0, eps, x_t, level, level)
        belief = x_0 + error, eps - alpha / sigma * error
        snr = np.asarray(level.alpha / level.sigma) ** 2
        square = np.asarray(error**2).mean(axis=(1, 2, 3))
        for weighting in WEIGHTINGS:
            losses = []
            for prediction in PREDICTIONS:
                output = prediction.target(*belief, level)
                loss = jd.losses.Simple(weighting=weighting).losses(
                    lambda *_, output=output: output, noised, prediction, schedule
                )["loss"]
                assert loss.shape == (num,)
                if fits(prediction, schedule):
                    losses.append(loss)
            if isinstance(weighting, jd.losses.Uniform):
                assert np.std(losses, axis=0).min() > 0
                continue
            expected = np.asarray(weighting.x_0_weight(snr)) * square
            for loss in losses:
                np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-12)


def test_the_loss_of_a_weighting_is_one_for_every_prediction():
    schedule, data = built(jd.schedules.VP), ORACLES["mixture"]

    @partial(jax.jit, static_argnums=2)
    def losses(x_0, key, objective):
        batch = jd.Batch(x_0, None, jnp.arange(SIZE))
        return jnp.stack(
            [
                jd.loss_fn(
                    NONE, Truth(data, schedule, p), schedule, batch, key, p, objective
                )[0]
                for p in PREDICTIONS
            ]
        )

    x_0, key = data.draw(jax.random.key(0), SIZE), jax.random.key(1)
    uniform = losses(x_0, key, jd.losses.Simple())
    assert np.std(uniform) > 0.1 * np.mean(uniform)
    for weighting in (jd.losses.MinSNR(), jd.losses.EDMWeighting()):
        same = losses(x_0, key, jd.losses.Simple(weighting=weighting))
        np.testing.assert_allclose(same, same[0], rtol=1e-3)


@pytest.mark.parametrize("options", SCHEDULES)
def test_hybrid_trains_the_mean_as_simple_and_the_variance_as_bound(options):
    schedule, num = built(options), 32
    u, x_0, eps, output = (
        jax.random.uniform(jax.random.key(i), (num, *shape), minval=low)
        for i, shape, low in (
            (0, (), 0),
            (1, SHAPE, -1),
            (2, SHAPE, -2),
            (3, (2, 1, 2), -1),
        )
    )
    t = schedule.time(u).at[0].set(0)  # includes the step onto the data
    level, next_level = schedule.level(t), schedule.next_level(t)
    alpha, sigma = level.scales(x_0)
    noised = Noised(x_0, eps, alpha * x_0 + sigma * eps, level, next_level)

    def gradient(objective, prediction, output):
        def total(output):
            losses = objective.losses(lambda *_: output, noised, prediction, schedule)
            return losses["loss"].sum(), losses

        return jax.grad(total, has_aux=True)(output)

    simple = jd.losses.Simple(weighting=jd.losses.MinSNR())
    weight = 2.0**-7  # exact in float32, so that both round alike
    hybrid = jd.losses.Hybrid(weighting=jd.losses.MinSNR(), bound_weight=weight)
    for prediction in PREDICTIONS:
        if not fits(prediction, schedule):
            continue
        learned = replace(prediction, learn_variance=True)
        got, parts = gradient(hybrid, learned, output)
        mean, of_simple = gradient(simple, prediction, output[..., :1])
        bound, of_bound = gradient(jd.losses.Bound(), learned, output)
        np.testing.assert_array_equal(got[..., :1], mean)
        np.testing.assert_allclose(got[..., 1:], weight * bound[..., 1:], rtol=1e-6)
        assert np.count_nonzero(bound) > 0.9 * bound.size
        np.testing.assert_array_equal(parts["simple"], of_simple["loss"])
        np.testing.assert_array_equal(parts["bound"], of_bound["loss"])
        whole = parts["simple"] + weight * parts["bound"]
        np.testing.assert_allclose(parts["loss"], whole, rtol=1e-6)


@pytest.mark.parametrize("options", SCHEDULES)
def test_the_best_variance_is_the_true_one(options):
    """For data N(0, d), v = alpha^2 d + sigma^2: Var(x_s | x_t) = beta_ts v_s / v_t.

    At this variance the bound's slope by the fraction is 0. The slope is negative below
    and positive above.
    """
    schedule, d, num = built(options, 20), 0.3, 4000
    data = jd.oracles.Gaussian.of(jnp.zeros(SHAPE), d)
    prediction = jd.predictions.V(learn_variance=True)
    for place in (1, 6, 12, 19):
        t = jnp.full(num, schedule.times[place])
        level, next_level = schedule.level(t), schedule.next_level(t)
        keys = jax.random.split(jax.random.key(place))
        x_0 = data.draw(keys[0], num)
        eps = jax.random.normal(keys[1], x_0.shape)
        alpha, sigma = level.scales(x_0)
        noised = Noised(x_0, eps, alpha * x_0 + sigma * eps, level, next_level)
        estimate = data(noised.x_t, level)
        target = prediction.target(estimate.x_0, estimate.eps, level)

        a_t, s_t, a_s, s_s = (float(x[0]) for x in (*level[1:], *next_level[1:]))
        large = s_t**2 - (a_t / a_s * s_s) ** 2
        small = large * s_s**2 / s_t**2
        true = large * (a_s**2 * d + s_s**2) / (a_t**2 * d + s_t**2)
        best = np.log(true / small) / np.log(large / small)

        def losses(fraction, target=target, noised=noised):
            raw = jnp.full_like(target, 2 * fraction - 1)
            output = jnp.concatenate([target, raw], axis=-1)
            return jd.losses.Bound().losses(
                lambda *_: output, noised, prediction, schedule
            )["loss"]

        # The mean slope in standard errors.
        below, there, above = (
            slopes.mean() / slopes.std() * num**0.5
            for fraction in (best - 0.1, best, best + 0.1)
            for slopes in jax.jvp(losses, (jnp.float32(fraction),), (jnp.float32(1),))[
                1:
            ]
        )
        assert abs(there) < 4
        assert below < -6
        assert above > 6


VARIANCES = (
    jd.samplers.FixedSmall(),
    jd.samplers.FixedLarge(),
    jd.samplers.LearnedRange(),
)
FRACTION = 0.3


@jax.jit
def bound_losses(schedule, oracle, key):
    """Returns the loss of random terms, total and by quarter, [variance, 5, BATCHES].

    The second result holds the metrics of the hybrid objective.
    """
    x_0, keys = draws(oracle, key)

    def losses(x_0, key):
        batch = jd.Batch(x_0, None, jnp.arange(SIZE))

        def metrics_of(objective, learned):
            prediction = jd.predictions.V(learn_variance=learned)
            params = (*NONE, 2 * FRACTION - 1) if learned else NONE
            network = Truth(oracle, schedule, prediction)
            return jd.loss_fn(
                params, network, schedule, batch, key, prediction, objective
            )[1]

        rows = []
        for variance in VARIANCES:
            learned = isinstance(variance, jd.samplers.LearnedRange)
            metrics = metrics_of(jd.losses.Bound(variance=variance), learned)
            quarters = metrics["loss_by_quarter"] / metrics["share_by_quarter"]
            rows.append(jnp.append(metrics["loss"], quarters))
        return jnp.stack(rows), metrics_of(jd.losses.Hybrid(), True)

    return jax.vmap(losses, out_axes=(2, 0))(x_0, keys)


def with_fraction(oracle, x_t, level):
    return oracle(x_t, level)._replace(variance_fraction=jnp.full_like(x_t, FRACTION))


@pytest.mark.parametrize("options", SCHEDULES)
def test_the_bound_is_the_sum_of_its_terms(options):
    """The mean of T L_t over a random t is the sum over all t in `variational_bound`.

    With four steps, each quarter of the time range is one step.
    """
    schedule, data = built(options, 4), ORACLES["gaussian"]
    losses, hybrid = bound_losses(schedule, data, jax.random.key(0))
    got, error = moments(losses)
    denoiser = jax.tree_util.Partial(with_fraction, data)
    x_0 = data.draw(jax.random.key(1), 4096)
    bounds = variational_bound(denoiser, schedule, x_0, jax.random.key(2), VARIANCES)
    terms = np.stack([np.asarray(bound.terms, np.float64) for bound in bounds])
    totals = terms.sum(axis=-1, keepdims=True)
    every = np.concatenate([totals, 4 * terms], axis=-1)
    error = np.hypot(error, every.std(axis=1) / every.shape[1] ** 0.5)
    np.testing.assert_array_less(abs(got - every.mean(axis=1)), 4 * error)
    assert (error[:, 0] < 0.03 * got[:, 0]).all()

    np.testing.assert_allclose(hybrid["bound"], losses[-1, 0], rtol=1e-5)
    whole = hybrid["simple"] + 1e-3 * hybrid["bound"]
    np.testing.assert_allclose(hybrid["loss"], whole, rtol=1e-5)


# Options that do not fit.

LEARNED = jd.predictions.Eps(learn_variance=True)
MISMATCHES = [
    (jd.losses.Simple(), LEARNED, "must be off for the objective simple"),
    (
        jd.losses.Hybrid(),
        jd.predictions.Eps(),
        "must be on for the objective hybrid",
    ),
    (
        jd.losses.Bound(),
        jd.predictions.Eps(),
        "must be on for the bound with a learned variance",
    ),
    (
        jd.losses.Bound(variance=jd.samplers.FixedSmall()),
        LEARNED,
        "must be off for the bound with a fixed variance",
    ),
    (
        jd.losses.Bound(variance=jd.samplers.FixedLarge()),
        LEARNED,
        "must be off for the bound with a fixed variance",
    ),
]


@pytest.mark.parametrize(("objective", "prediction", "message"), MISMATCHES)
def test_a_prediction_that_does_not_fit(short, objective, prediction, message):
    batch = jd.Batch(jnp.zeros((1, *SHAPE)), None, jnp.arange(1))
    with pytest.raises(jd.InputError, match=message) as one:
        jd.loss_fn(
            None,
            Truth(None, None, None),
            short,
            batch,
            jax.random.key(0),
            prediction,
            objective,
        )
    with pytest.raises(jd.InputError, match=message) as other:
        jd.Experiment(prediction=prediction, objective=objective).check(short)
    assert str(one.value) == str(other.value)
    assert "\n" not in str(one.value)
    assert "choose" in str(one.value)


def test_predictions_that_fit(short):
    fitting: dict[type, list[tuple[Any, bool]]] = {
        jd.losses.Simple: [(jd.losses.Simple(), False)],
        jd.losses.Hybrid: [(jd.losses.Hybrid(), True)],
        jd.losses.Bound: [
            (jd.losses.Bound(), True),
            (jd.losses.Bound(variance=jd.samplers.FixedSmall()), False),
            (jd.losses.Bound(variance=jd.samplers.FixedLarge()), False),
        ],
        Consistency: [(Consistency(), False)],
        Progressive: [(Progressive(), False)],
    }
    # A mean flow is of one schedule; its own tests have it.
    assert {*fitting, MeanFlow} == {*get_args(Objective)}
    for member, choices in fitting.items():
        for objective, learn in choices:
            for prediction in get_args(Prediction):
                if (member, prediction) == (Consistency, X0):
                    continue  # refused: it is not the identity without noise
                options = prediction(learn_variance=learn)
                own = own_sampler(objective) or jd.DDPM()
                jd.Experiment(
                    prediction=options, objective=objective, init="runs/teacher",
                    sampling=jd.training.Sampling(sampler=own),
                ).check(short)  # fmt: skip


def test_eps_needs_signal_to_the_end():
    batch = jd.Batch(jnp.zeros((1, *SHAPE)), None, jnp.arange(1))
    for options in (jd.schedules.ZeroTerminalSNR, jd.schedules.RectifiedFlow):
        with pytest.raises(jd.InputError, match="must not divide by the signal scale"):
            jd.loss_fn(
                None, Truth(None, None, None), built(options), batch, jax.random.key(0)
            )


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_bad_options(weight):
    with pytest.raises(jd.InputError, match=r"^bound_weight must be above 0, got"):
        jd.losses.Hybrid(bound_weight=weight)
