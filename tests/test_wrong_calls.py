"""Wrong calls in Python: each raises a one-line `InputError` with name and value."""

import dataclasses
import pickle
import signal
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.data.dataset import EmptySplit
from jaxdiff.data.streaming import Unreadable
from jaxdiff.parallel.preemption import Terminated
from jaxdiff.runs.folder import read_record
from jaxdiff.storage.manifest import Damaged
from tests.helpers.fake_run import CONFIG, NETWORK

# B is the shape of 4 grey images of 8x8 pixels.

B = (4, 8, 8, 1)
X, N = jnp.zeros(B), jnp.ones(B)
IMAGES, LABELS = np.zeros(B, np.float32), np.zeros(4, np.int32)
INDICES = np.arange(4, dtype=np.int32)
SCHEDULE: Any = CONFIG.schedule.build()
KEY = jax.random.key(0)
SMALL = NETWORK.build(out_channels=1)
"""Network without classes."""


# Untyped, for calls that the types forbid.
bind: Any = jd.bind
q_sample: Any = jd.q_sample
q_posterior: Any = jd.q_posterior


def oracle(x_t, level):
    return jd.predictions.Eps().estimate(x_t * level.scales(x_t)[1], x_t, level)


def loss(network: Any, images: Any, labels: Any, indices: Any = INDICES) -> Any:
    batch = jd.Batch(images, labels, indices)
    return jd.loss_fn({}, network, SCHEDULE, batch, KEY)


def sample(shape: Any = B, denoiser: Any = oracle, **options: Any) -> Any:
    return jd.sample(denoiser, jd.DDPM(), SCHEDULE, KEY, shape, **options)


def p_step(x_t: Any = X, t: Any = 1, **options: Any) -> Any:
    return jd.p_sample_step(oracle, SCHEDULE, x_t, t, KEY, **options)


def betas(*values: Any) -> Any:
    return jd.Schedule.from_betas(np.array(values))


