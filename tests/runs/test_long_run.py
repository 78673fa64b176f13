"""Faults in a run of weeks: bad numbers, full disks, jumping clocks, other data."""

import dataclasses
import hashlib
import importlib
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
from typing import Any

import jax
import numpy as np
import pytest

import jaxdiff as jd
import jaxdiff.data
from jaxdiff.cli import main
from jaxdiff.cli.replay import ReplayOptions, replay
from jaxdiff.cli.reproduce import ReproduceOptions, reproduce
from jaxdiff.report.status import status
from jaxdiff.runs import provenance, saver
from jaxdiff.runs.folder import read_config
from jaxdiff.runs.log import last_start
from jaxdiff.runs.metrics_buffer import NEEDED
from jaxdiff.storage import json_lines
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.read_state import digest
from jaxdiff.training.experiment import Training, Upkeep
from jaxdiff.training.initialize import init_shapes
from tests.helpers.fake_run import snapshot
from tests.helpers.runs import OWN, TINY, same_bits

pytestmark = pytest.mark.usefixtures("standard_promotion")
EACH = dataclasses.replace(
    TINY, upkeep=Upkeep(log_every=2, checkpoint_every=1, keep=10)
)
"""TINY with a checkpoint after each step."""


def run(workdir, experiment=TINY, **options):
    return jax.device_get(jd.train(experiment, workdir, progress=False, **options))


def with_training(experiment, **changes):
    training = dataclasses.replace(experiment.training, **changes)
    return dataclasses.replace(experiment, training=training)


def lines(workdir):
    """Returns the lines of metrics, parsed as strict JSON."""
    text = (workdir / "metrics.jsonl").read_text()
    refuse = pytest.fail
    return [json.loads(t, parse_constant=refuse) for t in text.splitlines()]


def events(workdir, name):
    found = json_lines.read(workdir / "history.jsonl", "event")
    return [event for event in found if event["event"] == name]


def state_of(workdir, step):
    template = init_shapes(*read_config(workdir), OWN)
    return jax.device_get(Checkpoints(workdir / "checkpoints").restore(template, step))


@pytest.fixture
def spoilt(monkeypatch):
    """Function that puts a nan into the batches of given steps, counted from 1."""
    real = jaxdiff.data.batch

    def spoil(*steps):
        def batch(dataset, seed, step, *args, **kwargs):
            found = real(dataset, seed, step, *args, **kwargs)
            if step + 1 in steps:
                found.images[0, 0, 0] = np.nan
            return found

        monkeypatch.setattr(jaxdiff.data, "batch", batch)

    return spoil


def test_a_bad_number_stops_the_run(finished, tmp_path, spoilt, capsys):
    whole, state = finished
    spoilt(7)
    with pytest.raises(jd.errors.NonFiniteError) as error:
        run(tmp_path)
    assert error.value.step == 7
    message = str(error.value)
    assert (
        "the loss of step 7 is nan, its gradient norm nan: training stopped" in message
    )
    assert f"replay --workdir {tmp_path} --step 7" in message
    assert "\n" not in message
    # The newest checkpoint and the last line are from before step 7.
    assert jd.load(tmp_path).step == 4
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]
    record = json.loads((tmp_path / "nonfinite.json").read_text())
    assert record == {
        "step": 7, "seed": 0, "loss": "nan", "grad_norm": "nan",
        "replay": f"replay --workdir {tmp_path} --step 7",
    }  # fmt: skip
    assert [e["step"] for e in events(tmp_path, "nonfinite")] == [7]
    assert "not finite stopped the training once: see nonfinite.json" in status(
        tmp_path
    )

    replay(ReplayOptions(workdir=tmp_path))  # the default is step 7
    out = capsys.readouterr().out
    assert "step 7 of seed 0, from the checkpoint of step 4: loss nan" in out
    assert "gradients not finite: conv_in/" in out
    with np.load(tmp_path / "replay-7.npz") as arrays:
        assert np.isnan(arrays["images"][0]).any()
        assert np.flatnonzero(~np.isfinite(arrays["losses"])).tolist() == [0]

    spoilt()
    assert same_bits(run(tmp_path), state)
    assert lines(tmp_path) == lines(whole)


