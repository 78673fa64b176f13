"""Guidance against the exact scores of Gaussian mixtures, and as one network call."""

import functools
import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

import jaxdiff as jd

IMAGE, LABELS = (2, 2, 1), np.array([0, 1, 1, 0, 1])
VP, VE, STRAIGHT = jd.schedules.VP(), jd.schedules.VE(), jd.schedules.RectifiedFlow()
OF: Any = jd.oracles.GaussianMixture.of  # Any, to pass lists as arrays
MIX: Any = jd.guidance.mix_classes
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-9}
SINGLE: Any = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@functools.cache
def mixture() -> Any:
    """Returns a mixture of three Gaussians in two classes, in float64."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        roots = rng.normal(size=(3, 4, 4))
        components = [
            jd.oracles.Gaussian.of(
                1.5 * rng.normal(size=IMAGE), r @ r.T / 4 + 0.1 * np.eye(4)
            )
            for r in roots
        ]
        return OF([0.5, 0.3, 0.2], components, [0, 1, 1])


def conditional() -> Any:
    return mixture().bind(LABELS)


@functools.cache
def weaker() -> Any:
    """Returns the mixture with wider components, bound to the labels."""
    one = conditional()
    wider = replace(one.components, variances=2 * one.components.variances + 0.5)
    return replace(one, components=wider)


@functools.cache
def noised(options: Any) -> tuple[Any, Any]:
    """Returns five noisy images and their levels, at the first to the last time."""
    with jax.enable_x64(True):
        schedule = options.build()
        times = np.asarray(schedule.times)[[0, 250, 500, 750, -1]]
        level = jax.tree.map(np.float64, schedule.level(times))
        x_0 = mixture().draw(jax.random.key(1), 5)
        eps = np.random.default_rng(2).normal(size=(5, *IMAGE))
        alpha, sigma = level.scales(x_0)
        return alpha * x_0 + sigma * eps, level


@jax.jit
def ask(denoiser, x_t, level):
    return denoiser(x_t, level)


def assert_same(got, wanted, close=CLOSE):
    for a, b in zip(got[:2], wanted[:2], strict=True):
        np.testing.assert_allclose(a, b, **close)


def assert_consistent(estimate, x_t, level):
    """Asserts x_t = alpha x_0 + sigma eps, up to the rounding of the parts."""
    alpha, sigma = level.scales(x_t)
    parts = alpha * estimate.x_0, sigma * estimate.eps
    size = abs(x_t) + abs(parts[0]) + abs(parts[1])
    assert (abs(x_t - parts[0] - parts[1]) <= 1e-11 * size).all()


def log_prob(oracle, labels, x_t, level):
    """Returns the classifier log p(label | x_t), by Bayes' rule."""
    ours = oracle.classes[:, None] == labels[None]
    prior = jnp.where(ours, jnp.exp(oracle.log_weights)[:, None], 0.0).sum(axis=0)
    given = oracle.bind(labels).log_density(x_t, level)
    return given + jnp.log(prior) - oracle.log_density(x_t, level)


def classifier() -> Any:
    return Partial(log_prob, mixture(), jnp.asarray(LABELS))


def mixed(denoiser):
    return MIX(denoiser, [LABELS, 1 - LABELS], jnp.array([0.7, 0.3]))


def fixed(x_0: Any) -> Any:
    """Returns a denoiser that always estimates `x_0`."""
    return lambda x_t, level: jd.predictions.X0().estimate(x_0, x_t, level)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("options", [jd.Linear(), VP, VE, STRAIGHT], ids=repr)