SHAPES = r"one shape, got \(4, 8, 8, 1\) and "
T_RANGE = r"t must lie in 0\.\.7, got "
T_TYPE = "t must be of an integer type, got float32"
T_SHAPE = r"t must be one number, or one per example \(\(4,\)\), got shape "
RANGE = r"images must lie in \[-1, 1\], got .*\. Scale them \(to_float"
NO_CLASSES = (
    r"labels must be None, because the network has no classes\. Omit the labels"
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: q_sample(SCHEDULE, X, 8, N), T_RANGE + "8"),
        (lambda: q_sample(SCHEDULE, X, -1, N), T_RANGE + "-1"),
        (lambda: q_sample(SCHEDULE, X, np.array([0, 1, 2, 9]), N), T_RANGE + "9"),
        (lambda: q_sample(SCHEDULE, X, 1.0, N), T_TYPE),
        (lambda: q_sample(SCHEDULE, X, jnp.arange(3), N), T_SHAPE + r"\(3,\)"),
        (lambda: q_sample(SCHEDULE, X, jnp.zeros(B[:2], int), N), T_SHAPE),
        (lambda: q_sample(SCHEDULE, X, 1, N[:2]), SHAPES + r"\(2, 8, 8, 1\)"),
        (lambda: q_sample(SCHEDULE, X, 1, N[0]), SHAPES + r"\(8, 8, 1\)"),
        (
            lambda: q_sample(SCHEDULE, X.astype(jnp.uint8), 1, N),
            r"x_0 must be floating point, got uint8. Scale images",
        ),
        (
            lambda: q_sample(SCHEDULE, X, 1, N.astype(int)),
            "noise must be floating point, got int32",
        ),
        (lambda: jd.q_step(SCHEDULE, X, 8, N), T_RANGE + "8"),
        (lambda: jd.q_step(SCHEDULE, X, jnp.float32(1), N), T_TYPE),
        (lambda: jd.q_step(SCHEDULE, X, 1, N[..., 0]), "x_prev and noise .*" + SHAPES),
        (lambda: jd.q_step(SCHEDULE, X.astype(int), 1, N), "x_prev must be floating"),
        (lambda: q_posterior(SCHEDULE, X, N, -1), T_RANGE + "-1"),
        (lambda: q_posterior(SCHEDULE, X, N, 1.0), T_TYPE),
        (lambda: q_posterior(SCHEDULE, X, N[:1], 1), "x_0 and x_t .*" + SHAPES),
        (lambda: q_posterior(SCHEDULE, X, N.astype(int), 1), "x_t must be floating"),
        (lambda: p_step(t=8), T_RANGE + "8"),
        (lambda: p_step(t=1.0), T_TYPE),
        (lambda: sample(()), r"shape must have positive sizes, got \(\)"),
        (lambda: sample((4, 0, 8, 1)), r"positive sizes, got \(4, 0, 8, 1\)"),
        (lambda: sample(every=0), "every must be at least 1, got 0"),
        (lambda: sample(every=1.5), r"every must be a whole number, got 1\.5"),
        (
            lambda: sample(
                levels=SCHEDULE.level(SCHEDULE.times)._replace(t=jnp.ones(2))
            ),
            r"levels must have fields of one shape \[N \+ 1\], N at least 1, got \(2,",
        ),
        (
            lambda: jd.sample(oracle, jd.DDIM, SCHEDULE, KEY, B),  # type: ignore[arg-type]
            r"sampler must be an object, got the class\. Write DDIM\(\)",
        ),
        (
            lambda: jd.sample(oracle, jd.DDPM(), jd.Linear(), KEY, B),  # type: ignore[arg-type]
            r"schedule must be a built schedule, got Linear\. Call its method build",
        ),
        (
            lambda: jd.sample(oracle, jd.DDIM(eta=jnp.ones(4)), SCHEDULE, KEY, B),  # type: ignore[arg-type]
            r"eta must be one number for all images, got shape \(4,\)\. Use jax\.vmap",
        ),
        (
            lambda: sample(indices=jnp.arange(3)),
            r"indices must have shape \(4,\), got \(3,\)",
        ),
        (lambda: sample(x_T=N[:2]), r"x_T must have shape .*, got \(2, 8, 8, 1\)"),
        (
            lambda: sample(noise=N),
            r"noise must have shape \(8, 4, 8, 8, 1\), got \(4, 8, 8, 1\)",
        ),
        (
            lambda: sample((4, 8, 8, 3), bind(SMALL, {})),
            r"images must be \[batch, height, width, 1\], got shape \(4, 8, 8, 3\)",
        ),
        (
            lambda: jd.clip_x0(oracle, 1, -1),
            "low must be less than high, got 1 and -1",
        ),
        (lambda: jd.clip_x0(oracle, 0, 0), "low must be less than high, got 0 and 0"),
        (lambda: betas(), r"betas must be a vector \[T >= 1\], got shape \(0,\)"),
        (lambda: betas([0.1, 0.2]), r"betas must be a vector .*, got shape \(1, 2\)"),
        (lambda: betas(0.1, 0), r"\(0, 1\), got betas\[1\] = 0\. Change"),
        (lambda: betas(0.1, 1, 0.2), r"\(0, 1\), got betas\[1\] = 1\. Change"),
        (lambda: betas(-0.1, 0.5), r"\(0, 1\), got betas\[0\] = -0.1\. Change"),
        (lambda: betas(0.1, np.nan), r"\(0, 1\), got betas\[1\] = nan\. Change"),
        (lambda: bind(SMALL, {}, LABELS), NO_CLASSES),
        (lambda: loss(SMALL, IMAGES, LABELS), NO_CLASSES),
        (
            lambda: loss(SMALL, np.zeros(B, np.uint8), None),
            r"images must be float, scaled to \[-1, 1\], got uint8\. Use to_float",
        ),
        (lambda: loss(SMALL, IMAGES + 255, None), RANGE),
        (lambda: loss(SMALL, IMAGES - 1.5, None), RANGE),
        (lambda: loss(SMALL, IMAGES * np.nan, None), RANGE),
        (
            lambda: loss(SMALL, IMAGES[0], None),
            r"images must be \[batch, .*\], got shape \(8, 8, 1\)",
        ),
        (
            lambda: loss(SMALL, IMAGES, None, INDICES[:3]),
            r"of one length, got \[3, 4\]",
        ),
    ],
)
def test_a_wrong_call_is_one_line_with_what_and_the_value(call, message):
    with pytest.raises(jd.InputError, match=message) as error:
        call()
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def classes():
    """Network of 2 levels with 10 classes, and its parameters."""
    config = dataclasses.replace(NETWORK, multipliers=(1, 2))
    network = config.build(out_channels=1, num_classes=10)
    shapes = jax.eval_shape(network.init, KEY, X, jnp.zeros(4, jnp.int32))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return network, params["params"]


