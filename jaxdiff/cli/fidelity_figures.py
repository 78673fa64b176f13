"""Figures and a picture of samples that were compared with real images."""

from pathlib import Path
from typing import Any

from jaxdiff import plots
from jaxdiff.cli.figures import Figure
from jaxdiff.cli.quality_options import comparison_note, sampler_name, sampling_record
from jaxdiff.evaluation.features import Extractor, hash_of
from jaxdiff.evaluation.fidelity import Fidelity
from jaxdiff.evaluation.frechet import Moments
from jaxdiff.training.experiment import Sampling

NEAREST = "nearest.png"
"""Picture of the samples nearest to a training image."""


def sampler_line(num: int, sampling: Sampling) -> str:
    """Returns the number of samples, their sampler and the guidance weight."""
    by = sampler_name(sampling)
    return f"{num} samples by {by}, guidance {sampling.guidance:g}"


def fidelity_settings(
    num: int, sampling: Sampling, extractor: Extractor, found: Fidelity
) -> dict[str, Any]:
    """Returns the conditions of a comparison, as entries of a JSON file."""
    return {
        "num": num,
        **sampling_record(sampling),
        "features": extractor.name,
        "weights": extractor.weights,
        "resize": extractor.resize,
        "accuracy": extractor.accuracy,
        "statistics": found.statistics,
    }


def fidelity_figures(
    found: Fidelity,
    num: int,
    sampling: Sampling,
    extractor: Extractor,
    others: tuple[Path, Moments] | None,
) -> dict[str, list[Figure]]:
    """Returns the figures of samples, by their heading.

    Args:
        found: metrics of the samples.
        num: number of samples.
        sampling: how they were drawn.
        extractor: feature network.
        others: file of further statistics, and its contents; None for none.
    """
    note = comparison_note(extractor, num, found.statistics)
    figures = comparison_figures(found, note, "training images")
    if others is not None and found.to_others is not None:
        path, moments = others
        of = f"{hash_of(moments)} of {moments.num or '?'} images"
        how = f"{note}; to the statistics {of}"
        name = f"Frechet distance to {path}"
        figures.append(Figure(name, found.to_others, note=how))
    return {f"{sampler_line(num, sampling)}; {note}": figures}


def save_nearest(workdir: Path, found: Fidelity) -> str:
    """Writes the samples nearest to a training image; returns the picture's name."""
    near = found.pairs
    plots.save_grid(
        workdir / NEAREST,
        near.reshape(-1, *near.shape[2:]),
        row_labels=["sample", "nearest training image"],
    )
    return NEAREST


def comparison_figures(found: Fidelity, note: str, baseline: str) -> list[Figure]:
    """Returns the figures of drawn images, next to those of a baseline.

    Args:
        found: metrics of the images.
        note: conditions under which the values may be compared.
        baseline: images of the baseline, in words.
    """
    figures = []
    if found.agreement is not None:
        figures.append(Figure("label agreement", found.agreement, unit="share"))
    for of, d in (("", found.samples), (f", {baseline} (baseline)", found.floor)):
        figures += [
            Figure(f"Frechet distance{of}", d.frechet),
            Figure(f"kernel distance{of}", d.kernel.value, d.kernel.standard_error),
            Figure(f"precision{of}", d.manifold.precision, unit="share"),
            Figure(f"recall{of}", d.manifold.recall, unit="share"),
        ]
    near = found.copying
    figures += [
        Figure("distance to the nearest training image", near.generated),
        Figure("distance of held-out images (baseline)", near.held_out),
        Figure(
            "nearer than held-out images (baseline: 50%)", near.nearer, unit="share"
        ),
    ]
    return [figure._replace(note=note) for figure in figures]
