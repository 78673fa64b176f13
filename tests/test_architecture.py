"""The shape of the package: imports point one way, and heavy ones wait."""

import ast
import doctest
import importlib
import pathlib
import subprocess
import sys

import pytest

import jaxdiff

ROOT = pathlib.Path(jaxdiff.__file__).parent
LAYERS = [
    ["errors"],
    ["typing", "files", "provenance", "torch_file"],
    ["sealed", "kept"],
    [
        "compiled",
        "continuous",
        "cores",
        "ema",
        "hosts",
        "keys",
        "interrupt",
        "networks",
        "parallel",
        "data",
        "checkpoint",
        "metrics",
        "plots",
    ],
    ["progress", "schedule", "prediction", "train_state", "optimizer"],
    ["forward", "denoiser", "diagnose"],
    ["times", "weighting", "reverse", "oracle"],
    ["variational", "samplers"],
    ["objective", "guidance", "inverse", "blend"],
    ["loss", "likelihood"],
    ["experiment", "config"],
    ["wrong_flags"],
    ["record", "board", "snapshots"],
    ["run", "flags", "step", "log", "classifier"],
    ["fine_tune"],
    ["job", "report", "features", "diffusers"],
    ["grids"],
    ["train", "held_out", "fidelity", "replay", "status"],
    ["draw", "reproduce", "page"],
    ["judging"],
    ["statistics"],
    ["averages", "compare", "evaluate"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ONLY = {
    "flax": "networks", "orbax": "checkpoint", "tyro": "flags", "matplotlib": "plots",
    "PIL": {"plots", "data"}, "cattrs": "config", "tensorflow_datasets": "data",
    "sklearn": {"data", "metrics"}, "tqdm": {"data", "progress", "train"},
    "tensorboardX": "metrics", "grain": "data", "safetensors": "diffusers",
    "jinja2": "page", "markupsafe": "page",
}  # fmt: skip
LAZY = (
    "grain",
    "tensorflow_datasets",
    "orbax",
    "sklearn",
    "matplotlib",
    "tyro",
    "PIL",
    "cattrs",
    "tensorboardX",
    "jinja2",
    "safetensors",
)


def imports_of(path):
    """Every module that a file imports, at its head or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "jaxdiff":
                yield from (f"jaxdiff.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
            assert isinstance(node.args[0], ast.Constant), "a name to look for"
            yield node.args[0].value


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    unit = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports_of(path):
        first, *rest = name.split(".")
        if first == "jaxdiff" and rest[0] != unit:
            assert LEVEL[rest[0]] < LEVEL[unit] or (unit, rest[0]) in {
                ("networks", "keys"),  # dropout draws from an example's own key
            }, f"{unit} imports {rest[0]}"
        if first in ONLY:
            assert unit in ONLY[first], f"{unit} imports {first}"


def test_import_is_light():
    code = f"import sys, jaxdiff; print([m for m in {LAZY} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "name",
    [
        "jaxdiff",
        "jaxdiff.training.ema",
        "jaxdiff.schedules.discrete",
        "jaxdiff.networks.unet",
        "jaxdiff.cli.flags",
    ],
)
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


def test_every_public_name_is_documented():
    for name, value in vars(jaxdiff).items():
        if not name.startswith("_") and callable(value):
            assert value.__doc__, name
