"""Few steps: quality against network evaluations, for the handwritten digits.

Two teachers of the recipe digits, EDM and flow matching, and four kinds of students:
consistency tuning (Geng et al. 2024) from EDM, and progressive distillation (Salimans &
Ho 2022), MeanFlow (Geng et al. 2025) and shortcut models (Frans et al. 2024) from flow
matching. The table has the students beside every sampler on their teachers.

    python experiments/few_steps.py                   trains and measures; resumes
    python experiments/few_steps.py --workdir runs/few --num 200

It writes few_steps.json and few_steps.png to the folder, and prints the table. The same
runs at the command line:

    jaxdiff train digits --workdir runs/edm --schedule variance-exploding \
        --prediction edm --objective.weighting edm-weighting \
        --objective.times log-normal
    jaxdiff train digits --init runs/edm --objective consistency --workdir runs/tuned \
        --training.num-steps 1500 --optimizer.learning-rate 5e-4
    jaxdiff train digits --workdir runs/flow --schedule straight-path \
        --prediction velocity
    jaxdiff train digits --init runs/flow --objective mean-flow --workdir runs/mean
    jaxdiff distill digits --init runs/flow --workdir runs/students
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxdiff as jd
from jaxdiff import plots
from jaxdiff.cli.compare import SAMPLERS
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.data import to_uint8
from jaxdiff.evaluation.frechet import frechet_distance
from jaxdiff.evaluation.label_agreement import label_agreement
from jaxdiff.losses import (
    Consistency,
    EDMWeighting,
    LogNormal,
    MeanFlow,
    Objective,
    Progressive,
    Ratio,
    Simple,
)
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.recipes.digits import CONFIG
from jaxdiff.runs.data_of_run import load_data_of
from jaxdiff.runs.distill import distill
from jaxdiff.runs.run import Run

EVALUATIONS = (1, 2, 4, 8, 20)
"""Numbers of network evaluations of the teachers' samplers."""
FEW = (1, 2, 4)
"""Numbers of network evaluations of the students."""
DRAWN = ("ddim", "heun", "dpm-solver")
"""Samplers of the teachers in the picture; the table has all."""
OWN: dict[type, str] = {
    Consistency: "consistency", MeanFlow: "flow-map", Progressive: "ddim"
}  # fmt: skip
"""Samplers of the students."""
STEPS = 1500
"""Number of training steps of a student; 500 for each student of a chain."""


class Row(NamedTuple):
    """Quality of a sampler on a run."""

    model: str
    sampler: str
    evaluations: int
    agreement: float
    distance: float


def teachers() -> dict[str, jd.Experiment]:
    """Returns the experiments of the teachers, by their folder."""
    edm = Simple(weighting=EDMWeighting(), times=LogNormal())
    return {
        "edm": replace(
            CONFIG, schedule=jd.schedules.VE(), prediction=jd.predictions.EDM(),
            objective=edm,
        ),
        "flow": replace(
            CONFIG, schedule=jd.schedules.RectifiedFlow(),
            prediction=jd.predictions.Velocity(),
        ),
    }  # fmt: skip


def student(teacher: jd.Experiment, folder: Path, objective: Objective) -> Any:
    """Returns the experiment of a student that starts from a teacher's run."""
    network: Any = teacher.network
    network = replace(network, second_time=isinstance(objective, MeanFlow))
    sampler: Any = own_sampler(objective)
    return replace(
        teacher, init=str(folder), objective=objective, network=network,
        training=replace(CONFIG.training, num_steps=STEPS, ema_decay=0.99),
        optimizer=replace(CONFIG.optimizer, learning_rate=5e-4, warmup_steps=50),
        sampling=replace(CONFIG.sampling, sampler=sampler),
    )  # fmt: skip