def test_classifier_free_follows_the_guided_score(options, weight, x64):
    (x_t, level), free, given = noised(options), mixture(), conditional()
    got = ask(jd.classifier_free_guidance(given, weight), x_t, level)
    score = (1 - weight) * free.score(x_t, level) + weight * given.score(x_t, level)
    alpha, sigma = level.scales(x_t)
    np.testing.assert_allclose(got.eps, -sigma * score, **CLOSE)
    # Tweedie's formula; without signal, the estimate is the data's mean.
    tweedie = (x_t + sigma**2 * score) / jnp.where(alpha > 0, alpha, jnp.nan)
    mean = (1 - weight) * free(x_t, level).x_0 + weight * given(x_t, level).x_0
    expected = jnp.where(alpha > 0, tweedie, mean)
    np.testing.assert_allclose(got.x_0, expected, rtol=1e-7, atol=1e-7)
    assert_consistent(got, x_t, level)
    if weight in (0, 1):
        assert_same(got, ask((free, given)[int(weight)], x_t, level))
    else:
        assert abs(got.x_0 - given(x_t, level).x_0).max() > 0.1


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_classifier_free_network(tiny, short, dtype):
    """Weights 0, 1 and 2 give the null class, the class, and an extrapolation."""
    network, params = tiny
    labels = np.array([3, 0, 9], dtype)
    x_t, level = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), short.level(12)
    given = ask(jd.bind(network, params, labels), x_t, level)
    free = ask(jd.bind(network, params), x_t, level)
    assert abs(given.eps - free.eps).max() > 0.05
    guided = [
        ask(
            jd.classifier_free_guidance(jd.bind(network, params, labels), w), x_t, level
        )
        for w in (0.0, 1.0, 2.0)
    ]
    onward = jax.tree.map(lambda a, b: 2 * a - b, given, free)
    for got, wanted in zip(guided, (free, given, onward), strict=True):
        assert_same(got, wanted, {"rtol": 1e-3, "atol": 1e-4})


class Told:
    """Network of three classes that outputs its `labels`."""

    num_classes = 3

    def apply(self, variables, x, t, labels=None, keys=None):
        return jnp.zeros_like(x) + labels.astype(x.dtype)[:, None]


def test_without_a_class_the_network_is_told_the_one_after_the_last(short):
    network: Any = Told()
    denoiser = jd.bind(network, {}, jnp.array([2, 0]))
    for weight, answers in ((0.0, [3, 3]), (1.0, [2, 0]), (3.0, [0, -6])):
        guided = jd.classifier_free_guidance(denoiser, weight)
        eps = guided(jnp.zeros((2, 1)), short.level(5)).eps
        np.testing.assert_array_equal(eps[:, 0], answers)


def test_classifier_free_is_one_call_of_the_network(tiny, short):
    network, params = tiny
    calls = []

    class Counting:
        num_classes = network.num_classes

        def apply(self, *args):
            calls.append(args)
            return network.apply(*args)

    denoiser = jd.bind(Counting(), params, np.array([3, 4]))
    args = jnp.ones((2, 8, 8, 1)), short.level(12)

    def text(denoiser):
        lowered = jax.jit(lambda *args: denoiser(*args)).lower(*args)
        return lowered.as_text(), lowered.compile().as_text()

    plain = text(denoiser)
    calls.clear()
    guided = text(jd.classifier_free_guidance(denoiser, 2.0))
    assert len(calls) == 1
    # Both branches share the two convolutions before the class embedding.
    found = [
        re.findall(r"stablehlo\.convolution.* -> tensor<(\d+)x", lowered)
        for lowered, _ in (plain, guided)
    ]
    assert set(found[0]) == {"2"}
    assert found[1] == ["2", "2"] + ["4"] * (len(found[0]) - 2)
    compiled = [len(re.findall(r" convolution\(", text)) for _, text in (plain, guided)]
    assert compiled[0] == compiled[1] > 0


def test_weights_for_each_image(x64):
    (x_t, level), weights = noised(VP), np.array([0.0, 1.0, 2.5, -1.0, 7.0])
    for one in (level, jax.tree.map(lambda a: a[1], level)):
        for guide in (
            lambda w: jd.classifier_free_guidance(conditional(), w),
            lambda w: jd.guidance.autoguidance(conditional(), weaker(), w),
        ):
            got = ask(guide(jnp.asarray(weights)), x_t, one)
            for i, weight in enumerate(weights):
                single = ask(guide(weight), x_t, one)
                row = jax.tree.map(lambda a, i=i: a[i], (got, single))
                assert_same(*row)


