"""Folders with any name: checkpoints in them are restored, or refused in a line."""

import os
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import is_run, read_config
from jaxdiff.storage import checkpoints as checkpoints_lib
from jaxdiff.storage import orbax_paths
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import ensure_writable

STATE = {"a": {"w": jnp.arange(300.0)}, "b": {}, "step": jnp.int32(3)}
NAMES = (
    "plain", "[thesis]", "[0:3]", "back\\slash", "2**10", "what?", "gs:", "s3:/bucket",
    "a b 'c' \"d\"", "two\nlines", "ü 图", os.fsdecode(b"latin-\xe9"), "%2e#~ $HOME;&",
)  # fmt: skip


def check(folder):
    """Saves twice, restores, and looks for remains."""
    with Checkpoints(folder, keep=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE)
    reader = Checkpoints(folder)
    assert reader.latest() == 2
    assert list(reader.status()) == [2]
    restored = reader.restore(STATE)
    np.testing.assert_array_equal(restored["a"]["w"], STATE["a"]["w"])
    assert [path.name for path in folder.iterdir()] == ["2"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_folder_of_any_name_restores(tmp_path, name):
    check(tmp_path / name / "checkpoints")


def test_a_folder_behind_a_link_restores(tmp_path):
    (tmp_path / "[disk]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "[disk]")
    check(tmp_path / "link" / "checkpoints")


def test_the_longest_path_that_is_taken_restores(tmp_path):
    limit = os.pathconf(tmp_path, "PC_PATH_MAX") - 1  # without the end of the text
    text = str(tmp_path)
    while len(text) < limit - 141 - 202:
        text += "/" + "x" * 200
    longest = Path(text, "y" * (limit - 141 - len(text) - 1))
    ensure_writable(longest)
    check(longest / "checkpoints")
    with pytest.raises(InputError, match=r"File name too long. Choose another with"):
        ensure_writable(f"{longest}z")


def test_temporary_links_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    checkpoints = Checkpoints(tmp_path / "[x]")
    assert len(list(tmp_path.iterdir())) == 1
    del checkpoints
    assert list(tmp_path.iterdir()) == []


def test_a_path_without_a_link_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    folder = tmp_path / "[x]"
    monkeypatch.setattr(checkpoints_lib.jax.distributed, "is_initialized", lambda: True)
    with pytest.raises(InputError, match=r"with several processes. Choose another"):
        Checkpoints(folder)
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"No such file .* or set TMPDIR"):
        Checkpoints(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[x]"))
    folder.mkdir()
    with pytest.raises(InputError, match=r"nor must TMPDIR. Choose another"):
        Checkpoints(folder)
    assert list(folder.iterdir()) == []


def test_a_checkpoint_that_cannot_be_read_back_gets_no_name(tmp_path, monkeypatch):
    with Checkpoints(tmp_path / "[x]") as checkpoints:
        checkpoints.save(1, STATE)
    monkeypatch.setattr(checkpoints_lib, "literal_path", lambda folder, owner: folder)
    checkpoints = Checkpoints(tmp_path / "[x]", keep=1)
    checkpoints.save(2, STATE)
    with pytest.raises(InputError, match=r"the new checkpoint cannot be read back: "):
        checkpoints.wait()
    assert [path.name for path in (tmp_path / "[x]").iterdir()] == ["1"]


def test_arrays_are_read_back_part_by_part(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_paths, "AT_ONCE", 2400)
    parts = []
    handler = orbax.checkpoint.PyTreeCheckpointHandler
    restore = handler.restore

    def counted(self, path, **options):
        found = restore(self, path, **options)
        parts.append(sum(isinstance(array, np.ndarray) for array in found))
        return found

    monkeypatch.setattr(handler, "restore", counted)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, [jnp.full(300, i) for i in range(5)])
    assert parts == [2, 2, 1]  # arrays of 1,200 bytes
    assert Checkpoints(tmp_path).latest() == 1


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://b", "https://x.org/run"])
def test_an_address_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, address
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"must be a local path, got '.*'. Mount"):
        ensure_writable(address)
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_a_nul_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"null byte. Choose another with --workdir"):
        ensure_writable(tmp_path / "a\0b")


def test_a_run_folder_that_cannot_exist_is_one_error(tmp_path):
    for name, reason in ("x" * 300, "File name too long"), ("a\0b", "null byte"):
        with pytest.raises(InputError, match=rf"cannot read '.*': .*{reason}"):
            read_config(tmp_path / name)
        assert not is_run(tmp_path / name)
