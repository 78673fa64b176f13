"""The notebooks: they run, and are stored with their pictures."""

import pathlib

import nbclient
import nbformat
import pytest

from tests.helpers.compilations import environment_of_users

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures_of(notebook):
    """Returns the number of pictures that each code cell shows."""
    return [
        sum("image/png" in output.get("data", {}) for output in cell.outputs)
        for cell in code_of(notebook)
    ]


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


@each
def test_a_notebook_is_stored_as_it_ran(path):
    """In order, from the first cell, without errors, and not too large."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(pictures_of(notebook)) >= 3
    assert all(out.output_type != "error" for cell in cells for out in cell.outputs)
    assert path.stat().st_size < 2**21


@pytest.mark.long
@each
def test_a_notebook_runs(path):
    """As printed; it shows as many pictures as are stored."""
    stored = nbformat.read(path, as_version=4)
    again = nbformat.read(path, as_version=4)
    for cell in code_of(again):
        cell.outputs = []
    client = nbclient.NotebookClient(again, timeout=900, kernel_name="python3")
    client.execute(env=environment_of_users())
    assert pictures_of(again) == pictures_of(stored)
