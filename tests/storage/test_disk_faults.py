"""Disk faults: damage is reported by name, and no good checkpoint is lost."""

import errno
import json
import os
import pathlib
import shutil
import threading
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff
from jaxdiff.errors import InputError
from jaxdiff.storage import checkpoints as checkpoints_lib
from jaxdiff.storage import manifest
from jaxdiff.storage.checkpoints import Checkpoints

STATE = {"a": {"w": jnp.arange(300.0)}, "step": jnp.int32(0)}


def state(step):
    return jax.tree.map(lambda x: x + step, STATE)


@pytest.fixture
def two(tmp_path):
    """Folder of two checkpoints, of steps 1 and 2."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), {"note": step})
    return tmp_path


def files(folder):
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    assert len(found) > 8
    return found


def used(folder):
    """Restores and checks the newest checkpoint; returns its step and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoints = Checkpoints(folder)
        step = checkpoints.latest()
        assert step is not None
        restored = checkpoints.restore(STATE, step)
    np.testing.assert_array_equal(restored["a"]["w"], np.arange(300.0) + step)
    assert int(restored["step"]) == step
    return step, [str(w.message) for w in caught if w.category is UserWarning]


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_whole_checkpoint_is_used_in_silence(two):
    assert used(two) == (2, [])
    assert Checkpoints(two).record(2)["note"] == 2


def test_every_byte_of_every_file_counts(two):
    """Each file in turn has a flipped bit, is shorter, empty, longer or lost."""
    chance = np.random.default_rng(0)
    for path in files(two / "2"):
        content = path.read_bytes()
        ways = {"lost": None, "longer": content + b"\0"}
        if content:
            places = {0, len(content) - 1, *chance.integers(0, len(content), 3)}
            ways |= {f"flip {i}": flipped(content, int(i)) for i in places}
            ways |= {"shorter": content[:-1], "empty": b""}
        for way, damage in ways.items():
            path.unlink() if damage is None else path.write_bytes(damage)
            step, messages = used(two)
            path.write_bytes(content)
            assert step == 1, (path, way)
            (message,) = messages
            assert "\n" not in message
            assert f"skipped '{two / '2'}', which is damaged" in message
            assert str(path.relative_to(two / "2")) in message
            assert "and used step 1" in message
    assert used(two) == (2, [])


def test_what_was_not_written_is_told(two):
    (two / "2" / "state" / "extra").write_bytes(b"x")
    (message,) = used(two)[1]
    assert "'state/extra' is not in the manifest" in message


def test_a_link_is_not_followed(two, tmp_path):
    """A checkpoint from elsewhere cannot make the library read files outside of it."""
    path = two / "2" / "state" / "_METADATA"
    secret = tmp_path / "secret"
    path.rename(secret)
    path.symlink_to(secret)
    assert "'state/_METADATA' is a link" in used(two)[1][0]
    path.unlink()
    os.mkfifo(path)  # reading it would never end
    assert "'state/_METADATA' is not a regular file" in used(two)[1][0]


@pytest.mark.parametrize(
    "files", [{"../../secret": [1, "0"]}, {"/etc/passwd": [1, "0"]}, {"x": "y"}, [1], 3]
)
def test_a_record_is_data(two, files):
    """A manifest with other names or types is damaged, also with a correct own hash."""
    path = two / "2" / manifest.RECORD
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(manifest._text({**record, "files": files}))
    step, (message,) = used(two)
    assert step == 1
    assert f"skipped '{two / '2'}', which is damaged" in message


def test_asked_for_by_its_step_it_is_refused(two):
    path = two / "2" / "state" / "_METADATA"
    path.write_bytes(b"{}")
    with pytest.raises(InputError, match="'state/_METADATA' has 2 bytes"):
        Checkpoints(two).restore(STATE, step=2)


def test_where_none_is_whole_nothing_begins(two):
    for step in (1, 2):
        (two / str(step) / "state" / "manifest.ocdbt").unlink()
    with pytest.raises(InputError, match="all checkpoints in") as error:
        Checkpoints(two).latest()
    for words in (
        "2: 'state/manifest.ocdbt' is missing",
        "1: ",
        "to start again",
        "are damaged",
    ):
        assert words in str(error.value)


def test_a_newer_version_is_refused(two, monkeypatch):
    monkeypatch.setattr(checkpoints_lib, "FORMAT", 0)
    with pytest.raises(InputError, match=r"must be 0, got 1\. Install the jaxdiff"):
        Checkpoints(two).restore(STATE)