def test_a_bad_step_may_be_left_out(tmp_path, spoilt):
    skip = with_training(EACH, nonfinite="skip", max_skips=1)
    spoilt(3)
    run(tmp_path, skip, network=OWN, until=5)
    before, after = state_of(tmp_path, 2), state_of(tmp_path, 3)
    assert (int(before.step), int(after.step)) == (2, 3)
    assert same_bits(before._replace(step=after.step), after)
    assert not same_bits(after.params, state_of(tmp_path, 4).params)
    # After a restart, the second bad step exceeds `max_skips`.
    spoilt(7)
    with pytest.raises(
        jd.errors.NonFiniteError, match="and 1 steps were skipped before"
    ):
        run(tmp_path, skip, network=OWN)
    assert jd.load(tmp_path, network=OWN).step == 6
    run(tmp_path, with_training(skip, max_skips=2), network=OWN)
    found = lines(tmp_path)
    assert [line.get("nonfinite", 0) for line in found] == [0, 1, 0, 1]
    assert all(np.isfinite(line["loss"]) for line in found)
    assert len(events(tmp_path, "nonfinite")) == 3
    assert "steps with a loss that was not finite: 2" in status(tmp_path)


def test_or_training_goes_on_and_says_so(tmp_path, spoilt, capfd):
    spoilt(2)
    state = run(tmp_path, with_training(TINY, nonfinite="go-on"), network=OWN)
    assert np.isnan(state.params["Dense_0"]["kernel"]).all()
    assert "warning: the loss of step 2 is nan" in capfd.readouterr().out
    assert [line["nonfinite"] for line in lines(tmp_path)] == [1, 2, 2, 2]
    assert "loss" not in lines(tmp_path)[-1]


@pytest.mark.parametrize(
    ("loss", "norm"), [(np.nan, 1.0), (1.0, np.inf), (-np.inf, np.nan), (1.0, 1.0)]
)
@pytest.mark.parametrize("guard", [True, False])
def test_a_guarded_step_changes_nothing_but_its_number(loss, norm, guard):
    """Loss and gradient norm are bad one by one, together, or not at all."""
    params = {"w": np.ones(3, np.float32)}
    optimizer = TINY.optimizer.build(8)
    state = jd.TrainState.create(params, optimizer)
    step: Any = jd.train_step

    def mean_of(fn, shared, batch):
        gradient = {"w": np.full(3, norm, np.float32)}
        return gradient, {"loss": np.float32(loss), "seen": ()}

    after, metrics = step(
        state, None, mean_of, network=None, schedule=None, prediction=None,
        objective=jd.losses.Simple(), optimizer=optimizer, ema_decay=0.9, seed=0,
        guard=guard,
    )  # fmt: skip
    fine = bool(np.isfinite(loss) and np.isfinite(norm))
    assert bool(metrics["finite"]) == fine
    assert int(after.step) == 1
    same = same_bits(after._replace(step=state.step), state)
    assert same == (guard and not fine)


def test_clipping_is_reported(finished):
    for line in lines(finished[0]):
        assert line["grad_norm_max"] >= line["grad_norm"]
        assert 0 <= line["clipped"] <= 1
        assert (line["clipped"] > 0) == (line["grad_norm_max"] > 1)


def test_a_clock_that_jumps_changes_nothing(undisturbed, tmp_path, monkeypatch):
    whole, state = undisturbed
    now, chance = time.time(), np.random.default_rng(0)
    jump = lambda: now + float(chance.uniform(-1e8, 1e8))  # noqa: E731
    monkeypatch.setattr(time, "time", jump)
    monkeypatch.setattr(time, "time_ns", lambda: int(jump() * 1e9))
    run(tmp_path, network=OWN, until=4)
    assert same_bits(run(tmp_path, network=OWN), state)
    assert lines(tmp_path) == lines(whole)


