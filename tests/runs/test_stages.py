"""A run that goes on with more steps or another optimizer."""

import dataclasses
import json
import shutil
import sys
import warnings

import jax
import pytest

import jaxdiff as jd
from jaxdiff.cli import main, program
from jaxdiff.cli.reproduce import ReproduceOptions, reproduce
from jaxdiff.runs.folder import read_config, write_record
from jaxdiff.runs.log import events_of
from jaxdiff.storage import json_lines
from jaxdiff.storage.checkpoints import Checkpoints
from tests.helpers.runs import TINY, same_bits

pytestmark = pytest.mark.usefixtures("standard_promotion")
LONGER = dataclasses.replace(
    TINY, training=dataclasses.replace(TINY.training, num_steps=12)
)
FASTER = dataclasses.replace(
    TINY, optimizer=dataclasses.replace(TINY.optimizer, learning_rate=0.05)
)


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Run of 4 steps, then 4 with a higher learning rate, then 4 more steps."""
    workdir = tmp_path_factory.mktemp("changed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["jaxdiff"])
        with jax.numpy_dtype_promotion("standard"):
            jd.train(TINY, workdir, until=4, progress=False)
            rate = ["--optimizer.learning-rate", "0.05"]
            program.jaxdiff(["train", "--workdir", str(workdir), *rate])
            steps = ["--training.num-steps", "12"]
            program.jaxdiff(["train", "--workdir", str(workdir), *steps])
    return workdir


def lines_of(workdir):
    return json_lines.read(workdir / "metrics.jsonl", "step")


def test_a_change_holds_from_its_step_on_and_is_recorded(changed, finished):
    experiment, _ = read_config(changed)
    assert experiment.optimizer == FASTER.optimizer
    assert experiment.training == LONGER.training
    lines = {line["step"]: line for line in lines_of(changed)}
    assert list(lines) == [2, 4, 6, 8, 10, 12]
    before = {line["step"]: line for line in lines_of(finished[0])}
    assert [lines[step] for step in (2, 4)] == [before[step] for step in (2, 4)]
    rates = [lines[step]["learning_rate"] for step in (4, 6, 12)]
    assert rates == pytest.approx([0.01, 0.05, 0.05])
    assert lines[8]["loss"] != before[8]["loss"]
    events = events_of(changed, "change")
    assert [(event["step"], event["options"]) for event in events] == [
        (4, {"optimizer.learning_rate": 0.05}),
        (8, {"training.num_steps": 12}),
    ]
    with Checkpoints(changed / "checkpoints") as checkpoints:
        stages = checkpoints.record(12)["stages"]
    assert [(stage["until"], stage["num_steps"]) for stage in stages] == [
        (4, 8),
        (8, 8),
    ]
    assert stages[0]["optimizer"]["learning_rate"] == 0.01


@pytest.mark.long
def test_reproduce_follows_the_changes(changed, capsys):
    assert reproduce(ReproduceOptions(workdir=changed))
    out, err = capsys.readouterr()
    assert "bitwise identical" in out
    lines = [line for line in err.splitlines() if line.startswith("from step ")]
    assert lines == [
        "from step 4 on: optimizer.learning_rate 0.05",
        "from step 8 on: training.num_steps 12",
    ]
    # A second time, from the finished copy; and the copy has recorded the same changes.
    assert reproduce(ReproduceOptions(workdir=changed))
    again = changed.with_name("run-again")
    assert [e["options"] for e in events_of(again, "change")] == [
        e["options"] for e in events_of(changed, "change")
    ]


@pytest.mark.long
def test_replay_computes_each_step_with_its_own_options(changed, capsys):
    """Step 7 is in the second stage, although config.json is of the third."""
    loss = next(line["loss"] for line in lines_of(changed) if line["step"] == 8)
    losses = []
    for folder, step in ((changed, 7), (changed, 8)):
        main(TINY, "", args=f"replay --workdir {folder} --step {step}".split())
        losses.append(float(capsys.readouterr().out.split(": loss ")[1].split(",")[0]))
    assert sum(losses) / 2 == pytest.approx(loss, rel=1e-4)


@pytest.mark.long
def test_a_change_without_a_step_is_none(finished, tmp_path, capsys):
    """A kill before the first step leaves config.json alone changed."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    experiment, info = read_config(run)
    optimizer = dataclasses.replace(experiment.optimizer, learning_rate=0.5)
    write_record(run, dataclasses.replace(experiment, optimizer=optimizer), info)
    assert same_bits(jd.load(run).params, jd.load(finished[0]).params)
    assert reproduce(ReproduceOptions(workdir=run))
    capsys.readouterr()


def test_the_steps_that_are_done_stay_done(finished):
    shorter = dataclasses.replace(
        TINY, training=dataclasses.replace(TINY.training, num_steps=7)
    )
    before = sorted(finished[0].rglob("*"))
    with pytest.raises(jd.InputError, match=r"num_steps must be at least 8, .* got 7"):
        jd.train(shorter, finished[0], progress=False)
    assert sorted(finished[0].rglob("*")) == before


def test_a_run_goes_on_with_its_own_options(finished, tmp_path, monkeypatch, capsys):
    """By the program `jaxdiff`, and by a script whose options are others."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["experiment.py"])
    program.jaxdiff(["train", "--workdir", str(run)])
    assert "warning" not in capsys.readouterr().err
    other = dataclasses.replace(TINY, schedule=jd.Cosine(num_steps=20), seed=5)
    with pytest.warns(UserWarning, match="not the file's: schedule.*seed: 0, not 5"):
        main(other, "", args=["train", "--workdir", str(run)])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        typed = ["--schedule", "linear", "--seed", "0"]
        main(other, "", args=["train", "--workdir", str(run), *typed])
    assert read_config(run)[0] == TINY
    assert [json.dumps(line) for line in lines_of(run)] == [
        json.dumps(line) for line in lines_of(finished[0])
    ]


def test_where_a_resume_is_refused_init_is_named(finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiment.py"])
    with pytest.raises(SystemExit):
        main(TINY, "", args=f"train --workdir {finished[0]} --seed 1".split())
    err = capsys.readouterr().err
    assert f"start from its model: --init {finished[0]} and another --workdir." in err


def test_stages_that_cannot_be_read(changed, tmp_path):
    run = shutil.copytree(changed, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        real = Checkpoints.record

        def record(self, step):
            return real(self, step) | {"stages": [{"until": "x"}]}

        patch.setattr(Checkpoints, "record", record)
        with pytest.raises(jd.InputError, match="step 12 has stages that cannot be re"):
            jd.train(read_config(run)[0], run, progress=False)
