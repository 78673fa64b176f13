"""Short form of the crash test; `python -m tests.helpers.crash` is the long form."""

import json
import random
import sys

import pytest

from tests.helpers import crash, killed
from tests.helpers.runs import same_bits


class Save(random.Random):
    """Random generator that always takes the first choice: the kill inside a save."""

    def choice(self, places):
        return places[0]


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_that_is_killed_computes_the_same_bits(tmp_path):
    """The resumed run and the run without a kill are in this process."""
    workdir, log = tmp_path / "killed", tmp_path / "log"
    program = [sys.executable, "-m", "tests.helpers.killed", str(workdir)]
    environment = crash.environment(tmp_path / "xla")
    crash.kill_once(program, environment, log, workdir, Save(0), 0.0)
    newest = max(crash.steps_saved(workdir))
    assert 0 < newest < killed.EXPERIMENT.training.num_steps
    assert same_bits(killed.train(tmp_path / "whole"), killed.train(workdir))
    whole, other = (
        (tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")
    )
    assert whole == other
    assert json.loads(whole.splitlines()[-1])["step"] == 1000


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_so_does_one_that_is_killed_often(tmp_path, processes):
    where = crash.crash(tmp_path, kills=6, processes=processes, seed=0)
    assert sum(where.values()) == 6


@pytest.mark.long
@pytest.mark.parametrize("what", ["autoencoder", "encode", "latents", "adapter"])
def test_so_does_each_stage_of_text_to_image(tmp_path, what):
    where = crash.crash(tmp_path, kills=4, processes=1, seed=0, what=what)
    assert sum(where.values()) == 4


def test_a_difference_would_be_found(tmp_path, monkeypatch):
    """Two runs with different parameters make the crash test fail."""
    monkeypatch.setattr(crash, "run_to_the_end", lambda *args: None)
    monkeypatch.setattr(crash, "final", lambda folder: {"params": folder.name})
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    with pytest.raises(crash.Failed, match="params differs between"):
        crash.crash(tmp_path, kills=0, processes=1, seed=0)