LABEL_RANGE = r"labels must lie in 0\.\.9, got "
LABEL_TYPE = "labels must be a vector of integers, got "
Call = Callable[[Any, Any], Any]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, p: bind(n, p, np.array([3, 10])), LABEL_RANGE + "10"),
        (lambda n, p: bind(n, p, np.array([3, -1])), LABEL_RANGE + "-1"),
        (lambda n, p: bind(n, p, jnp.ones(3)), LABEL_TYPE + "float32"),
        (lambda n, p: bind(n, p, 3), LABEL_TYPE + r".* of shape \(\)"),
        (
            lambda n, p: bind(n, p, np.eye(10, dtype=int)),
            LABEL_TYPE + r".* of shape \(10, 10\)",
        ),
        (
            lambda n, p: bind(n, p, np.arange(3))(X, SCHEDULE.level(0)),
            "labels must be 4, one per image, got 3",
        ),
        (
            lambda n, p: sample(denoiser=bind(n, p, np.arange(3))),
            "labels must be 4, one per image, got 3",
        ),
        (lambda n, p: loss(n, IMAGES, LABELS + 10), LABEL_RANGE + "10"),
        (lambda n, p: loss(n, IMAGES, LABELS - 1), LABEL_RANGE + "-1"),
        (lambda n, p: loss(n, IMAGES, np.float32(LABELS)), LABEL_TYPE + "float32"),
        (lambda n, p: loss(n, IMAGES, LABELS[:3]), r"of one length, got \[3, 4\]"),
        (
            lambda n, p: loss(n, IMAGES, None),
            "labels must be given for a network with 10 classes",
        ),
        (
            lambda n, p: n.apply({"params": p}, jnp.zeros((4, 8, 8, 3)), LABELS),
            r"images must be \[batch, height, width, 1\], got shape \(4, 8, 8, 3\)",
        ),
        (
            lambda n, p: n.apply({"params": p}, X[0], LABELS),
            r"images must be \[batch, height, width, 1\], got shape \(8, 8, 1\)",
        ),
        (
            lambda n, p: n.apply({"params": p}, X[:, :7], LABELS),
            r"image height must be a multiple of 2 for 2 levels, got 7\. Use 6 or 8,",
        ),
        (
            lambda n, p: n.apply({"params": p}, X[:, :, :1], LABELS),
            r"image width must be a multiple of 2 for 2 levels, got 1\. Use 2, or",
        ),
    ],
)
def test_a_wrong_call_of_a_network_with_classes(classes, call: Call, message):
    with pytest.raises(jd.InputError, match=message) as error:
        call(*classes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, p: p_step(t=-1), T_RANGE + "-1"),
        (lambda n, p: p_step(t=jnp.arange(4)), "t must be one time, got shape"),
        (lambda n, p: p_step(X.astype(int)), "x_t must be float"),
        (lambda n, p: p_step(noise=N[:1]), "noise must .*, got .*1, 8, 8, 1"),
        (lambda n, p: p_step(noise=N[:, :3]), "noise must .*, got .*4, 3, 8, 1"),
        (lambda n, p: p_step(indices=jnp.arange(1)), r"indices must .*, got \(1,\)"),
        (lambda n, p: p_step(indices=jnp.arange(3)), r"indices must .*, got \(3,\)"),
        (lambda n, p: sample(x_T=X.astype(int)), "x_T must be float.*, got int32"),
        (lambda n, p: n.apply({"params": p}, X, LABELS[:3]), r"t must .*got .*\(3,\)"),
        (lambda n, p: n.apply({"params": p}, X, jnp.int32(3)), r"t must .*got .*\(\)"),
        (
            lambda n, p: n.apply({"params": p}, X, LABELS, LABELS[:3]),
            "labels must be 4, .* got 3",
        ),
        (
            lambda n, p: loss(n, IMAGES[:0], LABELS[:0], INDICES[:0]),
            "at least one .*got 0",
        ),
    ],
)
def test_more_wrong_calls(classes, call: Call, message):
    with pytest.raises(jd.InputError, match=message):
        call(*classes)


