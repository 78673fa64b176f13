"""The command `ema`: sample quality of several averages of a run's parameters.

It compares post-hoc averages of several relative lengths (EDM2, see `training.ema`),
made from the stored averages, with the average of constant decay. All samples start
from the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiff import plots
from jaxdiff.checks import check_seed
from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import (
    JudgingOptions,
    build_features,
    comparison_note,
    sampler_name,
    sampling_record,
)
from jaxdiff.errors import InputError, printable
from jaxdiff.evaluation.features import hash_of
from jaxdiff.evaluation.fidelity import Comparison, check_num
from jaxdiff.evaluation.frechet import frechet_distance
from jaxdiff.evaluation.kid import kernel_distance
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import page
from jaxdiff.runs.data_of_run import load_data_of
from jaxdiff.runs.enlarge import refuse_image_condition
from jaxdiff.runs.load import load
from jaxdiff.runs.post_hoc_ema import stored_lengths
from jaxdiff.runs.run import Run
from jaxdiff.storage.files import ensure_writable, write_json_atomic
from jaxdiff.training.ema import gamma_of

COUNT, USUAL = 7, 1000
"""Default number of lengths, and maximum default number of samples per length."""


@dataclass(frozen=True, kw_only=True)
class AveragesOptions(JudgingOptions):
    """Options of the command `ema`."""

    workdir: Path
    """Run folder; ema.json and ema.png are written to it."""
    lengths: tuple[float, ...] = ()
    """Relative lengths in (0, 0.288): the share of the run that each average spans.
    The default is seven, from the shortest to the longest stored length."""
    samples: int | None = None
    """Number of samples per average, compared with as many held-out images.
    None takes as many as the dataset allows, at most 1,000."""
    seed: int = 0
    """Seed of all randomness."""


class Average(NamedTuple):
    """Quality of the samples of one average.

    Attributes:
        length: relative length; None for the average of constant decay, and 0 for the
            baseline, as many training images.
        agreement: share of samples that are assigned to the requested class; None
            without classes.
        frechet: Frechet distance, see `evaluation.frechet`.
        kernel: kernel distance, see `evaluation.kid`.
        standard_error: standard error of `kernel`.
    """

    length: float | None
    agreement: float | None
    frechet: float
    kernel: float
    standard_error: float


def averages(options: AveragesOptions, run: Run) -> None:
    """Compares averages of a trained run; writes a table, a JSON file and a picture."""
    check_seed(options.seed)
    refuse_image_condition(run.experiment, "ema")
    kept = stored_lengths(run.experiment)
    lengths = options.lengths or _spread(min(kept), max(kept))
    for one in lengths:
        gamma_of(one)
    if len(set(lengths)) < len(lengths):
        raise InputError(f"lengths must differ, got {', '.join(map(str, lengths))}")
    ensure_writable(options.workdir)
    training, held_out = load_data_of(run)
    num = options.samples
    num = min(USUAL, len(training), len(held_out)) if num is None else num
    check_num(num, training, held_out)
    sampling, features = options.sampling_of(run), options.features_of(training)
    run.check_request(None, num, options.seed, sampling)
    plots.check_installed()

    extractor = build_features(features, training, held_out, run.parallel)
    against = Comparison.of(run, training, held_out, extractor, num)

    def average(
        length: float | None, seen: np.ndarray, share: float | None = None
    ) -> Average:
        kernel = kernel_distance(seen, against.real)
        frechet = frechet_distance(seen, against.moments)
        return Average(length, share, frechet, kernel.value, kernel.standard_error)

    floor, found = average(0, against.floor), list[Average]()
    with bar(num * (1 + len(lengths)), "sample") as on_chunk:
        for i, length in enumerate([None, *lengths]):
            made = run
            if length is not None:
                made = load(options.workdir, run.step, run.parallel, length)
            before = i * num
            images = against.drawn(
                made, options.seed, sampling, partial(on_chunk, before=before)
            )
            seen, classes = extractor.read(images)
            found.append(average(length, seen, against.agreement(classes)))
    if not is_first():
        return
    decay = f"constant decay {run.experiment.training.ema_decay:g}"
    by = f"{num} samples of each by {sampler_name(sampling)}"
    note = comparison_note(extractor, num, hash_of(against.moments))
    print(f"{by}, guidance {sampling.guidance:g}, {note}")
    _tell(floor, found, decay)
    record = {
        "step": run.step,
        "samples": num,
        "seed": options.seed,
        **sampling_record(sampling),
        "note": note,
        "averages": [one._asdict() for one in (floor, *found)],
    }
    write_json_atomic(options.workdir / "ema.json", record)
    _draw(options.workdir / "ema.png", floor, found, decay)
    print(printable(f"ema.json and ema.png are in {options.workdir}"))
    page.refresh(options.workdir)


def _spread(shortest: float, longest: float) -> tuple[float, ...]:
    """Returns lengths with three digits, evenly spaced in their logarithm."""
    spread = np.geomspace(shortest, longest, COUNT if longest > shortest else 1)
    return tuple(float(f"{length:.3g}") for length in spread)


def _tell(floor: Average, found: Sequence[Average], decay: str) -> None:
    """Prints the table; its last row is the baseline."""
    print(f"{'average of length':<32}{'agreement':>11}{'Frechet':>10}{'kernel':>10}")
    for one in (*found, floor):
        name = decay if one.length is None else f"{one.length:g}"
        name = "training images (baseline)" if one is floor else name
        share = "" if one.agreement is None else f"{one.agreement:.1%}"
        kernel = f"{one.kernel:>10.4f} ± {one.standard_error:.4f}"
        print(f"{name:<32}{share:>11}{one.frechet:>10.4f}{kernel}")


def _draw(path: Path, floor: Average, found: Sequence[Average], decay: str) -> None:
    constant, *others = found
    titles = {"agreement": "Label agreement", "frechet": "Frechet distance"}
    panels, marks = {}, {}
    for key, title in titles.items():
        if getattr(constant, key) is None:
            continue
        points = [(one.length or 0.0, getattr(one, key)) for one in others]
        panels[title] = {"by length": sorted(points)}
        marks[title] = {decay: getattr(constant, key)}
    marks[titles["frechet"]]["training images"] = floor.frechet
    ticks = sorted(length for length, _ in panels[titles["frechet"]]["by length"])
    plots.save_comparison(
        path, panels, marks, "relative length of the average", ticks,
        shares=(titles["agreement"],),
    )  # fmt: skip
