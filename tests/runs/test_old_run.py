"""Run folder of commit b0cbe55: its later steps and samples have not changed.

`tests/data/run_b0cbe55.tar.xz` is the run of `tests.helpers.old_run`, stopped at step 4
of 8. `values_b0cbe55.npz` and `metrics_b0cbe55.jsonl` are the results of b0cbe55.

On the CPU and the versions of `made_with_b0cbe55.json`, all results have the same bits.
The figures of `evaluate` are an exception: they may differ in the last bits. Elsewhere
the random bits are the same, and the rest differs by rounding: see `ROUNDING`.
"""

import copy
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxdiff import data, losses, predictions, samplers, schedules, spacing
from jaxdiff.errors import InputError
from jaxdiff.names import CLASSES
from jaxdiff.runs.folder import check_record, read_record, training_part
from jaxdiff.serialization import to_dict
from jaxdiff.storage.compilation_cache import kind_of_cpu
from jaxdiff.training.experiment import DataInfo, Experiment
from tests.helpers import old_run

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
MADE_WITH = json.loads((DATA / "made_with_b0cbe55.json").read_text())
SAME_BITS = kind_of_cpu() == MADE_WITH["cpu"] and all(
    importlib.metadata.version(name) == MADE_WITH[name]
    for name in ("jax", "jaxlib", "flax", "optax")
)
VALUES = dict(np.load(DATA / "values_b0cbe55.npz"))
RANDOM = {"draws_t", "draws_keys", "draws_images"}
"""Values made of random integers alone, which do not depend on rounding."""
ROUNDING = 1e-3
"""Largest error of a vector that rounding may cause, relative to its norm.

XLA's optimisations round differently and move the final state by 4e-7. Adam can amplify
this error: a parameter with a tiny gradient moves by the learning rate, 1e-2.
"""
SUM_OF_WEIGHTS = 1.06145190068309
"""Sum of b0cbe55's weights for the average of length 0.1."""
TAGS: dict[str, dict[str, type]] = {
    "data": {
        "Digits": data.Digits,
        "FashionMnist": data.FashionMNIST,
        "Folder": data.ImageFolder,
        "Tfds": data.TFDS,
    },
    "schedule": {
        "Linear": schedules.Linear,
        "Quadratic": schedules.Quadratic,
        "Cosine": schedules.Cosine,
        "Sigmoid": schedules.Sigmoid,
        "ZeroTerminalSnr": schedules.ZeroTerminalSNR,
        "VariancePreserving": schedules.VP,
        "VarianceExploding": schedules.VE,
        "StraightPath": schedules.RectifiedFlow,
    },
    "prediction": {
        "Eps": predictions.Eps,
        "X0": predictions.X0,
        "V": predictions.V,
        "Velocity": predictions.Velocity,
        "Edm": predictions.EDM,
    },
    "objective": {
        "Simple": losses.Simple,
        "Bound": losses.Bound,
        "Hybrid": losses.Hybrid,
    },
    "objective.weighting": {
        "Uniform": losses.Uniform,
        "UniformX0": losses.UniformX0,
        "UniformEps": losses.UniformEps,
        "SnrPlusOne": losses.SNRPlusOne,
        "MinSnr": losses.MinSNR,
        "P2": losses.P2,
        "SigmoidWeighting": losses.SigmoidWeighting,
        "EdmWeighting": losses.EDMWeighting,
    },
    "objective.times": {
        "UniformTimes": losses.UniformTimes,
        "LossHistory": losses.LossHistory,
        "LogNormal": losses.LogNormal,
    },
    "sampling.sampler": {
        "Ancestral": samplers.DDPM,
        "Ddim": samplers.DDIM,
        "Euler": samplers.Euler,
        "EulerAncestral": samplers.EulerAncestral,
        "Heun": samplers.Heun,
        "FlowEuler": samplers.FlowEuler,
        "FlowHeun": samplers.FlowHeun,
        "DpmSolver": samplers.DPMSolver,
        "UniPc": samplers.UniPC,
    },
    "sampling.sampler.spacing": {
        "AllTimes": spacing.AllTimes,
        "Leading": spacing.Leading,
        "Trailing": spacing.Trailing,
        "Linspace": spacing.Linspace,
        "QuadraticTimes": spacing.QuadraticTimes,
        "UniformLogSnr": spacing.UniformLogSNR,
        "Karras": spacing.Karras,
        "Times": spacing.Times,
    },
}
"""Option classes by their names in the JSON of an experiment at b0cbe55."""
INFO = DataInfo((8, 8, 1), 10, None, "f")


