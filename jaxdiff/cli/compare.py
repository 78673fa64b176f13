"""The command `compare`: quality of samplers by number of network evaluations.

It reports two metrics. The label agreement needs an experiment with a function for it.
The Frechet distance compares the pixels with those of all training images. The table
has two references: the sampling loop of all T steps, which the samplers approximate,
and as many held-out images. All samplers start from the same noise and draw the same
labels.
"""

import contextlib
import json
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.command import Judge
from jaxdiff.cli.progress import bar
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.data import Dataset, to_uint8
from jaxdiff.errors import InputError, printable
from jaxdiff.evaluation.frechet import frechet_distance
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import page
from jaxdiff.runs.data_of_run import load_data_of
from jaxdiff.runs.enlarge import refuse_image_condition
from jaxdiff.runs.run import Run
from jaxdiff.samplers import DDPM, Sampler
from jaxdiff.samplers.spacing import with_steps
from jaxdiff.serialization import option_name
from jaxdiff.storage.files import ensure_writable, write_json_atomic

SAMPLERS = (
    "ancestral",
    "ddim",
    "euler",
    "euler-ancestral",
    "heun",
    "heun:churn=5",
    "flow-euler",
    "flow-heun",
    "dpm-solver",
    "dpm-solver:order=3",
    "dpm-solver:eta=1",
    "uni-pc",
    "uni-pc:order=3",
)


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of the command `compare`."""

    workdir: Path
    """Run folder; compare.json, compare.png and samplers.png are written to it."""
    sampler: tuple[str, ...] = SAMPLERS
    """Samplers by name, with options, as in ddim or dpm-solver:order=3,eta=1."""
    evaluations: tuple[int, ...] = (5, 10, 20, 50)
    """Budgets of network evaluations per image; samplers take the steps that fit."""
    spacing: str | None = None
    """Time grid of all samplers, by name. None takes each sampler's own."""
    guidance: float = 1.0
    """Weight of classifier-free guidance, 1 for none. A guided call counts once."""
    num: int = 200
    """Number of images per sampler."""
    seed: int = 0
    """Seed of all randomness."""
    columns: int = 20
    """Number of images per sampler in samplers.png."""
    json: bool = False
    """If True, prints the contents of compare.json as JSON, and no text."""


class Quality(NamedTuple):
    """Quality of a sampler.

    Attributes:
        sampler: name of the sampler.
        evaluations: number of network evaluations per image; 0 for held-out images.
        agreement: share of images that are assigned to their label; None without a
            function for it or without labels.
        distance: Frechet distance of the pixels to those of the training images.
    """

    sampler: str
    evaluations: int
    agreement: float | None
    distance: float


def compare(options: CompareOptions, run: Run, judge: Judge | None) -> None:
    """Compares samplers on a trained run; writes a table, a JSON file and pictures."""
    if options.columns < 1:
        raise InputError(f"columns must be at least 1, got {options.columns}")
    if options.num < 2:
        raise InputError(f"num must be at least 2, got {options.num}")
    refuse_image_condition(run.experiment, "compare")
    run.check_request(None, options.num, options.seed)
    if not options.evaluations or min(options.evaluations) < 1:
        raise InputError(
            f"evaluations must be at least 1 each, got {options.evaluations}"
        )
    whole = replace(run.experiment.sampling, guidance=options.guidance)
    own, names = own_sampler(run.experiment.objective), options.sampler
    if own is None and not isinstance(whole.sampler, DDPM):
        whole = replace(whole, sampler=DDPM())
    if own is not None and names == SAMPLERS:
        names = (option_name(type(own)),)
    steps = len(whole.sampler.grid(run.schedule).alpha) - 1
    kind = "all" if own is None else "its own"
    chains = [(f"{kind} {steps} steps", whole.sampler.evaluations(steps), whole)]
    named = samplings_of(run, names, None, options.spacing)
    for most in sorted(set(options.evaluations)):
        for name, sampling in named.items():
            steps = _steps(sampling.sampler, most)
            if steps:
                sampler = with_steps(sampling.sampler, steps)
                sampling = replace(sampling, sampler=sampler, guidance=options.guidance)
                chains.append((name, sampler.evaluations(steps), sampling))
    classes = run.info.num_classes
    labels = None if classes is None else np.arange(options.num) % classes
    for _, _, sampling in chains:
        run.check_request(labels, options.num, options.seed, sampling)
    plots.check_installed()
    ensure_writable(options.workdir)

    dataset, held_out = load_data_of(run)
    if len(held_out) < 2:
        raise InputError(
            "compare must have at least 2 held-out images, got "
            f"{len(held_out)} next to {len(dataset)} to train on. Hold out more images."
        )
    rows = slice(options.num)
    real = None if held_out.labels is None else held_out.labels[rows]
    found = [_judged("held-out images", 0, held_out.images[rows], real, dataset, judge)]
    pictures = {}
    with bar(options.num * len(chains), "compare") as on_chunk:
        for i, (name, evaluations, sampling) in enumerate(chains):
            images = to_uint8(
                run.generate(
                    labels, options.num, options.seed, sampling=sampling,
                    on_chunk=partial(on_chunk, before=i * options.num),
                )
            )  # fmt: skip
            quality = _judged(name, evaluations, images, labels, dataset, judge)
            found.append(quality)
            pictures[name, evaluations] = images[: options.columns]
    if is_first():
        _write(options, run, found, pictures)
        # With --json, the output is JSON alone.
        with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
            page.refresh(options.workdir)