def test_a_damaged_one_is_replaced_when_the_run_comes_there_again(two):
    (two / "2" / "state" / "_METADATA").unlink()
    with Checkpoints(two, keep=2) as checkpoints, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert checkpoints.latest() == 1
        checkpoints.save(2, state(2))
        checkpoints.wait()
        assert sorted(p.name for p in two.iterdir()) == ["1", "2"]
        checkpoints.save(3, state(3))
    assert used(two) == (3, [])
    assert sorted(p.name for p in two.iterdir()) == ["2", "3"]


def test_damaged_ones_do_not_push_out_good_ones(two):
    with Checkpoints(two) as checkpoints:
        checkpoints.save(5, state(5))
    (two / "5" / "state" / "_METADATA").unlink()
    with Checkpoints(two, keep=2) as checkpoints, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert checkpoints.latest() == 2
        checkpoints.save(3, state(3))
        checkpoints.wait()
        # The damaged checkpoint is newer: it stays for inspection.
        assert sorted(p.name for p in two.iterdir()) == ["2", "3", "5"]
        checkpoints.save(6, state(6))
    assert sorted(p.name for p in two.iterdir()) == ["3", "6"]


def test_which_ones_stay(tmp_path):
    losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 5.0, 50: 4.0, 60: 6.0}
    with Checkpoints(tmp_path, keep=1, keep_every=30, keep_best="loss") as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, state(step), {"metrics": {"loss": loss}})
        checkpoints.save(70, state(70), {"metrics": {}})
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [20, 30, 60, 70]


def test_none_is_removed_before_the_next_is_proven(two, monkeypatch):
    """At each removal, a newer checkpoint exists in which every byte is right."""
    removed = []

    def look(self, step):
        whole = [s for s in self._steps() if s > step and s not in self._damaged]
        for newer in whole:
            manifest.verify(two / str(newer))
        assert whole, f"{step} is removed, and none is newer"
        removed.append(step)
        remove(self, step)

    remove = Checkpoints._remove
    monkeypatch.setattr(Checkpoints, "_remove", look)
    with Checkpoints(two, keep=1) as checkpoints:
        for step in (3, 4):
            checkpoints.save(step, state(step))
    assert sorted(removed) == [1, 2, 3]


def test_a_save_that_cannot_be_proven_removes_nothing(two, monkeypatch):
    def broken(folder, record):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints_lib, "write_manifest", broken)
    checkpoints = Checkpoints(two, keep=1)
    checkpoints.save(3, state(3))
    with pytest.raises(InputError, match=r"step 3 is lost \(step 2 remains\): cannot"):
        checkpoints.wait()
    assert sorted(p.name for p in two.iterdir()) == ["1", "2"]
    assert used(two) == (2, [])


def test_a_checkpoint_outlives_a_power_cut(tmp_path, monkeypatch):
    """The files of a checkpoint are on the disk before it gets its name."""
    flushed = []

    def note(descriptor):
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        flush(descriptor)

    def look(self, target):
        if target.name == "1":
            names = {path.relative_to(self).as_posix() for path in files(self)}
            there = {os.path.relpath(path, self) for path in flushed}
            written = {name for name in there if name.startswith(f".{manifest.RECORD}")}
            assert names - there == {manifest.RECORD}
            assert len(written) == 1  # the manifest, under another name
            assert "." in there
            flushed.clear()
        return rename(self, target)

    flush, rename = os.fsync, pathlib.Path.rename
    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(pathlib.Path, "rename", look)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1))
    assert flushed == [str(tmp_path)]


def test_what_a_kill_left_is_removed_by_the_next_save(two):
    for name in ("3.writing", "4.writing.orbax-checkpoint-tmp", "1.removed"):
        shutil.copytree(two / "1", two / name)
    assert used(two) == (2, [])
    with Checkpoints(two) as checkpoints:
        checkpoints.save(3, state(3))
    assert sorted(p.name for p in two.iterdir()) == ["1", "2", "3"]


def test_a_full_disk(disk):
    folder, remount = disk
    place = folder / "checkpoints"
    big = {"w": jax.random.normal(jax.random.key(0), (150_000,))}  # 600 kB
    with Checkpoints(place) as checkpoints:
        checkpoints.save(1, big)
        checkpoints.wait()
        checkpoints.save(2, big)
        with pytest.raises(InputError) as error:
            checkpoints.wait()
        message = str(error.value)
        assert "checkpoint of step 2 is lost (step 1 remains): " in message
        assert "No space left on device. Free space " in message
        assert f"on the disk of '{place}' (" in message
        assert "\n" not in message
    assert [p.name for p in place.iterdir()] == ["1"]
    remount("size=8m")
    with Checkpoints(place) as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(big)["w"], big["w"])
        checkpoints.save(2, big)
    assert Checkpoints(place).latest() == 2