@pytest.mark.parametrize("options", [VP, VE], ids=repr)
def test_guided_only_in_the_interval(options, x64):
    x_t, level = noised(options)
    low, high = (level.sigma / level.alpha)[[2, 3]]
    interval = (low * (1 - 1e-12), high * (1 + 1e-12))
    for inner, guide in (
        (conditional(), partial(jd.classifier_free_guidance, conditional())),
        (mixture(), partial(jd.guidance.autoguidance, mixture(), weaker())),
    ):
        got = ask(guide(3.0, interval=interval), x_t, level)
        whole, plain = ask(guide(3.0), x_t, level), ask(inner, x_t, level)
        # The interval holds the third and fourth of the five levels.
        inside = np.array([0, 0, 1, 1, 0], bool).reshape(5, 1, 1, 1)
        wanted = jax.tree.map(partial(jnp.where, inside), whole, plain)
        assert_same(got, wanted)
        assert (abs(whole.x_0 - plain.x_0).max(axis=(1, 2, 3))[1:] > 1e-3).all()


def test_an_interval_up_to_infinity_guides_pure_noise(x64):
    x_t, level = noised(STRAIGHT)
    for guide in (
        partial(jd.classifier_free_guidance, conditional()),
        partial(jd.guidance.autoguidance, mixture(), weaker()),
    ):
        low = level.sigma[3] / level.alpha[3] * (1 - 1e-12)
        got = ask(guide(3.0, interval=(low, np.inf)), x_t, level)
        whole, plain = (ask(guide(weight), x_t, level) for weight in (3.0, 1.0))
        inside = np.array([0, 0, 0, 1, 1], bool).reshape(5, 1, 1, 1)
        assert float(level.alpha[-1]) == 0
        assert_same(got, jax.tree.map(partial(jnp.where, inside), whole, plain))
        assert abs(whole.x_0 - plain.x_0)[-1].max() > 1e-3


def test_rescale_of_an_image_without_contrast_has_a_derivative():
    """A single pixel has the deviation 0, at which a root has no derivative."""
    parts = [
        jd.oracles.Gaussian.of(np.full((1, 1), m, np.float32), 0.3) for m in (0, 1)
    ]
    denoiser = OF([0.5, 0.5], parts).bind(np.array([0, 1]))
    level = jd.Linear().build().level(500)

    def total(x_t, rescale):
        guided = jd.classifier_free_guidance(denoiser, 2.0, rescale=rescale)
        return guided(x_t, level).x_0.sum()

    x_t = jnp.ones((2, 1, 1))
    found, plain = (jax.grad(total)(x_t, rescale) for rescale in (0.7, 0.0))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, plain, rtol=1e-6)


@pytest.mark.parametrize("options", [VP, STRAIGHT], ids=repr)
def test_rescale_gives_back_the_contrast(options, x64):
    x_t, level = noised(options)

    def contrast(estimate):
        return np.std(estimate.x_0, axis=(1, 2, 3))

    wanted = contrast(ask(conditional(), x_t, level))
    plain, half, whole = (
        ask(jd.classifier_free_guidance(conditional(), 4.0, rescale=share), x_t, level)
        for share in (0.0, 0.5, 1.0)
    )
    assert abs(contrast(plain) / wanted - 1).max() > 0.3
    np.testing.assert_allclose(contrast(whole), wanted, rtol=1e-9)
    mean = (plain.x_0 + whole.x_0) / 2
    np.testing.assert_allclose(half.x_0, mean, **CLOSE)
    ratio = (wanted / contrast(plain))[:, None, None, None]
    np.testing.assert_allclose(whole.x_0, ratio * plain.x_0, **CLOSE)
    for estimate in (plain, half, whole):
        assert_consistent(estimate, x_t, level)


def test_an_image_without_contrast_stays_finite(short):
    flat = Partial(lambda x_t, level: jd.predictions.X0().estimate(0 * x_t, x_t, level))
    oracle: Any = OF([1.0], [jd.oracles.Gaussian.of(np.zeros(3, "f"), 1e-30)])
    for denoiser in (
        oracle.bind([0, 0]),
        jd.guidance.autoguidance(flat, oracle.bind([0, 0]), 1),
    ):
        got = jd.classifier_free_guidance(denoiser, 2.0, rescale=1.0)(
            jnp.zeros((2, 3)), short.level(5)
        )
        assert jnp.isfinite(jnp.stack(got[:2])).all()


