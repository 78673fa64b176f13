"""The command `evaluate` for a run of super-resolution: how it enlarges known images.

Held-out images are made small and enlarged again. The enlargements are compared with
the images themselves, and their distribution with further held-out images. The baseline
of the distances is the images themselves: a perfect enlargement would reach it.
"""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.fidelity_figures import comparison_figures
from jaxdiff.cli.figures import Figure, publish
from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import (
    build_features,
    describe_features,
    sampler_name,
    sampling_record,
)
from jaxdiff.data import Dataset, order
from jaxdiff.errors import InputError
from jaxdiff.evaluation.enlargement import Agreement, Enlarged, enlarged
from jaxdiff.evaluation.features import Extractor
from jaxdiff.evaluation.fidelity import LEAST, Comparison, Fidelity, fidelity_of
from jaxdiff.evaluation.frechet import Moments, frechet_distance
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.data_of_run import load_data_of
from jaxdiff.runs.enlarge import (
    condition_of_rows,
    condition_of_small,
    low_resolution_of,
)
from jaxdiff.runs.reconstructions import COLUMNS, save_forms
from jaxdiff.runs.run import Run

if TYPE_CHECKING:
    from jaxdiff.cli.evaluate import EvaluateOptions

MOST = 1000
"""Largest number of images by default."""
PICTURE = "enlargements.png"


def evaluate_enlargement(options: "EvaluateOptions", run: Run) -> None:
    """Enlarges known images; prints figures, and writes a JSON file and a picture.

    Raises:
        InputError: an option is out of range, or belongs to other runs.
    """
    _refuse(options)
    training, held_out = load_data_of(run)
    images = training if options.split == "train" else held_out
    rows = _rows(options, images)
    level = options.augmentation or 0.0
    sampling = options.sampling_of(run)
    _check(run, len(rows), options.seed, level, sampling)
    others = _others(options, rows, held_out)
    extractor = None
    if others is not None:
        features = options.features_of(training)
        plots.check_installed()
        extractor = build_features(features, training, held_out, run.parallel)
    with bar(len(rows), "enlarge") as on_chunk:
        found = enlarged(
            run, images, rows, seed=options.seed, augmentation=level,
            sampling=sampling, on_chunk=on_chunk,
        )  # fmt: skip
    low = low_resolution_of(run.experiment)
    note = f"{len(rows)} {options.split} images, from 1/{low.factor} of their size"
    note += f", augmentation {level:g}"
    figures = [
        *_agreeing(found.agreement, "", note),
        *_agreeing(found.baseline, ", bicubic", note),
    ]
    settings: dict[str, Any] = {
        "step": run.step, "split": options.split, "images": len(rows),
        "seed": options.seed, "augmentation": level, **sampling_record(sampling),
    }  # fmt: skip
    told = {f"enlargement of {note}, by {sampler_name(sampling)}": figures}
    if extractor is not None and others is not None:
        labels = condition_of_rows(images, rows, run.info, None).labels
        fidelity, bicubic = _compared(found, others, training, labels, extractor)
        note = f"against {len(rows)} other held-out images of statistics "
        note += f"{fidelity.statistics}, {describe_features(extractor)}"
        alike = comparison_figures(fidelity, note, "true images")
        alike.append(Figure("Frechet distance, bicubic", bicubic, note=note))
        told[f"enlargements {note}"] = alike
        settings |= {
            "features": extractor.name, "weights": extractor.weights,
            "resize": extractor.resize, "accuracy": extractor.accuracy,
            "statistics": fidelity.statistics,
        }  # fmt: skip
    if not is_first():
        return
    _save_picture(options, low.factor, found)
    publish(options.workdir, told, settings, options.json, [PICTURE])


def _refuse(options: "EvaluateOptions") -> None:
    """Raises `InputError` for options of the likelihood, or of other samples."""
    for name in ("num_terms", "statistics", "towers"):
        if getattr(options, name) is not None:
            raise InputError(
                f"{name} must be None for a run of super-resolution, got "
                f"{getattr(options, name)}. Leave it out."
            )
    if options.exact_trace or options.samples not in (None, 0):
        name = "exact_trace" if options.exact_trace else "samples"
        raise InputError(
            f"{name} must not be given for a run of super-resolution, got "
            f"{getattr(options, name)}. Give --num for the number of images."
        )


def _rows(options: "EvaluateOptions", images: Dataset) -> np.ndarray:
    """Returns the places of the images to enlarge, always the same."""
    half = len(images) if options.samples == 0 else len(images) // 2
    num = min(MOST, half) if options.num is None else options.num
    if not 1 <= num <= len(images):
        raise InputError(
            f"num must lie in 1..{len(images)}, the images of the split "
            f"{options.split}, got {num}. Hold out more images, or set --split train."
        )
    return np.sort(order(0, 0, len(images))[:num])


def _check(run: Run, num: int, seed: int, level: float, sampling: Any) -> None:
    """Checks a request before the work begins."""
    height, width, channels = low_resolution_of(run.experiment).small_shape(
        run.model.image_shape
    )
    small = np.zeros((1, height, width, channels), np.float32)
    _, condition = condition_of_small(run, small, None, seed, augmentation=level)
    if run.tokenizer is None:
        run.check_request(condition, 1, seed, sampling)


def _others(
    options: "EvaluateOptions", rows: np.ndarray, held_out: Dataset
) -> np.ndarray | None:
    """Returns as many other held-out images; None for no distances."""
    if options.samples == 0:
        return None
    places = order(0, 0, len(held_out))
    if options.split == "test":
        places = places[~np.isin(places, rows)]
    if min(len(places), len(rows)) < LEAST or len(places) < len(rows):
        if is_first():
            warnings.warn(
                f"skipped the distances, which take {LEAST} or more images and as many "
                f"other held-out images, got {len(rows)} and {len(places)}",
                stacklevel=1,
            )
        return None
    return np.asarray(held_out.images[np.sort(places[: len(rows)])])


def _compared(
    found: Enlarged,
    others: np.ndarray,
    training: Dataset,
    labels: np.ndarray | None,
    extractor: Extractor,
) -> tuple[Fidelity, float]:
    """Returns metrics of the enlargements, and the distance of bicubic ones."""
    trained, _ = extractor.read(training.images)
    real, _ = extractor.read(others)
    floor, _ = extractor.read(found.images)
    against = Comparison(labels, real, Moments.of(real), floor)
    fidelity = fidelity_of(found.found, against, training, trained, extractor)
    bicubic, _ = extractor.read(found.bicubic)
    return fidelity, frechet_distance(bicubic, against.moments)


def _agreeing(found: Agreement, of: str, note: str) -> list[Figure]:
    names = {"PSNR": "dB", "SSIM": "", "PSNR of the small images": "dB"}
    return [
        Figure(f"{name}{of}", mean.value, _known(mean.standard_error), unit, note)
        for (name, unit), mean in zip(names.items(), found, strict=True)
    ]


def _known(error: float) -> float | None:
    """Returns the standard error; None for a single image, because JSON has no nan."""
    return error if np.isfinite(error) else None


def _save_picture(options: "EvaluateOptions", factor: int, found: Enlarged) -> None:
    """Writes the first images in all forms."""
    some = slice(2 * COLUMNS)
    pixels = found.small[some].repeat(factor, axis=1).repeat(factor, axis=2)
    forms = {
        "small image": pixels, "bicubic": found.bicubic[some],
        "enlargement": found.found[some], "image": found.images[some],
    }  # fmt: skip
    save_forms(options.workdir / PICTURE, forms)