def test_saving_by_the_clock(undisturbed, tmp_path, monkeypatch):
    """The monotonic clock decides; here each call of the clock takes a minute."""
    _, state = undisturbed
    minutes = iter(range(1000))
    clock = types.SimpleNamespace(monotonic=lambda: 60.0 * next(minutes))
    monkeypatch.setattr(saver, "time", clock)
    upkeep = Upkeep(log_every=2, checkpoint_every=8, checkpoint_minutes=2, keep=9)
    experiment = dataclasses.replace(TINY, upkeep=upkeep)
    assert same_bits(run(tmp_path, experiment, network=OWN), state)
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    # Read at steps 2, 4 and 6: 1 and 2 minutes after the start, 1 minute after step 4.
    assert steps == [4, 8]


def test_a_full_disk_stops_training(undisturbed, tmp_path, disk):
    """With more space, the same command resumes to the same bits."""
    whole, state = undisturbed
    folder, remount = disk
    filler = folder / "filler"
    filler.write_bytes(b"x" * 300_000)
    workdir = folder / "run"
    with pytest.raises(jd.InputError) as error:
        run(workdir, EACH, network=OWN)
    assert "No space left on device" in str(error.value)
    assert "left), then start again." in str(error.value)
    remount("size=8m")
    found = Checkpoints(workdir / "checkpoints").status()
    assert found
    assert all(reason is None for _, reason in found.values())
    assert same_bits(run(workdir, EACH, network=OWN), state)
    assert lines(workdir) == lines(whole)


def test_other_data_is_refused(finished, monkeypatch):
    workdir, _ = finished
    load, before = jd.data.Digits.load, snapshot(workdir)

    def changed(self, split="train"):
        dataset = load(self, split)
        images = np.array(dataset.images)
        images[700, 3, 3] ^= 1
        return dataclasses.replace(dataset, images=images)

    monkeypatch.setattr(jd.data.Digits, "load", changed)
    message = "holds a run of other data .fingerprint '.*', not '.*'.: images or labels"
    with pytest.raises(jd.InputError, match=message):
        run(workdir)
    with pytest.raises(jd.InputError, match=message):
        replay(ReplayOptions(workdir=workdir, step=3))
    assert snapshot(workdir) == before


def test_the_fingerprint_is_that_of_every_part():
    images = np.arange(2 * 4 * 4).reshape(2, 4, 4, 1).astype(np.uint8)
    labels = np.array([0, 1])
    others = [
        (images, labels, ("a", "b")), (images, labels, ("a", "c")),
        (images, labels[::-1], ("a", "b")), (images[::-1], labels, ("a", "b")),
        (images.reshape(2, 2, 8, 1), labels, ("a", "b")), (images, labels, None),
        (images, None, None),
    ]  # fmt: skip
    found = [jaxdiff.data.from_arrays(*parts).fingerprint() for parts in others]
    assert len(set(found)) == len(others)
    assert found[0] == jaxdiff.data.from_arrays(*others[0]).fingerprint()


def test_one_process_at_a_time(finished):
    workdir, _ = finished
    with json_lines.History(workdir / "history.jsonl"):
        before = snapshot(workdir)
        with pytest.raises(jd.InputError, match="another process trains in"):
            run(workdir)
        assert snapshot(workdir) == before


def test_the_last_save_of_another_process_counts(finished, tmp_path, monkeypatch):
    """A process that was asked to stop saves, and then releases its lock."""
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    saved = shutil.move(workdir / "checkpoints" / "8", tmp_path)
    before = lines(workdir)

    def open_history(folder):
        shutil.move(saved, folder / "checkpoints")
        return real(folder)

    module = importlib.import_module("jaxdiff.runs.train")
    real = module.open_history
    monkeypatch.setattr(module, "open_history", open_history)
    assert same_bits(run(workdir), finished[1])
    assert last_start(workdir)["step"] == 8
    assert lines(workdir) == before