def test_a_folder_that_becomes_read_only(disk):
    folder, remount = disk
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state(1))
        checkpoints.wait()
        remount("ro")
        message = r"step 2 is lost \(step 1 remains\): .*Read-only file system\. Make"

        def save():
            checkpoints.save(2, state(2))
            checkpoints.wait()

        with pytest.raises(InputError, match=message):
            save()
        assert used(folder) == (1, [])


@pytest.mark.parametrize("call", ["rename", "unlink"])
def test_an_old_checkpoint_that_cannot_be_removed_stops_nothing(two, monkeypatch, call):
    """As on a network disk: a folder is busy, or its files are still open."""

    def busy(path, *args, **options):
        if "1" in pathlib.Path(path).parts or "1.removed" in pathlib.Path(path).parts:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return real(path, *args, **options)

    real: Any
    if call == "rename":
        real = pathlib.Path.rename
        monkeypatch.setattr(pathlib.Path, "rename", busy)
    else:
        real = shutil.rmtree

        def rmtree(path, ignore_errors=False):
            try:
                busy(path)
            except OSError:
                if not ignore_errors:
                    raise

        monkeypatch.setattr(shutil, "rmtree", rmtree)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Checkpoints(two, keep=2) as checkpoints:
            for step in (3, 4):
                checkpoints.save(step, state(step))
    names = {path.name for path in two.iterdir()}
    if call == "rename":
        assert names == {"1", "3", "4"}
        message = f"kept the old checkpoint '{two / '1'}', which cannot be removed: "
        assert [str(w.message) for w in caught] == [
            f"{message}Device or resource busy"
        ] * 2
    else:
        assert names == {"1.removed", "3", "4"}
    monkeypatch.undo()
    with Checkpoints(two, keep=1) as checkpoints:
        checkpoints.save(5, state(5))
    assert [path.name for path in two.iterdir()] == ["5"]


def on_devices():
    """Returns the bytes of all arrays on all devices; shared buffers count once."""
    buffers = {}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            place = shard.device, shard.data.unsafe_buffer_pointer()
            buffers[place] = shard.data.nbytes
    return sum(buffers.values())


@pytest.mark.parametrize("count", [1, 8])
def test_no_device_holds_a_second_copy(tmp_path, count):
    """While a state is copied, written and verified, its devices hold it once."""
    mesh = jax.sharding.Mesh(jax.devices()[:count], ("batch",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    big = jax.device_put({"w": np.zeros((1000, 1000)), "v": np.ones(500)}, everywhere)
    jax.block_until_ready(big)
    expected, seen = on_devices(), []
    assert expected >= count * 4_000_000
    with Checkpoints(tmp_path) as checkpoints:
        saving = threading.Thread(target=checkpoints.save, args=(1, big))
        saving.start()
        while saving.is_alive() or not (tmp_path / "1").exists():
            seen.append(on_devices())
        saving.join()
    # Replicas share the work: each device may slice off its part, and no more.
    assert max(seen) <= expected + 4_100_000


def test_sealing_is_undone_by_any_change(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_bytes(b"abc")
    manifest.write_manifest(folder, {"a": 1})
    record = manifest.verify(folder)
    assert record["a"] == 1
    assert list(record["files"]) == ["inner/file"]
    path = folder / manifest.RECORD
    text = path.read_text()
    for i in range(len(text)):
        path.write_bytes(flipped(text.encode(), i))
        with pytest.raises(manifest.Damaged, match=r"jaxdiff\.json was changed"):
            manifest.verify(folder)
    path.write_text(text)
    assert manifest.verify(folder) == record


def test_the_folder_module_names_no_pickle():
    """Checkpoints and configurations are data: no code of the package runs them.

    The reader of PyTorch's files is an exception. Its unpickler makes only arrays.
    """
    root = pathlib.Path(jaxdiff.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text()
        if path.name == "torch_pickle.py":
            assert text.count("pickle.Unpickler") == 1, "the parent of its own"
            assert "pickle.load" not in text
            text = text.replace("import pickle", "")
        for word in ("import pickle", "cloudpickle", "allow_pickle=True", " eval("):
            assert word not in text, f"{path}: {word}"