def test_autoguidance_goes_on_past_the_weak_model(x64):
    x_t, level = noised(VE)
    good, weak = (e(x_t, level) for e in (conditional(), weaker()))
    assert abs(good.x_0 - weak.x_0).max() > 0.1
    onward = jax.tree.map(lambda a, b: 2 * a - b, good, weak)
    for weight, wanted in ((0.0, weak), (1.0, good), (2.0, onward)):
        guided = jd.guidance.autoguidance(conditional(), weaker(), weight)
        assert_same(ask(guided, x_t, level), wanted)


@pytest.mark.parametrize("options", [VP, VE], ids=repr)
def test_the_exact_classifier_makes_the_conditional_model(options, x64):
    x_t, level = noised(options)
    got = ask(jd.guidance.classifier_guidance(mixture(), classifier()), x_t, level)
    close: Any = {"rtol": 1e-7, "atol": 1e-7}
    assert_same(got, ask(conditional(), x_t, level), close)
    # Another weight gives classifier-free guidance of the same weight.
    got = ask(jd.guidance.classifier_guidance(mixture(), classifier(), 2.5), x_t, level)
    free = ask(jd.classifier_free_guidance(conditional(), 2.5), x_t, level)
    assert_same(got, free, close)


TRANSFORMS: dict[str, Any] = {
    "classifier_free_guidance": lambda d: jd.classifier_free_guidance(
        d, 2.5, rescale=0.3
    ),
    "autoguidance": lambda d: jd.guidance.autoguidance(d, weaker(), 1.8),
    "classifier_guidance": lambda d: jd.guidance.classifier_guidance(
        d, classifier(), 1.5
    ),
    "clip_x0": lambda d: jd.clip_x0(d, -0.8, 0.9),
    "dynamic_threshold": lambda d: jd.denoisers.dynamic_threshold(d, 0.6),
    "mix_classes": mixed,
}
STACKS = [
    *((name,) for name in TRANSFORMS),
    ("classifier_free_guidance", "dynamic_threshold"),
    ("dynamic_threshold", "classifier_free_guidance"),
    ("mix_classes", "autoguidance"),
    (
        "dynamic_threshold",
        "classifier_guidance",
        "mix_classes",
        "classifier_free_guidance",
    ),
]


@pytest.mark.parametrize("names", STACKS, ids="-".join)
def test_what_is_estimated_adds_up_to_x_t(names, x64):
    """The sum holds also at the straight path's last level, which has no signal."""
    x_t, level = noised(STRAIGHT)
    assert level.alpha[-1] == 0
    denoiser = conditional()
    for name in names:
        denoiser = TRANSFORMS[name](denoiser)
    estimate = ask(denoiser, x_t, level)
    assert jnp.isfinite(jnp.stack(estimate[:2])).all()
    assert_consistent(estimate, x_t, level)
    assert abs(estimate.x_0 - conditional()(x_t, level).x_0).max() > 0.01


def test_the_outer_transform_has_the_last_word(x64):
    x_t, level = noised(VP)
    clip, guide = (
        TRANSFORMS["clip_x0"],
        partial(jd.classifier_free_guidance, weight=4.0),
    )
    clipped = ask(clip(guide(conditional())), x_t, level)
    whole = ask(guide(conditional()), x_t, level)
    np.testing.assert_allclose(clipped.x_0, np.clip(whole.x_0, -0.8, 0.9), **CLOSE)
    guided = ask(guide(clip(conditional())), x_t, level)
    given, free = (
        np.clip(o(x_t, level).x_0, -0.8, 0.9) for o in (conditional(), mixture())
    )
    np.testing.assert_allclose(guided.x_0, free + 4 * (given - free), **CLOSE)
    assert abs(guided.x_0).max() > 1


