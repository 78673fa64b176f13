"""Folders with any name: checkpoints in them are restored, or refused in a line."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.errors import InputError
from jaxdiff.runs.folder import is_run, read_config
from jaxdiff.storage import checkpoints as checkpoints_lib
from jaxdiff.storage import orbax_paths
from jaxdiff.storage.cache import cache_folder
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import ensure_writable
from tests.helpers.runs import TINY

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


@pytest.fixture
def homeless(monkeypatch):
    """User without HOME and without an account, as in many containers."""
    pwd = pytest.importorskip("pwd")

    def unknown(*_: Any) -> None:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "JAXDIFF_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, unknown)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_gets_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", "~/tfds")
    remedy = r" for '~.*'\. Set HOME, or set JAXDIFF_CACHE to a folder\."
    with pytest.raises(InputError, match=f"^there is no home folder{remedy}$"):
        cache_folder()
    for options in (
        jd.data.ImageFolder(path="~/x"), jd.data.ImageFolder(path="~nobody/x"),
        jd.data.FashionMNIST(path="~/x"), jd.data.TFDS(data_dir="~/x"),
        jd.data.TFDS(), jd.data.Digits(),
    ):  # fmt: skip
        match = r"^there is no home folder for '~[^']*'\. Set HOME, or "
        with pytest.raises(InputError, match=match):
            options.load()
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_does_what_needs_no_cache(capsys):
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        main(TINY, "What it is.", args=["--version"])
        assert capsys.readouterr().out.startswith("jaxdiff ")
        assert jax.config.values["jax_compilation_cache_dir"] is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


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


def test_a_checkpoint_that_cannot_be_read_back_gets_no_name(
    tmp_path, monkeypatch, capfd
):
    many = {str(i): jnp.full(300_000, i, jnp.float32) for i in range(30)}
    with Checkpoints(tmp_path / "[x]") as checkpoints:
        checkpoints.save(1, STATE)
    monkeypatch.setattr(checkpoints_lib, "literal_path", lambda folder, owner: folder)
    checkpoints = Checkpoints(tmp_path / "[x]", keep=1)
    checkpoints.save(2, many)
    with pytest.raises(
        InputError, match=r"the new checkpoint cannot be read back: "
    ) as e:
        checkpoints.wait()
    assert "tensorstore_spec" not in str(e.value)
    assert capfd.readouterr().err == ""  # no traceback of TensorStore's threads
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
    assert parts == [1, 2, 2]  # arrays of 1,200 bytes
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