def unpacked(folder):
    """Unpacks the old run into a folder and returns its path."""
    with tarfile.open(DATA / "run_b0cbe55.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return (folder / "run_b0cbe55").rename(folder / "old")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder after a run of `tests.helpers.old_run`, and the printed output."""
    folder = tmp_path_factory.mktemp("old_run")
    unpacked(folder)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_NUM", "XLA_"))
    }
    environment |= {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "NPROC": "2",
    }
    program = [sys.executable, "-m", "tests.helpers.old_run", str(folder)]
    done = subprocess.run(
        program, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def check(name, value, same_bits=SAME_BITS):
    """Checks a value against its value at b0cbe55."""
    old = VALUES[name]
    assert (value.shape, value.dtype) == (old.shape, old.dtype)
    if same_bits and name == "figures":
        # The distances now come from scikit-learn, which adds in another order.
        np.testing.assert_allclose(value, old, rtol=1e-12, err_msg=name)
    elif same_bits or name in RANDOM:
        np.testing.assert_array_equal(value, old, name)
    else:
        error = np.linalg.norm(value - old) / np.linalg.norm(old)
        assert error <= ROUNDING, (name, error)


def check_average(value, rounding=1e-6):
    """Checks the average, whose weights b0cbe55 did not divide by their sum."""
    expected = VALUES["ema_0.1"] / SUM_OF_WEIGHTS
    error = np.linalg.norm(value - expected) / np.linalg.norm(expected)
    assert error <= rounding, error


def check_metrics(workdir, same_bits=SAME_BITS):
    new = (workdir / "metrics.jsonl").read_text()
    old = (DATA / "metrics_b0cbe55.jsonl").read_text()
    if same_bits:
        assert new == old
    for one, other in zip(new.splitlines(), old.splitlines(), strict=True):
        assert json.loads(one) == pytest.approx(json.loads(other), rel=ROUNDING)


@pytest.mark.usefixtures("standard_promotion")
def test_old_run_samples_and_resumes_as_before_but_for_rounding(tmp_path):
    """This process compiles differently; the tests below compare the bits."""
    workdir = unpacked(tmp_path)
    results = old_run.go_on(workdir)
    check("state", results["state"], same_bits=False)
    check_average(results["ema_0.1"], ROUNDING)
    for name, value in old_run.draws().items():
        check(name, np.asarray(value), same_bits=False)
    check_metrics(workdir, same_bits=False)
    assert results["started"].shape == (4, 8, 8, 1)
    assert np.isfinite(results["started"]).all()


@pytest.mark.long
def test_old_run_resumes_draws_and_evaluates_to_the_same_bits(whole):
    folder, _ = whole
    with np.load(folder / "old.npz") as results:
        names = {name for name in VALUES if not name.startswith("draws_")}
        assert names | {"started"} == set(results)
        for name in names - {"ema_0.1"}:
            check(name, results[name])
        check_average(results["ema_0.1"])
    check_metrics(folder / "old")


@pytest.mark.long
def test_run_from_nothing_gives_the_same_bits(whole):
    folder, _ = whole
    with np.load(folder / "new.npz") as results:
        assert {name for name in VALUES if name.startswith("draws_")} < set(results)
        for name in results:
            check(name, results[name])
    check_metrics(folder / "new")


@pytest.mark.long
def test_status_and_report_read_old_run(whole):
    folder, printed = whole
    assert "step 8 of 8 (100%)" in printed
    page = (folder / "old" / "report.html").read_text()
    assert "MinSNR" in page


def with_tag(record, path, tag):
    """Returns a copy of a configuration with another option class, by its old name."""
    record = copy.deepcopy(record)
    *parents, name = path.split(".")
    parent = reduce(dict.__getitem__, parents, record)
    parent[name] = {"type": tag}
    return record


@pytest.mark.parametrize(
    ("path", "tag"), [(path, tag) for path in TAGS for tag in TAGS[path]]
)
def test_old_tag_is_read_as_todays_class(path, tag):
    record = {"experiment": to_dict(Experiment()), "data": INFO._asdict()}
    old = with_tag(record, f"experiment.{path}", tag)
    experiment, info = read_record(old)
    found = reduce(getattr, path.split("."), experiment)
    assert type(found) is TAGS[path][tag]

    configuration = training_part(experiment, info)
    if not path.startswith("sampling"):
        there: Any = reduce(dict.__getitem__, path.split("."), configuration)
        there["type"] = tag
    checkpoint = {"step": 4, "configuration": configuration}
    check_record(checkpoint, Path("run"), experiment, info)
    configuration["seed"] = 1
    with pytest.raises(InputError, match=r"another configuration \(seed: 1, not 0"):
        check_record(checkpoint, Path("run"), experiment, info)


def test_every_renamed_class_has_its_tag():
    assert set(CLASSES) <= {tag for tags in TAGS.values() for tag in tags}
