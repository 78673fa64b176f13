"""Reads while another process trains: it may remove a checkpoint at any moment."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.errors import InputError
from jaxdiff.storage import checkpoints as checkpoints_lib
from jaxdiff.storage.checkpoints import ATTEMPTS, Checkpoints
from tests.helpers.fake_run import fake_run

MOMENTS = ("verify", "read_manifest", "metadata", "load", "loaded")
"""Functions that read a checkpoint, before which it is removed; "loaded" is after."""


def state(step):
    return {"ema": jnp.full(3, float(step)), "other": jnp.zeros(2)}


@pytest.fixture
def replace(tmp_path):
    """Function that saves the next step and so removes the step before it."""
    with Checkpoints(tmp_path, keep=1) as writer:

        def replace():
            step = (writer.steps() or [0])[-1] + 1
            writer.save(step, state(step))
            writer.wait()

        replace()
        yield replace


def disturb(monkeypatch, reader, moment, disturbance, times):
    """Calls a function at a moment of each of the first reads."""
    left = [disturbance] * times
    after = moment == "loaded"
    name = "load" if after else moment

    def disturbed(function, *args, **options):
        if left and not after:
            left.pop()()
        result = function(*args, **options)
        if left and after:
            left.pop()()
        return result

    if name in ("metadata", "load"):
        ocp = reader._ocp
        proxy = type("Proxy", (), {"__getattr__": lambda _, n: getattr(ocp, n)})()
        setattr(proxy, name, functools.partial(disturbed, getattr(ocp, name)))
        reader._ocp = proxy
    else:
        function = getattr(checkpoints_lib, name)
        monkeypatch.setattr(
            checkpoints_lib, name, functools.partial(disturbed, function)
        )


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_removed_checkpoint_is_read_from_the_next_one(
    tmp_path, monkeypatch, replace, moment
):
    reader = Checkpoints(tmp_path)
    disturb(monkeypatch, reader, moment, replace, times=2)
    found = reader.restore({"ema": jnp.zeros(3)}, partial=True)
    np.testing.assert_array_equal(found["ema"], np.full(3, 3.0))


@pytest.mark.parametrize("moment", MOMENTS[2:])
def test_a_removed_checkpoint_of_a_given_step_is_named(
    tmp_path, monkeypatch, replace, moment
):
    reader = Checkpoints(tmp_path)
    disturb(monkeypatch, reader, moment, replace, times=1)
    with pytest.raises(InputError, match=r"'.*/1' was removed while it was read: a pr"):
        reader.restore(state(0), 1)


@pytest.mark.parametrize("moment", ["verify", "load"])
def test_reads_that_are_always_too_slow_end_in_one_line(
    tmp_path, monkeypatch, replace, moment
):
    reader = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints_lib, "ATTEMPTS", 2)
    assert ATTEMPTS > 2
    disturb(monkeypatch, reader, moment, replace, times=9)
    with pytest.raises(InputError, match=r"each .* removed .* larger --upkeep.keep\."):
        reader.restore(state(0))


def test_a_damaged_checkpoint_is_read_once(tmp_path, monkeypatch, replace):
    """An error of a checkpoint that is still there is no reason to try again."""
    reader, calls = Checkpoints(tmp_path), []

    def fail():
        calls.append(1)
        raise ZeroDivisionError

    disturb(monkeypatch, reader, "load", fail, times=9)
    with pytest.raises(ZeroDivisionError):
        reader.restore(state(0))
    assert calls == [1]


def test_load_reads_the_checkpoint_that_replaced_the_newest(tmp_path, monkeypatch):
    """It has two reads, of the manifest and of the arrays."""
    fake_run(tmp_path / "run", conditional=True)
    folder, record = tmp_path / "run" / "checkpoints", Checkpoints.record

    def replaced(self, step):
        found = record(self, step)
        if (folder / "2").exists():
            (folder / "2").rename(folder / "3")
        return found

    monkeypatch.setattr(Checkpoints, "record", replaced)
    assert jd.load(tmp_path / "run").step == 3
