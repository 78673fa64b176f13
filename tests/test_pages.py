"""README pages: links, files, names and Python blocks."""

import contextlib
import pathlib
import pkgutil
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.evaluation.label_agreement import label_agreement

ROOT = pathlib.Path(__file__).parents[1]
TOPS = ("jaxdiff", "experiments", "launch", "tests")
PAGES = [ROOT / "README.md"]
PAGES += sorted(page for top in TOPS for page in (ROOT / top).rglob("README.md"))
FOLDERS = {ROOT / top for top in TOPS}
FOLDERS |= {path.parent for path in (ROOT / "jaxdiff").rglob("*.py")}

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)
FILE = re.compile(r"[\w/]+\.(?:py|js|j2|txt|md)\b")
NAME = re.compile(r"\bjd((?:\.[A-Za-z_]\w*)+)")

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)


def prose(page):
    """Returns a page without its fenced blocks."""
    return FENCED.sub("", page.read_text())


def python(page):
    """Returns the Python blocks of a page."""
    return [code for kind, code in FENCED.findall(page.read_text()) if kind == "python"]


def anchor(heading):
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_folder_has_a_page():
    assert {page.parent for page in PAGES} >= FOLDERS


@every_page
def test_links_resolve(page):
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, heading = link.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), link
        if heading:
            assert heading in map(anchor, HEADING.findall(prose(found))), link


@every_page
def test_files_named_on_a_page_exist(page):
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        for name in FILE.findall(code):
            places = (page.parent / name, ROOT / name)
            assert any(place.exists() for place in places), name


@every_page
def test_a_page_names_every_module_of_its_folder(page):
    words = set(re.findall(r"[\w.]+", prose(page)))
    modules = {path.name for path in page.parent.glob("*.py")}
    if page.parent != ROOT:
        assert modules - {"__init__.py"} <= words


@every_page
def test_names_resolve_without_a_deprecation(page):
    for name in NAME.findall(page.read_text()):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            pkgutil.resolve_name(f"jaxdiff{name}")


def run(page, *changes):
    """Runs the Python blocks of a page in order and returns their names."""
    names: dict[str, Any] = {"__name__": page.parent.name}
    for block in python(page):
        for old, new in changes:
            assert old in block
            block = block.replace(old, new)
        exec(block, names)
    return names


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES[1:] if python(page)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(page)
    assert capsys.readouterr().out


def test_the_schedule_of_the_architecture_page_is_linear_in_log_snr():
    blocks = python(ROOT / "jaxdiff" / "README.md")
    (block,) = (block for block in blocks if "class LinearLogSNR" in block)
    names: dict[str, Any] = {"__name__": "page", "jd": jd}
    exec(block, names)
    log_snr = jd.schedules.log_snr(names["schedule"].level(jnp.arange(1000)))
    np.testing.assert_allclose(log_snr[jnp.array([0, 999])], [9, -9], atol=0.01)


def quickstart(folder, *changes):
    """Runs the README's program in a folder and returns images [80, 8, 8, 1]."""
    with contextlib.chdir(folder), jax.numpy_dtype_promotion("standard"):
        images = np.asarray(run(PAGES[0], *changes)["images"])
    with Image.open(folder / "digits.png") as picture:
        assert picture.width > 8 * 64
    assert images.shape == (80, 8, 8, 1)
    assert np.abs(images).max() <= 1 + 1e-5
    return images


def test_the_readmes_program_runs(tmp_path):
    """Trains and samples in two steps instead of the printed numbers."""
    assert len(python(PAGES[0])[0].splitlines()) <= 30
    quickstart(
        tmp_path, ("num_steps=300", "num_steps=2"), ("num_steps=20", "num_steps=2"),
        ("channels=32", "channels=8"), ("multipliers=(1, 2)", "multipliers=(1,)"),
    )  # fmt: skip


@pytest.mark.long
def test_the_readmes_program_draws_digits_as_printed(tmp_path):
    images = quickstart(tmp_path)
    digits = jd.data.Digits().load("train")
    assert digits.labels is not None
    share = label_agreement(
        jd.data.to_uint8(images), np.repeat(np.arange(10), 8),
        np.asarray(digits.images), digits.labels,
    )  # fmt: skip
    assert share > 0.9


@pytest.mark.parametrize("folder", sorted(FOLDERS - {ROOT / "launch", ROOT / "tests"}))
def test_a_page_has_an_example_that_runs(folder):
    assert python(folder / "README.md")