def trained(workdir: Path) -> dict[str, Path]:
    """Trains or resumes all runs; returns the students' folders by name."""
    experiments = teachers()
    for name, experiment in experiments.items():
        jd.train(experiment, workdir / name)
    students: dict[str, tuple[str, Objective]] = {
        "consistency tuning": ("edm", Consistency(pairs=Ratio(stage_steps=150))),
        "MeanFlow": ("flow", MeanFlow()),
        "shortcut": ("flow", MeanFlow(target="halves")),
    }
    folders = {}
    for name, (teacher, objective) in students.items():
        folder = workdir / name.replace(" ", "-").lower()
        jd.train(student(experiments[teacher], workdir / teacher, objective), folder)
        folders[name] = folder
    chain = student(experiments["flow"], workdir / "flow", Progressive())
    chain = replace(chain, training=replace(chain.training, num_steps=STEPS // 3))
    for folder in distill(chain, workdir / "progressive", (8, 4, 2, 1)):
        folders[f"progressive, {folder.name.partition('-')[2]}"] = folder
    return folders


def rows(run: Run, model: str, chains: dict[str, Any], num: int) -> Iterator[Row]:
    """Yields the quality of samples; `chains` are the sampling options by sampler."""
    dataset, _ = load_data_of(run)
    assert dataset.labels is not None, "the digits have labels"
    known, labels = np.asarray(dataset.images), np.arange(num) % 10
    for name, (evaluations, sampling) in chains.items():
        images = to_uint8(run.generate(labels, num, 0, sampling=sampling))
        share = label_agreement(images, labels, known, np.asarray(dataset.labels))
        distance = frechet_distance(images / 255, known / 255)
        row = Row(model, name.partition("/")[0], evaluations, share, distance)
        print(f"{row.model:<20}{row.sampler:<20}{row.evaluations:>4}"
              f"{row.agreement:>8.1%}{row.distance:>8.3f}", flush=True)  # fmt: skip
        yield row


def chains_of(run: Run, names: tuple[str, ...], counts: tuple[int, ...]) -> Any:
    """Returns evaluations and sampling options by "name/evaluations".

    A method of two evaluations per step takes the steps that fit exactly, if any do.
    """
    found = {}
    for count in counts:
        for steps in range(1, count + 1):
            for name, sampling in samplings_of(run, names, steps, None).items():
                if sampling.sampler.evaluations(steps) == count:
                    found[f"{name}/{count}"] = count, sampling
    return found


def measured(workdir: Path, students: dict[str, Path], num: int) -> list[Row]:
    """Returns the table: the teachers with every sampler, and the students."""
    found: list[Row] = []
    for name in teachers():
        run = jd.load(workdir / name)
        found += rows(run, name, chains_of(run, SAMPLERS, EVALUATIONS), num)
    for name, folder in students.items():
        run = jd.load(folder)
        kind = type(run.experiment.objective)
        chain = kind is Progressive
        counts = (int(name.split()[-1]),) if chain else FEW
        chains = chains_of(run, (OWN[kind],), counts)
        found += rows(run, name, chains, num)
    return found


def write(workdir: Path, found: list[Row]) -> None:
    """Writes few_steps.json and few_steps.png."""
    text = json.dumps([row._asdict() for row in found], indent=1)
    (workdir / "few_steps.json").write_text(text)
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    titles = {"agreement": "Label agreement", "distance": "Frechet distance of pixels"}
    for key, title in titles.items():
        lines = panels.setdefault(title, {})
        for row in found:
            name = row.model.partition(",")[0]
            if row.model in teachers():
                name = f"{row.sampler}, {row.model}"
            if row.model not in teachers() or row.sampler in DRAWN:
                lines.setdefault(name, []).append((row.evaluations, getattr(row, key)))
        for points in lines.values():
            points.sort()
    plots.save_comparison(
        workdir / "few_steps.png", panels, {title: {} for title in panels},
        "network evaluations", EVALUATIONS, (titles["agreement"],),
    )  # fmt: skip


def main() -> None:
    """Trains, measures and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/few"))
    parser.add_argument("--num", type=int, default=200, help="samples of each row")
    options = parser.parse_args()
    students = trained(options.workdir)
    write(options.workdir, measured(options.workdir, students, options.num))


if __name__ == "__main__":
    main()
