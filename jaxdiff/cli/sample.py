"""The command `sample`: images of a trained run, as a picture and as arrays."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.progress import bar
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.data import to_uint8
from jaxdiff.denoisers.network import check_labels
from jaxdiff.errors import InputError, first_few, printable, shown
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import run_pictures
from jaxdiff.runs.load import Run
from jaxdiff.samplers.editing import blend_labels
from jaxdiff.storage.files import ensure_writable, replacing
from jaxdiff.training.experiment import DataInfo

FILES = (".png", ".gif", ".npz")
NO_FILES = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".npy")
"""Endings that are rejected; a folder's name may have any other."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Options of the command `sample`."""

    workdir: Path
    """Run folder to sample from."""
    sampler: tuple[str, ...] = ()
    """Samplers by name, with options: ddim or dpm-solver:order=3,eta=1.
    Several are drawn side by side; the default is the run's sampler."""
    steps: int | None = None
    """Number of steps per sampler. None takes the default of its time grid."""
    spacing: str | None = None
    """Time grid by name: trailing or karras:rho=5. None takes each sampler's own."""
    guidance: float | None = None
    """Weight of classifier-free guidance; 1 turns it off. None takes the run's."""
    labels: tuple[int | str, ...] | None = None
    """Classes to draw, in turn, by number or name. None draws all classes."""
    blend: tuple[int | str, int | str] | None = None
    """Two classes, by number or name; each row of the picture blends from the first
    to the second."""
    num: int = 100
    """Number of images per sampler."""
    seed: int = 0
    """Seed; image i depends only on the seed, on i and on its label."""
    chunk: int | None = None
    """Number of images drawn at a time; images do not depend on it.
    None takes the run's."""
    columns: int = 10
    """Maximum number of images per row of the picture."""
    out: Path | None = None
    """Folder for samples.png and samples.npz; None takes the run folder.
    Or one file: a .png, a .npz, or a .gif of the sampling loop."""


def draw(options: SampleOptions, run: Run) -> None:
    """Draws images from a trained run and writes them to files."""
    if options.columns < 1:
        raise InputError(f"columns must be at least 1, got {options.columns}")
    samplings = samplings_of(run, options.sampler, options.steps, options.spacing)
    out = options.out or options.workdir
    ending = "" if out.is_dir() else out.suffix.lower()
    if ending in NO_FILES:
        raise InputError(
            f"--out {out}: {ending} is not supported. Name a {', '.join(FILES)}, or a "
            "folder."
        )
    single = ending if ending in FILES else ""
    if single == ".gif" and len(samplings) > 1:
        raise InputError("a .gif must show one sampler, got " + ", ".join(samplings))
    for name, sampling in samplings.items():
        changes = {"guidance": options.guidance, "chunk": options.chunk}
        given = {k: v for k, v in changes.items() if v is not None}
        samplings[name] = replace(sampling, **given)  # type: ignore[arg-type]
    run.check_request(None, options.num, options.seed)
    labels, indices = _labels(run, options)
    for sampling in samplings.values():
        run.check_request(labels, options.num, options.seed, sampling)
    if single != ".npz":
        plots.check_installed()
    ensure_writable(out.parent if single else out, "--out")

    every = None
    drawn = {}
    with bar(options.num * len(samplings), "sample") as on_chunk:
        for i, (name, sampling) in enumerate(samplings.items()):
            if single == ".gif":
                steps = len(sampling.sampler.grid(run.schedule).alpha) - 1
                every = max(1, steps // run_pictures.FRAMES)
            drawn[name] = run.generate(
                labels, options.num, options.seed, sampling=sampling, indices=indices,
                every=every, on_chunk=partial(on_chunk, before=i * options.num),
            )  # fmt: skip

    if not is_first():
        return
    written = []
    if single == ".gif":
        (frames,) = drawn.values()
        plots.save_gif(out, to_uint8(frames).swapaxes(0, 1), columns=options.columns)
        written.append(out)
    if single in ("", ".png"):
        written.append(out if single else out / "samples.png")
        _save_picture(run, drawn, labels, options, written[-1])
    if single in ("", ".npz"):
        written.append(out if single else out / "samples.npz")
        arrays = {_array_name(name, drawn): to_uint8(x) for name, x in drawn.items()}
        if labels is not None:
            arrays["labels"] = labels
        with replacing(written[-1]) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    print(printable(f"{options.num} images are in {' and '.join(map(str, written))}"))


def _labels(
    run: Run, options: SampleOptions
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the labels, and the indices if the images of a row share their noise."""
    classes, num = run.info.num_classes, options.num
    if options.blend is not None:
        if options.labels is not None:
            raise InputError("labels and blend must not both be given. Leave one out.")
        ends = _classes(options.blend, run.info)
        places = np.arange(num) % options.columns
        shares = places / max(min(options.columns, num) - 1, 1)
        start, end = (np.full(num, label, np.int32) for label in ends)
        labels = blend_labels(start, end, shares, classes or 0)
        return np.asarray(labels), np.arange(num) // options.columns
    if options.labels is None:
        if classes is None:
            return None, None
        return np.resize(np.arange(classes, dtype=np.int32), num), None
    if not options.labels:
        raise InputError(
            "labels must name at least one class, got none. Name one, or leave labels "
            "out."
        )
    return np.resize(_classes(options.labels, run.info), num), None


def _classes(chosen: Sequence[int | str], info: DataInfo) -> np.ndarray:
    """Returns the numbers of classes that are given by number or name."""
    classes = info.num_classes
    # Without classes every label is wrong, and the check says so.
    numbers = [0 if classes is None else _class(one, info) for one in chosen]
    labels = np.array(numbers, np.int32)
    check_labels(labels, classes)
    return labels


def _class(label: int | str, info: DataInfo) -> int:
    """Returns the number of a class."""
    names = info.class_names or ()
    if isinstance(label, int):
        return label
    if label in names:
        return names.index(label)
    close = difflib.get_close_matches(label, names, n=1)
    remedy = f"Give a number or a name ({first_few(names)})"
    if "," in label:
        remedy = "Separate the values with spaces only"
    elif close:
        remedy = f"Perhaps you meant {close[0]!r}"
    elif not names:
        remedy = "Give a number"
    raise InputError(
        f"labels must be classes of the run, got {shown(label)}. {remedy}."
    )


def _save_picture(
    run: Run,
    drawn: dict[str, np.ndarray],
    labels: np.ndarray | None,
    options: SampleOptions,
    path: Path,
) -> None:
    """Saves a grid of images of one sampler, or a labelled row per sampler."""
    if len(drawn) > 1:
        columns = min(options.columns, options.num)
        rows = np.concatenate([images[:columns] for images in drawn.values()])
        plots.save_grid(path, to_uint8(rows), row_labels=list(drawn), columns=columns)
        return
    (images,) = drawn.values()
    rows_of_classes = labels if options.blend is None else None
    plots.save_samples(
        path, to_uint8(images), rows_of_classes, run.info.class_names, options.columns
    )


def _array_name(name: str, drawn: dict[str, np.ndarray]) -> str:
    """Returns the name of an array in the .npz; several samplers add their names."""
    return "images" if len(drawn) == 1 else f"images_{name}"