def _steps(sampler: Sampler, evaluations: int) -> int:
    """Returns the largest number of steps within a number of evaluations."""
    steps = 0
    while sampler.evaluations(steps + 1) <= evaluations:
        steps += 1
    return steps


def _judged(
    name: str,
    evaluations: int,
    images: np.ndarray,
    labels: np.ndarray | None,
    dataset: Dataset,
    judge: Judge | None,
) -> Quality:
    known, agreement = np.asarray(dataset.images), None
    if judge and labels is not None and dataset.labels is not None:
        agreement = judge(images, labels, known, dataset.labels)
    distance = frechet_distance(images / 255, known / 255)
    return Quality(name, evaluations, agreement, distance)


def _write(
    options: CompareOptions,
    run: Run,
    found: list[Quality],
    pictures: dict[tuple[str, int], np.ndarray],
) -> None:
    """Writes compare.json, compare.png and samplers.png, and prints the table."""
    workdir = options.workdir
    record = {
        "step": run.step,
        "images": options.num,
        "seed": options.seed,
        "guidance": options.guidance,
        "spacing": options.spacing,
        "quality": [q._asdict() for q in found],
    }
    write_json_atomic(workdir / "compare.json", record)
    held_out, whole, *others = found
    titles = {"agreement": "Label agreement", "distance": "Frechet distance of pixels"}
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    marks = {}
    for key, title in titles.items():
        if getattr(whole, key) is None:
            continue
        panels[title] = {}
        for q in others:
            points = panels[title].setdefault(q.sampler, [])
            points.append((q.evaluations, getattr(q, key)))
        marks[title] = {q.sampler: getattr(q, key) for q in (held_out, whole)}
    budgets = sorted(set(options.evaluations))
    path = workdir / "compare.png"
    shares = (titles["agreement"],)
    plots.save_comparison(path, panels, marks, "network evaluations", budgets, shares)
    # Show each sampler at the second-lowest budget, where the samplers differ.
    shown = budgets[min(1, len(budgets) - 1)]
    rows = {}
    for name, evaluations in pictures:
        if evaluations <= shown or name == whole.sampler:
            rows[name] = evaluations
    plots.save_grid(
        workdir / "samplers.png",
        np.concatenate([pictures[row] for row in rows.items()]),
        row_labels=[f"{name}, {evaluations}" for name, evaluations in rows.items()],
        columns=min(options.columns, options.num),
    )
    if options.json:
        print(json.dumps(record))
        return
    judged = whole.agreement is not None
    heading = f"{'label agreement':>17}" * judged
    print(f"{'sampler':<22}{'evaluations':>12}{heading}{'distance':>10}")
    for q in found:
        share = f"{q.agreement:>17.1%}" if q.agreement is not None else " " * 17
        share *= judged
        print(f"{q.sampler:<22}{q.evaluations:>12}{share}{q.distance:>10.3f}")
    print(printable(f"compare.json, compare.png and samplers.png are in {workdir}"))