def test_dynamic_threshold_by_hand():
    rng = np.random.default_rng(0)
    x_0, x_t = rng.normal(size=(2, 4, 3, 3, 2)).astype(np.float32)
    x_0 *= np.array([0.2, 1.0, 3.0, 9.0], np.float32).reshape(4, 1, 1, 1)
    level = VP.build().level(0.5)
    for quantile, maximum in (
        (0.7, np.inf),
        (0.995, np.inf),
        (0.9, 2.0),
        (1.0, np.inf),
    ):
        denoiser = jd.denoisers.dynamic_threshold(fixed(x_0), quantile, maximum)
        got = denoiser(x_t, level)
        for one, image in zip(got.x_0, x_0, strict=True):
            s = min(max(np.quantile(abs(image), quantile), 1.0), maximum)
            np.testing.assert_allclose(one, np.clip(image, -s, s) / s, rtol=1e-5)
        # An image with values in [-1, 1] stays bit-identical.
        np.testing.assert_array_equal(got.x_0[0], x_0[0])
        assert abs(got.x_0).max() <= 1
    same = jd.denoisers.dynamic_threshold(fixed(x_0), 0.7, 1.0)(x_t, level)
    assert_same(same, jd.clip_x0(fixed(x_0))(x_t, level), {"rtol": 1e-6})


def test_mix_of_classes(x64):
    (x_t, level), free = noised(VP), mixture()
    given = [free.bind(np.full(5, label))(x_t, level) for label in (0, 1)]
    classes, part = np.array([[0] * 5, [1] * 5]), np.linspace(0, 1, 5)
    for one in (0, 1):
        alone = jd.guidance.mix_classes(conditional(), classes, np.eye(2)[one])
        assert_same(ask(alone, x_t, level), given[one])
    shares = np.stack([1 - part, part])
    blend = jd.guidance.mix_classes(conditional(), classes, shares)
    wide = part.reshape(5, 1, 1, 1)
    wanted = jax.tree.map(lambda a, b: (1 - wide) * a + wide * b, *given)
    assert_same(ask(blend, x_t, level), wanted)
    got = ask(jd.classifier_free_guidance(blend, 3.0), x_t, level)
    onward = jax.tree.map(lambda b, m: b + 3 * (m - b), free(x_t, level), wanted)
    assert_same(got, onward)


def test_soft_labels(tiny, short):
    network, params = tiny
    labels, others = np.array([3, 0, 9]), np.array([5, 5, 1])
    x_t, level = jax.random.normal(jax.random.key(0), (3, 8, 8, 1)), short.level(12)

    def bound(labels):
        return jd.bind(network, params, labels)

    def answer(labels):
        return ask(bound(labels), x_t, level)

    rows = np.eye(10, dtype=np.float32)
    assert_same(answer(rows[labels]), answer(labels), SINGLE)
    assert_same(answer(0 * rows[labels]), answer(None), SINGLE)
    # Halves of two classes are a class with the mean embedding.
    halves = (rows[labels] + rows[others]) / 2
    table = params["label"]["embedding"]
    means = (table[labels] + table[others]) / 2
    replaced = {**params, "label": {"embedding": table.at[:3].set(means)}}
    wanted = ask(jd.bind(network, replaced, np.arange(3)), x_t, level)
    assert_same(answer(halves), wanted, SINGLE)
    assert abs(wanted.eps - answer(labels).eps).max() > 0.05
    # The unconditional model of soft labels is the null class.
    guided = ask(jd.classifier_free_guidance(bound(halves), 2.0), x_t, level)
    onward = jax.tree.map(lambda a, b: 2 * a - b, wanted, answer(None))
    assert_same(guided, onward, {"rtol": 1e-3, "atol": 1e-3})


