"""Runs of few steps: their defaults, their teachers, and chains of them."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli.command import DISTILLATION, EXPERIMENT, File
from jaxdiff.errors import InputError
from jaxdiff.losses import Consistency, MeanFlow, Progressive
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.runs.distill import distill
from jaxdiff.runs.folder import read_config, read_diffusion
from jaxdiff.runs.identity import identity
from tests.helpers.fake_run import CONFIG, fake_run
from tests.helpers.runs import NETWORK, TINY, same_bits, trained

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.parametrize(
    ("words", "objective"),
    [
        ("--objective consistency", Consistency()),
        ("--objective mean-flow", MeanFlow()),
        ("--objective progressive --objective.steps 2", Progressive(steps=2)),
    ],
)
def test_an_objective_of_few_steps_brings_its_sampler(tmp_path, words, objective):
    fake_run(tmp_path / "run", True)
    file = File(CONFIG, None, tmp_path / "new")
    flags: Any = EXPERIMENT.flags
    found = flags(file, ["--init", str(tmp_path / "run"), *words.split()])
    assert found.sampling.sampler == own_sampler(objective)
    assert found.network.second_time == isinstance(objective, MeanFlow)
    assert found.network == replace(
        CONFIG.network, second_time=found.network.second_time
    )
    assert flags(file, words.split()[:2]).sampling.sampler is not None
    assert flags(file, ["--init", str(tmp_path / "run")]).sampling == CONFIG.sampling
    found = DISTILLATION.flags(file, ["--init", str(tmp_path / "run")])  # type: ignore[misc]
    assert found.objective == Progressive()


def test_fit_needs_a_teacher(tiny):
    network, _ = tiny
    schedule, v = jd.Linear().build(), jd.predictions.V()
    model = jd.Model(network, schedule, v, (8, 8, 1), 10)
    batches = [(np.zeros((8, 8, 8, 1), np.float32), np.zeros(8, np.int32))]
    with pytest.raises(InputError, match="state must have the teacher's parameters"):
        jd.training.fit(model, batches, 1, objective=Progressive(), progress=False)


def with_objective(objective, **options):
    sampler: Any = own_sampler(objective)
    sampling = replace(TINY.sampling, sampler=sampler)
    return replace(TINY, objective=objective, sampling=sampling, **options)


FLOW: Any = {
    "schedule": jd.schedules.RectifiedFlow(), "prediction": jd.predictions.Velocity(),
    "network": replace(NETWORK, second_time=True),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "objective", [Consistency(path="teacher"), Progressive(steps=2), MeanFlow()]
)
def test_a_resume_gives_the_same_bits(finished, tmp_path, objective):
    teacher, state = finished
    taught = not isinstance(objective, MeanFlow)
    options = {"init": str(teacher)} if taught else FLOW
    experiment = with_objective(objective, **options)
    whole = trained(tmp_path / "whole", experiment)
    trained(tmp_path / "part", experiment, until=4)
    resumed = trained(tmp_path / "part", experiment)
    assert same_bits(resumed, whole)
    assert not same_bits(resumed.params, state.ema) or not taught
    if taught:
        assert same_bits(resumed.frozen, state.ema)
        _, info = read_config(tmp_path / "whole")
        assert info.base == identity(teacher)
    run = jd.load(tmp_path / "whole")
    assert run.generate(np.arange(4), 4, 0).shape == (4, 8, 8, 1)


@pytest.mark.long
def test_another_teacher_is_refused(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "teacher")
    experiment = with_objective(Progressive(), init=str(tmp_path / "teacher"))
    trained(tmp_path / "student", experiment, until=4)
    longer = replace(TINY, training=replace(TINY.training, num_steps=10))
    trained(tmp_path / "teacher", longer)
    with pytest.raises(InputError, match=r"another configuration \(info\.base: "):
        trained(tmp_path / "student", experiment)


@pytest.mark.long
def test_a_chain_of_students_goes_on_where_it_stopped(finished, tmp_path):
    teacher, _ = finished
    experiment = with_objective(Progressive(), init=str(teacher))
    folders = distill(experiment, tmp_path / "whole", (4, 2), progress=False)
    teachers = [read_config(folder)[1].base for folder in folders]
    assert teachers == [identity(teacher), identity(folders[0])]

    first = with_objective(Progressive(steps=4), init=str(teacher))
    trained(tmp_path / "part" / "steps-4", first, until=4)
    again = distill(experiment, tmp_path / "part", (4, 2), progress=False)
    for one, two in zip(folders, again, strict=True):
        assert same_bits(jd.load(one).params, jd.load(two).params)
        assert jd.load(one).step == TINY.training.num_steps
    assert read_diffusion(again[1])[0].init == str(again[0])
