"""Progressive distillation: a chain of runs, each the teacher of the next.

Each run is an ordinary run folder, `steps-8`, `steps-4`, ... Its `init` names the run
before it, and its config.json records the step and the checksum of that teacher. A
chain that stopped goes on with the run that stopped.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from jaxdiff.errors import InputError
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.losses.progressive import Progressive
from jaxdiff.runs.train import run_training
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import Experiment


def chain(
    experiment: Experiment, workdir: str | os.PathLike[str], steps: tuple[int, ...]
) -> Iterator[tuple[Experiment, Path]]:
    """Yields the experiment of each run of the chain, and its folder.

    Args:
        experiment: options of every run; `init` names the first teacher.
        workdir: folder of the run folders.
        steps: numbers of steps of the students, each half of the one before.

    Raises:
        InputError: the numbers do not halve, or there is no objective progressive.
    """
    halves = all(2 * b == a for a, b in pairwise(steps))
    if not steps or min(steps) < 1 or not halves:
        raise InputError(
            "steps must halve from one student to the next, as in 8 4 2 1, got "
            f"{' '.join(map(str, steps)) or 'none'}"
        )
    objective = experiment.objective
    if not isinstance(objective, Progressive):
        raise InputError(
            "objective must be progressive for a chain of students, got "
            f"{type(objective).__name__}. Leave it out."
        )
    teacher, kept = experiment.init, experiment.sampling
    if objective.learns_guidance:
        kept = replace(kept, guidance=1.0)
    for count in steps:
        objective = replace(objective, steps=count)
        sampler = own_sampler(objective)
        assert sampler is not None, "it is DDIM"
        sampling = replace(kept, sampler=sampler)
        folder = Path(workdir) / f"steps-{count}"
        yield (
            replace(experiment, objective=objective, sampling=sampling, init=teacher),
            folder,
        )
        # What the first student has learned, the next ones learn from it.
        teacher, objective = str(folder), replace(objective, guidance=1.0)


def distill(
    experiment: Experiment,
    workdir: str | os.PathLike[str],
    steps: tuple[int, ...] = (8, 4, 2, 1),
    *,
    progress: bool = True,
) -> list[Path]:
    """Trains or resumes a chain of students; returns their run folders.

    Args:
        experiment: options of every run, with the objective progressive.
        workdir: folder of the run folders.
        steps: numbers of steps of the students, each half of the one before.
        progress: if True, show the progress of each run; see `train`.

    Raises:
        InputError: see `chain` and `train`.
    """
    folders = []
    for one, folder in chain(experiment, workdir, steps):
        about = f"student of {folder.name.partition('-')[2]} steps: {folder}"
        run_training(Trainer.of(one), folder, progress=progress, about=about)
        folders.append(folder)
    return folders
