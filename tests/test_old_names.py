"""Names of commit b0cbe55 still work, with a warning if they moved."""

import importlib
import json
import subprocess
import sys
import types
from functools import reduce
from pathlib import Path

import pytest

import jaxdiff
from jaxdiff.names import _MODULES

ROOT = Path(__file__).parents[1]
KEPT = """
    bind from_diffusers to_diffusers InputError Experiment q_posterior q_sample q_step
    loss_fn UNet UNetConfig p_sample_step load Heun sample Cosine Linear Quadratic
    Schedule Sigmoid train_step train TrainState Batch Estimate Level
"""
"""Names that `jaxdiff` had and still has."""
MOVED = """
    blend_labels image_to_image interpolate slerp ContinuousSchedule StraightPath
    VarianceExploding VariancePreserving Dataset Digits FashionMnist Folder Tfds
    to_float to_uint8 Diagnosis diagnose NonFinite Posterior log_snr snr autoguidance
    classifier_free classifier_guidance clip_x_0 dynamic_threshold mix_classes
    Terminated Dps Repaint Replacement blur downsample gaussian_blur given_measurement
    masked bits_per_dim dequantise ode_log_density variational_bound Bound Hybrid Simple
    Gaussian GaussianMixture Pmap Sharded X0 Edm Eps V Velocity FixedLarge FixedSmall
    LearnedRange MarginalNoise p_mean_variance Run AllTimes Ancestral Ddim DpmSolver
    Euler EulerAncestral FlowEuler FlowHeun Karras Leading Linspace QuadraticTimes
    Sampler Times Trailing UniformLogSnr UniPc decode encode ZeroTerminalSnr
    rescale_zero_terminal_snr LogNormal LossHistory UniformTimes Denoiser P2
    EdmWeighting MinSnr SigmoidWeighting SnrPlusOne Uniform UniformEps UniformX0
"""
"""Names that `jaxdiff` had, which now have another place or name."""
OF_MODULES = {
    "averages": "averages",
    "blend": "slerp",
    "board": "open_board",
    "checkpoint": "Checkpoints",
    "classifier": "Recipe",
    "compare": "compare",
    "compiled": "kind_of_cpu",
    "config": "from_dict",
    "continuous": "VariancePreserving",
    "cores": "available",
    "denoiser": "NetworkDenoiser",
    "diagnose": "diagnose",
    "diffusers": "from_diffusers",
    "draw": "SampleOptions samplings_of",
    "ema": "post_hoc_weights",
    "evaluate": "evaluate",
    "experiment": "Experiment Sampling Training Upkeep DataInfo",
    "features": "Pixels",
    "fidelity": "evaluate_samples",
    "files": "write_json_atomic cache_folder",
    "fine_tune": "with_model_of",
    "flags": "parse",
    "forward": "q_sample",
    "grids": "Grids",
    "guidance": "classifier_free clip_x_0",
    "held_out": "evaluate_likelihood",
    "hosts": "is_first",
    "interrupt": "Terminated",
    "inverse": "masked Repaint",
    "job": "Job",
    "judging": "JudgingOptions",
    "kept": "kept keep",
    "keys": "example_keys",
    "likelihood": "bits_per_dim",
    "log": "Log",
    "loss": "loss_fn",
    "metrics.agreement": "label_agreement",
    "metrics.distances": "rows_of",
    "metrics.events": "Events",
    "metrics.frechet": "frechet_distance",
    "metrics.kernel": "kernel_distance",
    "metrics.manifold": "precision_recall",
    "metrics.mean": "Mean",
    "metrics.nearest": "nearest",
    "metrics.writer": "JsonLines",
    "networks.embedding": "Sinusoids",
    "objective": "Simple Hybrid",
    "optimizer": "Optimizer",
    "oracle": "Gaussian",
    "page": "write_page",
    "prediction": "Edm",
    "progress": "bar",
    "provenance": "versions",
    "record": "read_config",
    "replay": "replay",
    "reproduce": "reproduce",
    "reverse": "FixedLarge",
    "run": "load init_state",
    "samplers.ode": "encode",
    "samplers.uni_pc": "UniPc",
    "schedule": "Linear ZeroTerminalSnr",
    "sealed": "verify",
    "snapshots": "average_of",
    "statistics": "statistics load_statistics",
    "status": "status",
    "step": "train_step",
    "times": "LossHistory",
    "torch_file": "read_torch",
    "train": "train train_job",
    "train_state": "TrainState",
    "variational": "bound_term",
    "weighting": "MinSnr EdmWeighting",
    "wrong_flags": "explain",
}
"""Removed modules, each with names that the module had."""
OF_EXPERIMENTS = """
    from jaxdiff.cli import COMMANDS, main
    from jaxdiff.data import Digits, FashionMnist, Folder, Tfds, from_arrays
    from jaxdiff.networks import UNetConfig
    from jaxdiff.parallel import Parallel, Pmap, Sharded
    from jaxdiff.samplers import Ancestral, DpmSolver, Trailing
    from jaxdiff import cores, hosts, provenance
""".strip().split("\n    ")
"""Other imports in the files of experiments/ at b0cbe55."""
PROGRAM = """
import json, sys, types, warnings
warned, modules = {}, []
for line in json.load(sys.stdin):
    names = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        exec(compile(line, "<old>", "exec"), names)
    warned[line] = [
        str(w.message) for w in caught
        if w.category is DeprecationWarning and w.filename == "<old>"
    ]
    if any(isinstance(value, types.ModuleType) for value in names.values()):
        modules.append(line)
import jaxdiff
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    assert jaxdiff.diagnose(jaxdiff.Linear().build()).faults is not None
    for call in (jaxdiff.train, jaxdiff.load):
        try:
            call()
        except TypeError as error:
            assert "required positional argument" in str(error), error
json.dump([warned, modules], sys.stdout)
"""
"""Program that runs lines of imports. It prints the warnings of each line, and the
lines that gave modules. It also calls the functions that share a module's name."""