@functools.cache
def guided_paths() -> tuple[Any, np.ndarray, np.ndarray]:
    """Returns a guided oracle, noises, and SciPy's ends of the guided ODE."""
    means = np.array([[1.0, 0.5], [-1.0, 0.0]])
    covariances = np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.5]]])

    def score(x, sigma):
        each = [c + sigma**2 * np.eye(2) for c in covariances]
        densities = [
            multivariate_normal(m, c).pdf(x) for m, c in zip(means, each, strict=True)
        ]
        p = np.array(densities) / sum(densities)
        scores = np.array(
            [np.linalg.solve(c, m - x) for m, c in zip(means, each, strict=True)]
        )
        return -1.0 * p @ scores + 2.0 * scores[0]  # weight 2

    x_T = 25 * np.random.default_rng(0).normal(size=(4, 2))
    ends = [
        solve_ivp(
            lambda sigma, x: -sigma * score(x, sigma), (25, 0.01), x,
            rtol=1e-8, atol=1e-10,
        ).y[:, -1]
        for x in x_T
    ]  # fmt: skip
    with jax.enable_x64(True):
        parts = [
            jd.oracles.Gaussian.of(m, c)
            for m, c in zip(means, covariances, strict=True)
        ]
        oracle = OF(np.ones(2), parts)
        return (
            jd.classifier_free_guidance(oracle.bind(np.zeros(4, int)), 2.0),
            x_T,
            np.array(ends),
        )


@pytest.mark.parametrize("sampler", [jd.Heun, jd.DPMSolver, jd.samplers.UniPC])
def test_a_guided_chain_follows_the_guided_ode(sampler, x64):
    denoiser, x_T, ends = guided_paths()
    schedule = jd.schedules.VE(sigma_min=0.01, sigma_max=25.0).build()
    spacing = jd.spacing.Karras(num_steps=80, to_data=False)
    images = jd.sample(
        denoiser, sampler(spacing=spacing), schedule, jax.random.key(0), (4, 2),
        x_T=jnp.asarray(x_T),
    )  # fmt: skip
    assert images.dtype == jnp.float64
    np.testing.assert_allclose(images, ends, atol=5e-3)


PAIR = OF([1.0, 1.0], [jd.oracles.Gaussian.of(np.zeros(3, "f"), 1.0)] * 2)
BOUND = PAIR.bind(np.array([0, 1]))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (
            lambda: jd.classifier_free_guidance(PAIR, 2.0),
            r"bound to labels .* Bind it, as run\.den",
        ),
        (lambda: jd.classifier_free_guidance(fixed(1.0), 2.0), "bound to labels"),
        (lambda: jd.classifier_free_guidance(jd.clip_x0(PAIR), 2.0), "bound to labels"),
        (
            lambda: jd.classifier_free_guidance(BOUND, 2.0, rescale=1.5),
            r"rescale must lie in 0\.\.1, got 1\.5",
        ),
        (lambda: jd.classifier_free_guidance(BOUND, 2.0, rescale=-0.1), r"got -0\.1"),
        (
            lambda: jd.classifier_free_guidance(BOUND, 2.0, interval=(2.0, 1.0)),
            r"interval must be \(low, high\) .*, got \(2\.0, 1\.0\)",
        ),
        (
            lambda: jd.classifier_free_guidance(BOUND, 2.0, interval=(-1.0, 1.0)),
            r"0 <= low",
        ),
        (
            lambda: jd.guidance.autoguidance(PAIR, PAIR, 2.0, interval=(3.0, 1.0)),
            "interval",
        ),
        (lambda: MIX(PAIR, [[0], [1]], [0.5, 0.5]), "bound to labels"),
        (
            lambda: MIX(BOUND, [0, 1], [0.5, 0.5]),
            r"labels must be \[K, batch\] .*, got shapes \(2,\) and \(2,\)",
        ),
        (
            lambda: MIX(BOUND, np.zeros((3, 2), int), np.ones(2) / 2),
            r"shares \[K\] or \[K, batch\], got shapes \(3, 2\) and \(2,\)",
        ),
        (
            lambda: jd.denoisers.dynamic_threshold(PAIR, 1.5),
            r"quantile must lie in 0\.\.1, got",
        ),
        (lambda: jd.denoisers.dynamic_threshold(PAIR, -0.5), r"quantile .* got -0\.5"),
        (
            lambda: jd.denoisers.dynamic_threshold(PAIR, 0.9, 0.5),
            "maximum must be at least 1, g",
        ),
        (lambda: jd.clip_x0(PAIR, 1.0, 1.0), "low must be less than high, got 1 and"),
    ],
)
def test_mistakes(mistake, message):
    with pytest.raises(jd.InputError, match=message) as error:
        mistake()
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)