def test_a_damaged_checkpoint_costs_its_own_steps_only(finished, tmp_path):
    whole, state = finished
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    path = workdir / "checkpoints" / "8" / "state" / "manifest.ocdbt"
    path.write_bytes(path.read_bytes()[:-3])
    text = status(workdir)
    assert "step 4 of 8 (50%)" in text
    assert "damaged: 'state/manifest.ocdbt' has" in text
    with pytest.warns(UserWarning, match=r"8', which is damaged .*used step 4"):
        assert same_bits(run(workdir), state)
    assert lines(workdir) == lines(whole)
    assert "damaged:" not in status(workdir)


def test_status(finished):
    workdir, _ = finished
    before = snapshot(workdir)
    text = status(workdir)
    assert snapshot(workdir) == before
    for words in (
        f"{workdir}: step 8 of 8 (100%), finished", "step 4 ", "  whole\n",
        "metrics of step 8, the last line", "loss_q4", f"jax {jax.__version__}",
        "8 x cpu, processes: 1", "schedule     Linear(num_steps=20,", "images/s",
        f"fingerprint  {TINY.data.load().fingerprint()}",
    ):  # fmt: skip
        assert words in text


def test_a_start_records_where_it_comes_from(finished):
    (start,) = events(finished[0], "start")[:1]
    assert start["step"] == 0
    assert start["command"] == sys.argv
    assert start["versions"]["jax"] == jax.__version__
    assert {"python", "jaxdiff", "flax", "optax", "numpy"} <= start["versions"].keys()
    assert start["devices"] == {
        "backend": "cpu", "kind": "cpu", "count": 8, "processes": 1
    }  # fmt: skip
    assert start["code"] == provenance.code()
    assert len(start["code"]["source"]) == 16


def test_the_code_is_all_of_the_package():
    """A change of any module changes the hash of the code."""
    package = pathlib.Path(jd.__file__).parent
    paths = sorted(package.rglob("*.py"))
    names = [path.relative_to(package).as_posix() for path in paths]
    assert {"__init__.py", "runs/provenance.py", "samplers/ddim.py"} <= set(names)
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0" + (package / name).read_bytes() + b"\0")
    assert provenance.code()["source"] == digest.hexdigest()[:16]


@pytest.mark.long
def test_replay_takes_the_runs_own_step(finished, tmp_path, capsys):
    workdir, _ = finished
    before = snapshot(workdir)
    losses = []
    for step in (7, 8):
        replay(ReplayOptions(workdir=workdir, step=step, out=tmp_path))
        out = capsys.readouterr().out
        assert f"step {step} of seed 0, from the checkpoint of step 4: loss " in out
        with np.load(tmp_path / f"replay-{step}.npz") as arrays:
            losses.append(arrays["losses"].mean())
            batch = jaxdiff.data.batch(TINY.data.load(), 0, step - 1, 16)
            np.testing.assert_array_equal(arrays["images"], batch.images)
            np.testing.assert_array_equal(arrays["labels"], batch.labels)
            chosen = TINY.data.load().images[arrays["examples"]]
            np.testing.assert_array_equal(jaxdiff.data.to_float(chosen), batch.images)
        assert (tmp_path / f"replay-{step}.png").stat().st_size > 1000
    # The line of step 8 has the mean of both losses.
    np.testing.assert_allclose(np.mean(losses), lines(workdir)[-1]["loss"], rtol=1e-5)
    assert snapshot(workdir) == before


def test_reproduce(finished, tmp_path, capsys, monkeypatch):
    workdir, _ = finished
    before = snapshot(workdir)
    assert reproduce(ReproduceOptions(workdir=workdir, again=tmp_path / "again"))
    out = capsys.readouterr().out
    assert out.endswith("bitwise identical\n")
    # The parts of the state, and the metrics.
    assert out.count("the same\n") == len(jd.TrainState._fields) + 1
    assert snapshot(workdir) == before

    monkeypatch.setattr(provenance, "versions", lambda: {"jax": "9.9"})
    path = tmp_path / "again" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"loss": ', '"loss": 1', 1))
    assert not reproduce(ReproduceOptions(workdir=workdir, again=tmp_path / "again"))
    out = capsys.readouterr().out
    assert out.endswith("NOT identical\n")
    assert f"jax: {jax.__version__} then, 9.9 now" in out