OPTIONS: Any = jd.Linear(num_steps=8)
CLASS: Any = jd.DDIM
WORD = "schedule must be a built schedule, got Linear. Call its method build()."


@pytest.mark.parametrize(
    "call",
    [
        lambda s: jd.q_sample(s, X, 1, N),
        lambda s: jd.q_step(s, X, 1, N),
        lambda s: jd.q_posterior(s, X, N, 1),
        lambda s: jd.p_sample_step(oracle, s, X, 1, KEY),
        lambda s: jd.sample(oracle, jd.DDIM(), s, KEY, B),
        lambda s: jd.samplers.encode(oracle, jd.DDIM(), s, X),
        lambda s: jd.samplers.decode(oracle, jd.DDIM(), s, X),
        lambda s: jd.samplers.interpolate(oracle, jd.DDIM(), s, X, N, 0.5),
        lambda s: jd.samplers.image_to_image(oracle, jd.DDIM(), s, KEY, X, 0.5),
        lambda s: jd.evaluation.ode_log_density(oracle, s, X, KEY),
        lambda s: jd.evaluation.variational_bound(
            oracle, s, X, KEY, (jd.samplers.FixedSmall(),)
        ),
        lambda s: jd.loss_fn({}, SMALL, s, jd.Batch(IMAGES, None, INDICES), KEY),
        lambda s: jd.Model(SMALL, s, jd.predictions.V(), (8, 8, 1)),
        lambda s: jd.schedules.diagnose(s),
    ],
)
def test_options_of_a_schedule_are_told_from_a_schedule(call):
    for given in (OPTIONS, jd.Linear):
        with pytest.raises(jd.InputError) as error:
            call(given)
        assert str(error.value) == WORD
    with pytest.raises(jd.InputError, match=r"^schedule must .*, got (the class|obj)"):
        call(object())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Stepless(jd.samplers.Sampler):
    """Sampler without a step."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (call, "sampler must be an object, got the class. Write DDIM().")
            for call in (
                lambda: jd.sample(oracle, CLASS, SCHEDULE, KEY, B),
                lambda: jd.samplers.encode(oracle, CLASS, SCHEDULE, X),
                lambda: jd.samplers.decode(oracle, CLASS, SCHEDULE, X),
                lambda: jd.samplers.interpolate(oracle, CLASS, SCHEDULE, X, N, 0.5),
                lambda: jd.samplers.image_to_image(
                    oracle, CLASS, SCHEDULE, KEY, X, 0.5
                ),
                lambda: jd.samplers.Replacement(sampler=CLASS, known=X, mask=N),
            )
        ),
        (
            lambda: jd.sample(oracle, Stepless(), SCHEDULE, KEY, B),
            "sampler must define the method step, got Stepless without.",
        ),
        (
            lambda: jd.q_step(jd.schedules.VP().build(), X, 0.5, N),  # type: ignore[arg-type]
            "schedule must have alphas and betas, got VP without. "
            "Define each, as jaxdiff.typing describes it.",
        ),
        (
            lambda: bind(lambda x, t: x, {}),
            "network must have apply, got function without. "
            "Define each, as jaxdiff.typing describes it.",
        ),
        (
            lambda: jd.Model(type(SMALL), SCHEDULE, jd.predictions.V(), B[1:]),  # type: ignore[arg-type]
            "network must be an object, got the class. Write UNet().",
        ),
        (
            lambda: loss(type(SMALL), IMAGES, None),
            "network must be an object, got the class. Write UNet().",
        ),
        (
            lambda: bind(SMALL, {}, None, jd.predictions.V),
            "prediction must be an object, got the class. Write V().",
        ),
        (
            lambda: jd.train(CONFIG, "unused", dataset=IMAGES),  # type: ignore[arg-type]
            "dataset must be a Dataset, got ndarray. Make one with "
            "jaxdiff.data.from_arrays.",
        ),
        (
            lambda: jd.train(jd.Experiment, "unused"),  # type: ignore[arg-type]
            "experiment must be an object, got the class. Write Experiment().",
        ),
    ],
)
def test_a_part_that_lacks_something_is_told_what(call, message):
    with pytest.raises(jd.InputError) as error:
        call()
    assert str(error.value) == message


ERRORS = [
    jd.InputError("a\nb"),
    jd.errors.NonFiniteError("the loss is nan", 3),
    jd.errors.NonFiniteSamples("samples must be finite", IMAGES),
    EmptySplit("none of them"),
    Unreadable("damaged"),
    Damaged("a reason"),
    Terminated("stopped", signal.SIGHUP),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_cross_process_borders(error):
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found)) == (type(error), str(error))
    jax.tree.map(np.testing.assert_array_equal, vars(found), vars(error))


def test_an_input_error_is_one_line_of_limited_length():
    assert str(jd.InputError("a 'é'")) == "a 'é'"
    text = str(jd.InputError("line\nbreak \x1b[31m \u2028 \udcff"))
    assert text == r"line\nbreak \x1b[31m \u2028 \udcff"
    assert len(str(jd.InputError("x" * 10**6))) == 5000


POSSIBLE = {"image_shape": [8, 8, 1], "num_classes": 2, "class_names": ["a", "b"]}
WRONG: list[dict[str, Any]] = [
    {"image_shape": [8, 8]}, {"image_shape": [8, 8, 0]}, {"image_shape": [8, 8, True]},
    {"image_shape": [8, 8, 1e9]}, {"image_shape": [8, 8, 2**40]},
    {"image_shape": "888"}, {"num_classes": 3}, {"num_classes": "2"},
    {"num_classes": 0}, {"num_classes": None}, {"class_names": ["a", 2]},
    {"class_names": "ab"}, {"class_names": []},
]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"image_shape": [8, 8, 1]}, *(POSSIBLE | wrong for wrong in WRONG)],
)
def test_a_record_of_impossible_data_is_refused(data):
    record = {"experiment": {}, "data": data}
    with pytest.raises(jd.InputError, match=r"config\.json is incomplete"):
        read_record(record)
    assert read_record({"experiment": {}, "data": POSSIBLE})[1].num_classes == 2


def fit(schedule: Any = SCHEDULE, images: Any = IMAGES, **options: Any) -> Any:
    model = jd.Model(SMALL, schedule, jd.predictions.Eps(), (8, 8, 1))
    state = jd.training.fit(model, [images] * 2, 2, progress=False, **options)
    return state.ema


def traced_schedule(betas: Any) -> Any:
    kept = jnp.cumprod(1 - betas)
    return jd.Schedule(betas, 1 - betas, kept, kept**0.5, (1 - kept) ** 0.5)


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: jd.Schedule.from_betas(jnp.stack([x, x])).betas[0], "betas"),
        (lambda x: jd.Linear(beta_end=x).build().betas[0], "beta_end"),
        (lambda x: jd.Cosine(offset=x).build().betas[0], "offset"),
        (lambda x: jd.schedules.VP(beta_max=x).build().level(0.5).alpha, "beta_max"),
        (lambda x: fit(traced_schedule(jnp.stack([x, x]))), "arguments of fit"),
        (lambda x: fit(images=IMAGES + x), "batches"),
        (lambda x: fit(ema_decay=x), "arguments of fit"),
        (
            lambda x: hash(jd.Model(SMALL, traced_schedule(x[None]),
                                    jd.predictions.Eps(), (8, 8, 1))),
            "the model's schedule",
        ),
    ],
)  # fmt: skip
def test_what_needs_values_is_not_traced(transform, call, name):
    value = jnp.full(3, 0.5) if transform is jax.vmap else jnp.float32(0.5)
    name = name if transform is not jax.jit else name.replace("batches", "arguments")
    with pytest.raises(jd.InputError, match=f"^{name}.* must have known values"):
        transform(call)(value)


def test_schedules_are_built_inside_jit():
    for options in (jd.Linear(), jd.schedules.VP(), jd.schedules.VE()):
        alpha = jax.jit(lambda o=options: o.build().level(o.num_steps // 1000).alpha)()
        assert alpha == options.build().level(options.num_steps // 1000).alpha
