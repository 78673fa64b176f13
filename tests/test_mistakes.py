"""Mistakes, at the command line and in Python: one clear message, nothing written."""

import dataclasses
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.checkpoint import Checkpoints
from jaxdiff.cli import main
from jaxdiff.experiment import DataInfo, Sampling, Training, Upkeep
from jaxdiff.optimizer import Optimizer
from jaxdiff.run import init_state, read_record, write_record

NETWORK = jd.UNetConfig(channels=4, multipliers=(1,), blocks=1, attention=(), groups=2)
CONFIG = jd.Experiment(
    network=NETWORK,
    schedule=jd.Linear(num_steps=8, beta_end=0.9),
    optimizer=Optimizer(warmup_steps=2),
    training=Training(num_steps=2, batch_size=8),
    upkeep=Upkeep(log_every=1, checkpoint_every=2),
    sampling=Sampling(chunk=8),
)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def fake_run(workdir: Path, conditional: bool) -> None:
    """A run folder as `train` leaves it, of parameters that are all zero."""
    experiment = dataclasses.replace(CONFIG, conditional=conditional)
    classes = (10, tuple("0123456789")) if conditional else (None, None)
    info = DataInfo((8, 8, 1), *classes)
    workdir.mkdir()
    write_record(workdir, experiment, info)
    shapes = jax.eval_shape(lambda: init_state(experiment, info))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(2, state)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the command lines below are run in."""
    folder = tmp_path_factory.mktemp("mistakes")
    fake_run(folder / "trained", conditional=True)
    fake_run(folder / "unconditional", conditional=False)
    (folder / "file").write_text("not a folder")
    (folder / "empty").mkdir()
    texts = {"torn": '{"experiment": {', "hollow": "{}", "deep": '{"a":' * 100_000}
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
    record = json.loads((folder / "trained" / "config.json").read_text())
    record["experiment"]["training"]["num_steps"] = 0
    (folder / "spoilt").mkdir()
    (folder / "spoilt" / "config.json").write_text(json.dumps(record))
    record["experiment"]["training"]["num_steps"] = 2
    record["data"]["image_shape"] = [16, 16, 1]
    (folder / "larger").mkdir()
    (folder / "larger" / "config.json").write_text(json.dumps(record))
    jd.Digits().load()  # in a cache of its own, not here
    return folder


@pytest.fixture
def refused(folder, monkeypatch, capsys):
    """Runs a command line that must be refused; gives back what stderr says."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["experiment.py"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    before = snapshot(folder)

    def run(line: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(CONFIG, "What it is.", args=line.split())
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert snapshot(folder) == before
        return err

    yield run
    for name in sorted(snapshot(folder).keys() - before)[::-1]:  # of a test that fails
        path = folder / name
        path.unlink() if path.is_file() else path.rmdir()


def plain(text: str) -> str:
    """The text of tyro's boxes on one line."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│─╭╮╰╯]", " ", text).split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "unknown command 'trian'; perhaps you meant 'train'.*: run, train"),
        ("help", "unknown command 'help'; Commands: run, train, sample"),
        # Options that do not fit the devices or the data:
        (
            "train --workdir new --training.batch-size 12",
            "batch size must be a multiple of the 8 devices; got 12: use 8 or 16",
        ),
        ("run --workdir new --training.batch-size 3", "got 3: use 8$"),
        (
            "train --workdir new --network.multipliers 1 1 1 1 1",
            "height must be a multiple of 16 for 5 levels; got 8: use 16, or fewer",
        ),
        (
            "train --workdir new --schedule.beta-start 0",
            r"beta_start must lie in \(0, 1\); got 0",
        ),
        (
            "train --workdir new --schedule.beta-end 1.5",
            r"beta_end must lie in \(0, 1\); got 1.5",
        ),
        (
            "train --workdir new --schedule variance-exploding --schedule.sigma-min 90",
            r"sigma_min must lie in \(0, sigma_max\); got 90 and 80",
        ),
        (
            "train --workdir new --schedule straight-path --schedule.t-min 0",
            r"t_min must lie in \(0, 1\); got 0",
        ),
        (
            "train --workdir new --schedule straight-path",
            "eps-prediction divides by the signal scale.* predict v, x_0 or",
        ),
        (
            "train --workdir new --schedule zero-terminal-snr",
            r"0 at the end of this schedule \(zero terminal SNR\): predict v",
        ),
        (
            "train --workdir new --objective hybrid",
            "hybrid objective needs a learned variance: set prediction.learn_variance",
        ),
        (
            "train --workdir new --prediction.learn-variance",
            "simple objective does not train a variance: choose the objective hybrid",
        ),
        (
            "train --workdir new --objective bound",
            "bound with a learned variance needs prediction.learn_variance: set it",
        ),
        (
            "train --workdir new --sampling.sampler.variance learned-range",
            "learned-range needs a network that learns one: set prediction.learn_var",
        ),
        (
            "train --workdir new --schedule.num-steps 0",
            "num_steps .* at least 1; got 0",
        ),
        (
            "train --schedule sigmoid --schedule.start 3 --schedule.end 1",
            "start must be less than end; got 3 and 1",
        ),
        ("train --workdir new --seed -1", r"seed must lie in 0\.\..*; got -1"),
        ("--workdir new --seed 4294967296", "seed must lie in .*; got 4294967296"),
        (
            "train --workdir new --data tfds --data.name cifar11 --data.data-dir none",
            "no data set 'cifar11'; close to it: .*cifar10.*; prepared in none: none",
        ),
        (
            "train --data tfds --data.name cifar10:9.9.9 --data.data-dir none",
            "'cifar10:9.9.9'.*3.0.2.*give a name, name/config or name:version",
        ),
        (
            "train --workdir new --data tfds --data.name kaggle:mnist",
            "no name 'kaggle:mnist'; give a name, .* without a namespace",
        ),
        ("train --workdir new --data folder", "no folder of images .* --data.path"),
        (
            "train --workdir new --data folder --data.path empty",
            "there is no image in 'empty'",
        ),
        # Folders:
        (
            "train --workdir file/new",
            "cannot write to .*'file/new': Not a directory; choose .*--workdir",
        ),
        ("train --workdir file", "cannot write to .*'file': .*; choose"),
        (
            "train --workdir trained --training.ema-decay 0.5 --seed 3",
            r"'trained' holds a run of another configuration \(seed: 0, not 3; "
            r"training.ema_decay: 0.9999, not 0.5\): choose another --workdir, or",
        ),
        (
            "train --workdir trained --schedule cosine",
            "schedule.type: 'Linear', not 'Cosine'",
        ),
        ("train --workdir unconditional", "conditional: False, not True"),
        ("train --workdir torn", "'torn/config.json' is not a JSON file"),
        ("sample --workdir torn", "'torn/config.json' is not a JSON file"),
        ("sample --workdir deep", "'deep/config.json' is nested too deep to be read"),
        ("sample --workdir hollow", "config.json is incomplete: 'data'"),
        ("sample --workdir spoilt", "configuration cannot be read: .*training"),
        ("sample --workdir nowhere", ".*'nowhere"),
        ("sample --workdir empty", ".*'empty"),
        ("sample --workdir trained --out file/new", "cannot write .*'file/new'"),
        # What to sample:
        ("sample --workdir trained --columns 0", "columns must be at least 1; got 0"),
        ("sample --workdir trained --columns -3", "columns .* at least 1; got -3"),
        ("sample --workdir trained --labels", "labels are empty: name at least one"),
    ],
)
def test_a_wrong_command_line_is_one_line_on_stderr(refused, line, message):
    text = refused(line)
    assert text.count("\n") == 1
    assert re.search(f"^error: .*{message}", text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "sample --workdir trained --labels 3 10",
            r"labels must lie in 0\.\.9; got 10",
        ),
        ("sample --workdir trained --labels -1", r"labels must lie in 0\.\.9; got -1"),
        ("sample --workdir unconditional --labels 1", "the network has no classes"),
        ("sample --workdir trained --num 0", "must be at least 1; got 0"),
        ("sample --workdir trained --num -3", "must be at least 1; got -3"),
    ],
)
def test_a_wrong_request_for_samples_is_refused(refused, line, message):
    assert re.search(f"error: .*{message}", refused(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample --workdir trained --labels 10", "^error: .* got 10\n$"),
        ("sample --workdir trained --num 0", "^error: .* got 0\n$"),
        ("sample --workdir trained --labels 10 --out new-1", "got 10\n$"),
        ("sample --workdir trained --num 0 --out new-2", "got 0\n$"),
        ("sample --workdir nowhere", "no run .*train"),
        ("sample --workdir trained --out file/new", "choose another with --out"),
        ("sample --workdir spoilt", "num_steps must be at least 1; got 0"),
        ("train --workdir hollow", "config.json"),
        ("train --workdir larger", r"image_shape: \[16, 16, 1\], not \[8, 8, 1\]"),
        ("sample --workdir trained --num 1 --seed -1", "seed must lie in .*got -1"),
    ],
)
def test_a_mistake_is_told_before_anything_begins(refused, monkeypatch, line, message):
    def too_late(*args, **options):
        pytest.fail("it goes on")

    monkeypatch.setattr(sys.modules["jaxdiff.train"], "initial_state", too_late)
    if "--seed" in line:
        monkeypatch.setattr(jd.Run, "generate", too_late)
    assert re.search(message, refused(line))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --wrokdir x", ["Unrecognized", "--wrokdir", "meant: --workdir PATH"]),
        (
            "--training.num-step 3",
            ["--training.num-step", "meant: --training.num-steps"],
        ),
        ("sample --workdir trained --lables 3", ["--lables", "meant: --labels"]),
        ("sample --workdir trained --step 3", ["Unrecognized options: --step"]),
        ("sample trained", ["Unrecognized options: trained"]),
        ("train extra", ["Unrecognized options: extra"]),
        ("train --workdir", ["Missing value", "--workdir"]),
        ("train --training.num-steps abc", ["--training.num-steps", "'abc'", "INT"]),
        ("train --training.num-steps 1.5", ["--training.num-steps", "'1.5'"]),
        ("sample --workdir trained --num abc", ["--num", "'abc'", "INT"]),
        ("train --training.num-steps 0", ["num_steps must be at least 1; got 0"]),
        ("train --training.num-steps -5", ["num_steps must be at least 1; got -5"]),
        ("train --training.ema-decay 1", ["ema_decay must lie in [0, 1); got 1"]),
        (
            "train --upkeep.log-every 2 --upkeep.checkpoint-every 7",
            ["checkpoint_every must be a multiple of log_every (2); got 7"],
        ),
        ("train --optimizer.learning-rate 0", ["learning_rate must be above 0; got 0"]),
        ("train --network.channels 5", ["channels must be even and", "got 5"]),
        ("train --network.multipliers 1 0", ["multipliers must be", "got (1, 0)"]),
        ("train --sampling.chunk 0", ["chunk must be at least 1; got 0"]),
        ("train --schedule cosin", ["--schedule", "'cosin'", "'linear'", "'cosine'"]),
        ("train --data mnist", ["--data", "'mnist'", "'digits'", "'tfds'"]),
        ("train --network.dtype float16", ["--network.dtype", "'bfloat16'"]),
        ("train --objective simpel", ["--objective", "simple"]),
        ("train --prediction edm --prediction.data-deviation 0", ["above 0; got 0"]),
        (
            "train --objective.times loss-history --objective.times.bins 0",
            ["1..1000; got 0"],
        ),
        ("train --schedule.offset 1", ["Unrecognized options: --schedule.offset"]),
    ],
)
def test_a_wrong_flag_is_told_with_what_is_right(refused, line, words):
    text = plain(refused(line))
    for word in words:
        assert word in text


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


# Mistakes in Python. B is a batch of 4 images of 8x8 grey pixels.

B = (4, 8, 8, 1)
X, N = jnp.zeros(B), jnp.ones(B)
IMAGES, LABELS = np.zeros(B, np.float32), np.zeros(4, np.int32)
INDICES = np.arange(4, dtype=np.int32)
SCHEDULE: Any = CONFIG.schedule.build()
KEY = jax.random.key(0)
SMALL = NETWORK.build(out_channels=1)
"""A network without classes."""


# Untyped, for what the types forbid.
bind: Any = jd.bind
q_sample: Any = jd.q_sample
q_posterior: Any = jd.q_posterior


def oracle(x_t, level):
    return jd.Eps().estimate(x_t * level.scales(x_t)[1], x_t, level)


def loss(network: Any, images: Any, labels: Any, indices: Any = INDICES) -> Any:
    batch = jd.Batch(images, labels, indices)
    return jd.loss_fn({}, network, SCHEDULE, batch, KEY)


def sample(shape: Any = B, denoiser: Any = oracle, **options: Any) -> Any:
    return jd.sample(denoiser, jd.Ancestral(), SCHEDULE, KEY, shape, **options)


def p_step(x_t: Any = X, t: Any = 1, **options: Any) -> Any:
    return jd.p_sample_step(oracle, SCHEDULE, x_t, t, KEY, **options)


def betas(*values: Any) -> Any:
    return jd.Schedule.from_betas(np.array(values))


SHAPES = r"one shape; got \(4, 8, 8, 1\) and "
T_RANGE = r"t must lie in 0\.\.7; got "
T_TYPE = "t must be of an integer type; got float32"
T_SHAPE = r"t must be one number or one a batch element \(\(4,\)\); got shape "
RANGE = r"images must lie in \[-1, 1\]; got .*: scale them \(to_float"
NO_CLASSES = "labels were given, but the network has no classes: leave them"


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
            r"x_0 must be floating point, images scaled to \[-1, 1\]; got uint8",
        ),
        (
            lambda: q_sample(SCHEDULE, X, 1, N.astype(int)),
            "noise must be floating point, .*; got int32",
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
        (lambda: sample(()), r"shape must have positive sizes; got \(\)"),
        (lambda: sample((4, 0, 8, 1)), r"positive sizes; got \(4, 0, 8, 1\)"),
        (lambda: sample(every=0), "every must be at least 1; got 0"),
        (
            lambda: sample(indices=jnp.arange(3)),
            r"indices must have shape \(4,\); got \(3,\)",
        ),
        (lambda: sample(x_T=N[:2]), r"x_T must have shape .*; got \(2, 8, 8, 1\)"),
        (
            lambda: sample(noise=N),
            r"noise must have shape \(8, 4, 8, 8, 1\); got \(4, 8, 8, 1\)",
        ),
        (
            lambda: sample((4, 8, 8, 3), bind(SMALL, {})),
            r"images must be \[batch, height, width, 1\]; got shape \(4, 8, 8, 3\)",
        ),
        (
            lambda: jd.clip_x_0(oracle, 1, -1),
            "low must be less than high; got 1 and -1",
        ),
        (lambda: jd.clip_x_0(oracle, 0, 0), "low must be less than high; got 0 and 0"),
        (lambda: betas(), r"betas must be a vector \[T >= 1\]; got shape \(0,\)"),
        (lambda: betas([0.1, 0.2]), r"betas must be a vector .*; got shape \(1, 2\)"),
        (lambda: betas(0.1, 0), r"\(0, 1\); got betas\[1\] = 0: change"),
        (lambda: betas(0.1, 1, 0.2), r"\(0, 1\); got betas\[1\] = 1: change"),
        (lambda: betas(-0.1, 0.5), r"\(0, 1\); got betas\[0\] = -0.1: change"),
        (lambda: betas(0.1, np.nan), r"\(0, 1\); got betas\[1\] = nan: change"),
        (lambda: bind(SMALL, {}, LABELS), NO_CLASSES),
        (lambda: loss(SMALL, IMAGES, LABELS), NO_CLASSES),
        (
            lambda: loss(SMALL, np.zeros(B, np.uint8), None),
            r"images must be float, scaled to \[-1, 1\]; got uint8: use to_float",
        ),
        (lambda: loss(SMALL, IMAGES + 255, None), RANGE),
        (lambda: loss(SMALL, IMAGES - 1.5, None), RANGE),
        (lambda: loss(SMALL, IMAGES * np.nan, None), RANGE),
        (
            lambda: loss(SMALL, IMAGES[0], None),
            r"images must be \[batch, .*\]; got shape \(8, 8, 1\)",
        ),
        (
            lambda: loss(SMALL, IMAGES, None, INDICES[:3]),
            r"of one length; got \[3, 4\]",
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
    """A network of 2 levels with 10 classes, and its parameters."""
    config = dataclasses.replace(NETWORK, multipliers=(1, 2))
    network = config.build(out_channels=1, num_classes=10)
    shapes = jax.eval_shape(network.init, KEY, X, jnp.zeros(4, jnp.int32))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return network, params["params"]


LABEL_RANGE = r"labels must lie in 0\.\.9; got "
LABEL_TYPE = "labels must be a vector of integers; got "
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
            "4 images need as many labels; got 3",
        ),
        (
            lambda n, p: sample(denoiser=bind(n, p, np.arange(3))),
            "4 images need as many labels; got 3",
        ),
        (lambda n, p: loss(n, IMAGES, LABELS + 10), LABEL_RANGE + "10"),
        (lambda n, p: loss(n, IMAGES, LABELS - 1), LABEL_RANGE + "-1"),
        (lambda n, p: loss(n, IMAGES, np.float32(LABELS)), LABEL_TYPE + "float32"),
        (lambda n, p: loss(n, IMAGES, LABELS[:3]), r"of one length; got \[3, 4\]"),
        (
            lambda n, p: loss(n, IMAGES, None),
            "the network has 10 classes, but the batch has no labels",
        ),
        (
            lambda n, p: n.apply({"params": p}, jnp.zeros((4, 8, 8, 3)), LABELS),
            r"images must be \[batch, height, width, 1\]; got shape \(4, 8, 8, 3\)",
        ),
        (
            lambda n, p: n.apply({"params": p}, X[0], LABELS),
            r"images must be \[batch, height, width, 1\]; got shape \(8, 8, 1\)",
        ),
        (
            lambda n, p: n.apply({"params": p}, X[:, :7], LABELS),
            "image height must be a multiple of 2 for 2 levels; got 7: use 6 or 8, or",
        ),
        (
            lambda n, p: n.apply({"params": p}, X[:, :, :1], LABELS),
            "image width must be a multiple of 2 for 2 levels; got 1: use 2, or",
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
        (lambda n, p: p_step(t=jnp.arange(4)), "t must be one time; got shape"),
        (lambda n, p: p_step(X.astype(int)), "x_t must be float"),
        (lambda n, p: p_step(noise=N[:1]), "noise must .*; got .*1, 8, 8, 1"),
        (lambda n, p: p_step(noise=N[:, :3]), "noise must .*; got .*4, 3, 8, 1"),
        (lambda n, p: p_step(indices=jnp.arange(1)), r"indices must .*; got \(1,\)"),
        (lambda n, p: p_step(indices=jnp.arange(3)), r"indices must .*; got \(3,\)"),
        (lambda n, p: sample(x_T=X.astype(int)), "x_T must be float.*; got int32"),
        (lambda n, p: n.apply({"params": p}, X, LABELS[:3]), r"t must .*got .*\(3,\)"),
        (lambda n, p: n.apply({"params": p}, X, jnp.int32(3)), r"t must .*got .*\(\)"),
        (
            lambda n, p: n.apply({"params": p}, X, LABELS, LABELS[:3]),
            "4 images .* labels; got 3",
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