def test_a_digest_is_of_names_types_shapes_and_bytes():
    a, b = np.zeros((2, 3), np.float32), np.ones(1)
    tree = {"a": a, "b": b}
    others = [
        {"a": a, "c": b}, {"a": a.T, "b": b}, {"a": a.view(np.int32), "b": b}, {"a": a},
        {"a": -a, "b": b},
    ]  # fmt: skip
    found = {digest(t) for t in (tree, *others)}
    assert len(found) == len(others) + 1
    assert digest({"b": np.ones(1), "a": np.zeros((2, 3), np.float32)}) == digest(tree)


@pytest.mark.parametrize(
    "hostile",
    [
        {"pending": {"loss": "none"}}, {"pending": {"loss": [1.0]}}, {"pending": [1]},
        {"pending": {name: [1] * i for i, name in enumerate(sorted(NEEDED))}},
        {"skipped": "many"}, {"skipped": float("inf")}, {"metrics": 3},
    ],
)  # fmt: skip
def test_metrics_that_cannot_be_read(finished, tmp_path, monkeypatch, hostile):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    record = Checkpoints.record

    def changed(self, step):
        return {**record(self, step), **hostile}

    monkeypatch.setattr(Checkpoints, "record", changed)
    with pytest.raises(jd.InputError, match="step 8 has metrics that cannot be read"):
        run(workdir)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            jd.errors.NonFiniteError("the loss of step 3 is nan", 3),
            4,
            "error: the loss of step 3",
        ),
        (
            jd.parallel.Terminated("step 3 is saved"),
            143,
            "step 3 is saved. Run the same comman",
        ),
        (
            jd.parallel.Terminated("step 3 is saved", signal.SIGUSR1),
            138,
            "step 3 is saved. Run the same comman",
        ),
        (KeyboardInterrupt("step 3 is saved"), 130, "step 3 is saved. Run the same"),
        (KeyboardInterrupt(), 130, "stopped.\n"),
    ],
)
def test_the_exit_code_tells_why(monkeypatch, capsys, error, code, words):
    def stop(*args, **options):
        raise error

    monkeypatch.setattr("jaxdiff.cli.train.run_training", stop)
    with pytest.raises(SystemExit) as raised:
        main(TINY, "What it is.", args=["train"])
    assert raised.value.code == code
    assert words in capsys.readouterr().err


def test_a_second_ctrl_c_ends_it_at_once():
    """The process ends even inside a call that Python cannot interrupt."""
    code = (
        "import hashlib\n"
        "from jaxdiff.parallel.preemption import stop_between_steps\n"
        "with stop_between_steps():\n"
        "    print('in', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 1_000_000_000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=pathlib.Path(jd.__file__).parents[1],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "in\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "\n"
        assert "then saving; press Ctrl-C to stop" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=10) == 130
        finally:
            process.kill()


def test_a_second_ctrl_c_does_not_end_a_notebook():
    """Two signals inside one call reach Python as one; the variables remain."""
    code = (
        "import hashlib, os, signal, sys, threading, time\n"
        "from jaxdiff.parallel.preemption import stop_between_steps\n"
        "sys.ps1 = 'In : '\n"
        "def press():\n"
        "    for _ in range(2):\n"
        "        time.sleep(0.2)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=press).start()\n"
        "try:\n"
        "    with stop_between_steps():\n"
        "        hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000)\n"
        "        time.sleep(60)\n"
        "except KeyboardInterrupt as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=pathlib.Path(jd.__file__).parents[1],
        text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "stopped at once; the newest checkpoint remains\n"


def test_a_run_may_keep_the_best(tmp_path):
    training = Training(num_steps=6, batch_size=16, ema_decay=0.9)
    upkeep = Upkeep(log_every=1, checkpoint_every=1, keep=1, keep_best="loss")
    experiment = dataclasses.replace(TINY, training=training, upkeep=upkeep)
    run(tmp_path, experiment, network=OWN)
    losses = {line["step"]: line["loss"] for line in lines(tmp_path)}
    best = min(losses, key=losses.__getitem__)
    steps = {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    assert steps == {6, best}
