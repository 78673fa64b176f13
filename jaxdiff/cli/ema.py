"""The command `ema`: which average of a run's parameters draws the best samples?

EDM2's averages of several relative lengths (see `ema`), each made from those that the
run kept, and beside them the one of constant decay. All start from the same noise.
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
from jaxdiff.errors import InputError
from jaxdiff.evaluation.features import hash_of
from jaxdiff.evaluation.fidelity import Comparison, check_num
from jaxdiff.evaluation.frechet import frechet_distance
from jaxdiff.evaluation.kid import kernel_distance
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import page
from jaxdiff.runs.load import Run, load, load_data_of
from jaxdiff.runs.post_hoc_ema import stored_lengths
from jaxdiff.storage.files import ensure_writable, write_json_atomic
from jaxdiff.training.ema import gamma_of

COUNT, USUAL = 7, 1000
"""How many lengths are compared by default, and how many samples of each."""


@dataclass(frozen=True, kw_only=True)
class AveragesOptions(JudgingOptions):
    """Which averages of a trained run's parameters to compare."""

    workdir: Path
    """The run folder; ema.json and ema.png are written there."""
    lengths: tuple[float, ...] = ()
    """Relative lengths of the averages, in (0, 0.288), the share of the run that each
    spans; by default seven from the shortest that the run kept to the longest."""
    samples: int | None = None
    """How many samples of each, to compare with as many held-out images; by default as
    many as there are, at most 1,000."""
    seed: int = 0
    """All randomness comes from it."""


class Average(NamedTuple):
    """How good the samples of an average are.

    Attributes:
        length: its relative length; None for that of constant decay, and 0 for the
            training images in the samples' place.
        agreement: the share of samples that are read as the class asked for; None where
            there are no classes.
        frechet: see `metrics.frechet`.
        kernel: see `metrics.kernel`.
        standard_error: of `kernel`.
    """

    length: float | None
    agreement: float | None
    frechet: float
    kernel: float
    standard_error: float


def averages(options: AveragesOptions, run: Run) -> None:
    """Compares averages of a trained run: a table, a record and a picture."""
    check_seed(options.seed)
    kept = stored_lengths(run.experiment)
    lengths = options.lengths or _spread(min(kept), max(kept))
    for one in lengths:
        gamma_of(one)
    if len(set(lengths)) < len(lengths):
        raise InputError(f"a length is named twice: {', '.join(map(str, lengths))}")
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
    print(f"ema.json and ema.png are in {options.workdir}")
    page.refresh(options.workdir)


def _spread(shortest: float, longest: float) -> tuple[float, ...]:
    """Lengths, evenly spread in their logarithm."""
    spread = np.geomspace(shortest, longest, COUNT if longest > shortest else 1)
    return tuple(float(f"{length:.3g}") for length in spread)


def _tell(floor: Average, found: Sequence[Average], decay: str) -> None:
    """The table, the floor last."""
    print(f"{'average of length':<32}{'agreement':>11}{'Frechet':>10}{'kernel':>10}")
    for one in (*found, floor):
        name = decay if one.length is None else f"{one.length:g}"
        name = "training images (floor)" if one is floor else name
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
