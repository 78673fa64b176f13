"""The command `sample`: images of a trained run, in pictures and arrays."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.progress import bar
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.data import to_uint8
from jaxdiff.denoisers.network import check_labels
from jaxdiff.errors import InputError
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import run_pictures
from jaxdiff.runs.load import Run
from jaxdiff.samplers.editing import blend_labels
from jaxdiff.storage.files import ensure_writable

FILES = (".png", ".gif", ".npz")
NO_FILES = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".npy")
"""Endings of files that are not written; a folder's name may have any other."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What to draw from a trained run."""

    workdir: Path
    """The run folder to sample from."""
    sampler: tuple[str, ...] = ()
    """Samplers by name, with their options if any: ddim, dpm-solver:order=3,eta=1;
    several are drawn side by side; the run's own by default."""
    steps: int | None = None
    """How many steps each takes; by default as many as is usual for the sampler."""
    spacing: str | None = None
    """The time grid by name, with its options if any: trailing, karras:rho=5."""
    guidance: float | None = None
    """Weight of classifier-free guidance: 1 for none, above 1 to keep to the class."""
    labels: tuple[int, ...] | None = None
    """The classes to draw, in turn; all of them by default."""
    blend: tuple[int, int] | None = None
    """Two classes: every row of the picture goes from one to the other."""
    num: int = 100
    """How many images, of each sampler."""
    seed: int = 0
    """Image i depends on the seed, on i and on its label alone."""
    chunk: int | None = None
    """Images drawn at a time; they do not depend on it; the run's own by default."""
    columns: int = 10
    """The most images in a row of the picture."""
    out: Path | None = None
    """The folder for samples.png and samples.npz, the run folder by default; or one
    file: a .png, a .gif of the chain, or a .npz."""


def draw(options: SampleOptions, run: Run) -> None:
    """Draws images from a trained run and writes them."""
    if options.columns < 1:
        raise InputError(f"columns must be at least 1; got {options.columns}")
    samplings = samplings_of(run, options.sampler, options.steps, options.spacing)
    out = options.out or options.workdir
    ending = "" if out.is_dir() else out.suffix.lower()
    if ending in NO_FILES:
        raise InputError(
            f"--out {out}: {ending} is not written; name a {', '.join(FILES)}, or a "
            "folder"
        )
    single = ending if ending in FILES else ""
    if single == ".gif" and len(samplings) > 1:
        raise InputError("a .gif shows one sampler; got " + ", ".join(samplings))
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
    ensure_writable(
        out.parent if single else out, "--out" if options.out else "--workdir"
    )

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
        np.savez_compressed(written[-1], allow_pickle=False, **arrays)
    print(f"{options.num} images are in {' and '.join(map(str, written))}")


def _labels(
    run: Run, options: SampleOptions
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The labels of the request, and its indices where rows share their noise."""
    classes, num = run.info.num_classes, options.num
    if options.blend is not None:
        if options.labels is not None:
            raise InputError("give labels or a blend of two, not both")
        check_labels(np.array(options.blend), classes)
        places = np.arange(num) % options.columns
        shares = places / max(min(options.columns, num) - 1, 1)
        start, end = (np.full(num, label, np.int32) for label in options.blend)
        labels = blend_labels(start, end, shares, classes or 0)
        return np.asarray(labels), np.arange(num) // options.columns
    chosen = options.labels
    if chosen is None:
        if classes is None:
            return None, None
        chosen = tuple(range(classes))
    if not chosen:
        raise InputError("labels are empty: name at least one class, or leave them")
    check_labels(np.array(chosen), classes)
    return np.resize(np.array(chosen, np.int32), num), None


def _save_picture(
    run: Run,
    drawn: dict[str, np.ndarray],
    labels: np.ndarray | None,
    options: SampleOptions,
    path: Path,
) -> None:
    """The grid of one sampler's images, or a labelled row of each sampler's."""
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
    """The array's name in an .npz: images, or images of each sampler."""
    return "images" if len(drawn) == 1 else f"images_{name}"
