"""CPU devices that the command line creates on the machine's cores."""

import dataclasses
import json
import os
import subprocess
import sys
import types

import pytest

import jaxdiff as jd
from jaxdiff.cli.train import devices_again, train_devices
from jaxdiff.parallel import cpu_devices, describe_devices
from jaxdiff.runs.folder import write_record
from jaxdiff.training.experiment import DataInfo
from tests.helpers.runs import TINY


@pytest.mark.parametrize(
    ("layout", "most", "rows", "count"),
    [
        (jd.parallel.Pmap(), 2, 64, 2),
        (jd.parallel.Pmap(), 10, 64, 8),
        (jd.parallel.Pmap(), 10, 63, 9),
        (jd.parallel.Pmap(), 10, 11, 1),
        (jd.parallel.Pmap(), 16, 5, 5),
        (jd.parallel.Pmap(), 10, 0, 10),  # 0: any number of rows
        (jd.parallel.Pmap(num_devices=1), 10, 64, 1),
        (jd.parallel.Pmap(num_devices=3), 10, 64, 3),  # an error later
        (jd.parallel.Pmap(num_devices=16), 10, 64, 10),  # an error later
        (jd.parallel.Sharded(), 10, 64, 8),
        (jd.parallel.Sharded(data=3), 10, 36, 9),
        (jd.parallel.Sharded(data=3), 2, 36, 2),  # an error later
        (jd.parallel.Sharded(data=2, fsdp=2), 10, 64, 4),
        (jd.parallel.Sharded(data=4, fsdp=4), 10, 64, 10),
    ],
)
def test_as_many_cores_as_the_layout_can_use(layout, most, rows, count):
    assert layout.usable(most, rows) == count


def test_the_parts_of_a_batch_count(monkeypatch):
    monkeypatch.setattr(cpu_devices, "available", lambda: 8)
    for accumulate, count in ((1, 8), (4, 4), (16, 1), (32, 1)):
        training = dataclasses.replace(TINY.training, accumulate=accumulate)
        experiment = dataclasses.replace(TINY, training=training)
        assert train_devices(experiment) == count


def test_the_cores_are_those_of_this_process():
    assert 1 <= cpu_devices.available() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("devices", "count"),
    [
        ({"backend": "cpu", "count": 4, "processes": 1}, 4),
        ({"backend": "cpu", "count": 16, "processes": 1}, 16),
        ({"backend": "cpu", "count": 4, "processes": 2}, 2),  # needs two processes
        ({"backend": "gpu", "count": 4, "processes": 1}, 2),
        ({"backend": "cpu", "count": 17, "processes": 1}, 2),  # more than a batch has
        ({"backend": "cpu", "count": 0, "processes": 1}, 2),
        ({"backend": "cpu", "count": "4", "processes": 1}, 2),
        ([], 2),
        (None, 2),
    ],
)
def test_a_run_again_has_the_devices_it_had(tmp_path, monkeypatch, devices, count):
    monkeypatch.setattr(cpu_devices, "available", lambda: 2)
    write_record(tmp_path, TINY, DataInfo((8, 8, 1), 10, None))
    assert devices_again(tmp_path) == 2
    starts = [{"event": "start", "devices": d} for d in ({"count": 9}, devices)]
    history = "".join(json.dumps(start) + "\n" for start in starts)
    (tmp_path / "history.jsonl").write_text(history)
    assert devices_again(tmp_path) == count


def test_the_devices_are_told():
    assert describe_devices(jd.parallel.Pmap()) == "8 CPU devices"
    assert describe_devices(jd.parallel.Sharded(fsdp=1)) == "1 CPU device"


def test_where_jax_has_started_nothing_changes(monkeypatch):
    def update(*_):
        raise RuntimeError("should be updated before backends are initialized")

    values = {"jax_num_cpu_devices": -1}
    started = types.SimpleNamespace(values=values, update=update)
    monkeypatch.setattr(cpu_devices.jax, "config", started)
    environ: dict[str, str] = {}
    cpu_devices.use(3, environ)
    assert not environ


CHOICES = """
import jax
from jaxdiff.cli import program, train
from jaxdiff.parallel import cpu_devices
from tests.helpers.runs import TINY


def chosen(count, config=-1, **environ):
    jax.config.update("jax_num_cpu_devices", config)
    cpu_devices.use(count, environ)
    return jax.config.values["jax_num_cpu_devices"], environ.get("NPROC")


flag = "--a=b --xla_force_host_platform_device_count=5 --c"
cpu_devices.available = lambda: 3
assert chosen(1) == (1, None)
assert chosen(3) == (3, "6")
assert chosen(4) == (4, "32")  # more than there are threads
assert chosen(4, NPROC="9") == (4, "9")
assert chosen(3, config=2) == (2, "4")
assert chosen(3, config=5) == (5, "36")
assert chosen(3, XLA_FLAGS=flag) == (-1, "36")
assert chosen(3, XLA_FLAGS="--a=b") == (3, "6")

jax.config.update("jax_num_cpu_devices", -1)
train.run_training = lambda *args, **options: print(jax.devices())
program.main(TINY, "What it is.", args=["train", "--schedule", "cosine"])
"""
"""Program that checks the chosen number; last, a training of 16 images on 3 cores."""


def test_the_number_is_chosen_before_jax_starts():
    own = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHOICES],
        env=own | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[CpuDevice(id=0), CpuDevice(id=1)]\n")
