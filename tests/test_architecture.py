"""Structure of the package: imports go one way, and heavy packages load late."""

import ast
import doctest
import importlib
import pathlib
import subprocess
import sys

import pytest

import jaxdiff
from tests import mutations

ROOT = pathlib.Path(jaxdiff.__file__).parent
ORDER = (
    "names", "interrupts", "typing", "errors", "streams", "checks", "rng",
    "conditions", "serialization", "progress_bar", "parallel", "storage", "plots",
    "schedules", "denoisers", "adapters", "networks", "conditioning", "latents",
    "data", "samplers", "losses", "training", "components", "runs", "evaluation",
    "report", "pretrained", "demo", "recipes", "cli",
)  # fmt: skip
"""Folders and top-level modules; each may import the ones before it."""
ONLY = {
    "flax": {"networks"}, "orbax": {"storage"}, "tyro": {"cli"},
    "cattrs": {"serialization"}, "filelock": {"storage"}, "platformdirs": {"storage"},
    "matplotlib": {"plots"}, "PIL": {"plots", "data"}, "tensorflow_datasets": {"data"},
    "sklearn": {"data", "evaluation"}, "scipy": {"evaluation"},
    "tqdm": {"data", "progress_bar", "runs"}, "tensorboardX": {"storage"},
    "grain": {"data"}, "tokenizers": {"conditioning"},
    "safetensors": {"components"}, "gradio": {"demo"}, "jinja2": {"report"},
    "markupsafe": {"report"},
}  # fmt: skip
"""Folders that may import an optional package."""
LONGEST = 400
"""Largest number of lines of a module."""


def imports_of(path):
    """Yields every module that a file imports, at its head or later."""
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


def test_every_part_has_its_place():
    parts = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in FILES}
    assert parts == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports_of(path):
        first, *rest = name.split(".")
        if first == "jaxdiff" and rest[0] != part:
            assert ORDER.index(rest[0]) < ORDER.index(part), f"{part} imports {rest[0]}"
        if first in ONLY:
            assert part in ONLY[first], f"{part} imports {first}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_is_long(path):
    assert len(path.read_text().splitlines()) <= LONGEST


def test_import_is_light():
    code = (
        "import sys, jax; brought = set(sys.modules); import jaxdiff; "
        f"print([m for m in {tuple(ONLY)} if m in sys.modules.keys() - brought])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['flax']"


@pytest.mark.parametrize(
    "name",
    [
        "jaxdiff",
        "jaxdiff.cli.flags",
        "jaxdiff.networks.unet",
        "jaxdiff.schedules.discrete",
        "jaxdiff.training.ema",
        "jaxdiff.runs.forecast",
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


def test_every_break_of_the_mutations_applies():
    # A change of the code must not leave a break behind that cannot be tried any more.
    assert len(mutations.chosen([])) == len(mutations.BREAKS)
    for one in mutations.BREAKS:
        name = one.test.partition("[")[0]
        assert f"def {name}(" in (mutations.ROOT / one.test_file).read_text(), one.name


def test_the_page_has_the_table_of_all_breaks():
    page = (mutations.ROOT / "tests" / "README.md").read_text()
    caught = mutations.Outcome(1, "a test", "assert False")
    found = dict.fromkeys([one.name for one in mutations.BREAKS], caught)
    assert page.endswith(f"\n\n{mutations.table(found, mutations.BREAKS)}\n")