def import_of(name, module=""):
    return f"from jaxdiff{module and '.'}{module} import {name}"


PAIRS = [(m, n) for m, names in OF_MODULES.items() for n in names.split()]


@pytest.fixture(scope="module")
def warned():
    """Warnings of each line, in one process that has used no old name before."""
    lines = [import_of(name) for name in (KEPT + MOVED).split()]
    lines += [import_of(name, module) for module, name in PAIRS]
    lines += OF_EXPERIMENTS
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(lines), capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warned, modules = json.loads(done.stdout)
    assert modules == ["from jaxdiff import cores, hosts, provenance"]
    return warned


TODAY = {
    module: set(vars(found))
    for module in OF_MODULES
    if isinstance(found := vars(jaxdiff).get(module), types.ModuleType)
}
"""Namespaces with the name of an old module, and their own names."""


def new_place(warning, old):
    """Returns the new place of an old name from a warning, and checks the place."""
    start, _, new = warning.partition(" is now ")
    assert start == old
    assert new.startswith("jaxdiff.")
    assert new != old
    place, _, name = new.rpartition(".")
    try:
        found = reduce(getattr, new.split(".")[1:], jaxdiff)
    except AttributeError:  # a module that is not loaded
        found = getattr(importlib.import_module(place), name)
    assert not isinstance(found, types.ModuleType)
    return new


@pytest.mark.parametrize("name", KEPT.split())
def test_kept_name_does_not_warn(warned, name):
    assert warned[import_of(name)] == []


@pytest.mark.parametrize("name", MOVED.split())
def test_moved_name_warns_once_and_names_its_place(warned, name):
    (warning,) = warned[import_of(name)]
    place = new_place(warning, f"jaxdiff.{name}").split(".")
    # A name is the same except for its case, or is listed here.
    renamed = {
        "Ancestral": "DDPM",
        "Folder": "ImageFolder",
        "NonFinite": "NonFiniteError",
        "StraightPath": "RectifiedFlow",
        "VarianceExploding": "VE",
        "VariancePreserving": "VP",
        "classifier_free": "classifier_free_guidance",
        "clip_x_0": "clip_x0",
    }
    assert place[-1].lower() == renamed.get(name, name).lower()


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_name_of_old_module_warns_once(warned, module, name):
    if name in TODAY.get(module, ()):
        assert warned[import_of(name, module)] == []
        return
    (warning,) = warned[import_of(name, module)]
    new_place(warning, f"jaxdiff.{module}.{name}")


def test_an_old_module_leaves_the_namespace_of_its_name():
    assert set(TODAY) == {"guidance"}
    importlib.import_module("jaxdiff.guidance")
    assert jaxdiff.guidance is jaxdiff.denoisers.guidance


@pytest.mark.parametrize("line", OF_EXPERIMENTS)
def test_imports_of_old_experiments_run(warned, line):
    for warning in warned[line]:
        new_place(warning, warning.partition(" is now ")[0])


def test_every_old_module_is_listed():
    assert OF_MODULES.keys() == set(_MODULES) - {"metrics"}


COMMANDS = {
    "averages": "averages cli.ema",
    "compare": "compare cli.compare",
    "draw": "draw cli.sample",
    "evaluate": "evaluate cli.evaluate",
    "statistics": "statistics cli.statistics",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_function_of_an_old_command_takes_its_options_second(name, monkeypatch):
    old, new = (f"jaxdiff.{module}" for module in COMMANDS[name].split())
    # A module of its own, as if nothing had used the old name before.
    monkeypatch.delitem(sys.modules, old, raising=False)
    calls = []
    monkeypatch.setattr(
        importlib.import_module(new), name, lambda *args: calls.append(args)
    )
    with pytest.warns(DeprecationWarning, match=f"{old}.{name} is now {new}.{name}"):
        function = getattr(importlib.import_module(old), name)
    function("run", "options")
    assert calls == [("options", "run")]
