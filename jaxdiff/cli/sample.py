"""The command `sample`: images of a trained run, as a picture and as arrays."""

import json
import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.enlargement_request import (
    Enlargement,
    enlarged,
    enlargements_of,
    of_small_image,
)
from jaxdiff.cli.progress import bar
from jaxdiff.cli.sampling_adapters import adapted, adapters_of
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.cli.sampling_request import Request, of_classes, of_prompts, refuse
from jaxdiff.cli.unclip_request import OF_UNCLIP, finished, of_unclip
from jaxdiff.data import to_uint8
from jaxdiff.errors import InputError, printable
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import run_pictures
from jaxdiff.runs.enlarge import is_low_resolution
from jaxdiff.runs.provenance import versions
from jaxdiff.runs.run import Run
from jaxdiff.serialization import option_name, to_dict
from jaxdiff.storage.files import ensure_writable, replacing
from jaxdiff.training.experiment import Sampling
from jaxdiff.typing import Condition

FILES = (".png", ".gif", ".npz")
NO_FILES = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".npy")
"""Endings that are rejected; a folder's name may have any other."""
IMAGES = "samples"
"""Folder of the single images of prompts."""


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
    """Two classes, by number or name, or two prompts, or, for a model of unCLIP, two
    pictures; each row of the picture blends from the first to the second."""
    prompt: tuple[str, ...] = ()
    """Prompts of a model of text, in turn."""
    prompts: Path | None = None
    """File with a prompt per line."""
    negative: str | None = None
    """Prompt that guidance leads away from."""
    size: tuple[int, int] | None = None
    """Height and width in pixels, of a model of text; None takes those of its
    training."""
    windows: bool = False
    """If True, a long prompt is encoded in windows; if False, it is cut."""
    image: Path | None = None
    """Image to change, to edit or to repaint, of a model of text; or the small image
    that a run of super-resolution enlarges."""
    mask: Path | None = None
    """Mask of the image, white where it is repainted; grey counts from one half on."""
    image_guidance: float | None = None
    """Guidance scale of the image, of a model that follows instructions; None takes
    the run's."""
    like: Path | None = None
    """Picture to draw variations of, by a model of unCLIP."""
    from_: str | None = None
    """Text that describes the picture of --like, which changes from it to --to."""
    to: str | None = None
    """Text to which the picture of --like changes, along each row."""
    prior: Path | None = None
    """Run folder of the prior, for prompts of a decoder of unCLIP of one's own."""
    noise_level: int | None = None
    """Time of the noise that is added to an image's vector, of a StableUnCLIP model;
    None takes 0."""
    prior_steps: int | None = None
    """Number of steps of the prior, of a model of unCLIP; None takes its own."""
    prior_guidance: float | None = None
    """Guidance scale of the prior; None takes its own."""
    enlarge: tuple[Path, ...] = ()
    """Run folders of super-resolution that enlarge the images, one after the other."""
    enlarge_steps: int | None = None
    """Number of steps of each enlargement, by --enlarge or of a model of unCLIP; None
    takes its own."""
    augmentation: float | None = None
    """Level of the noise that is added to small images before they are enlarged, from
    0 (none) to the largest of the training; None takes 0 for --image, 0.1 for
    --enlarge."""
    strength: float | None = None
    """Share of the steps that change the image, in (0, 1]; None takes 0.8, and 1 with
    a mask."""
    lora: tuple[str, ...] = ()
    """Files of LoRA with their scales, 1 by default: style.safetensors:0.8. Several
    add up."""
    embedding: tuple[str, ...] = ()
    """Files of textual inversion of a model of text, each with its token after a colon,
    the file's own by default: cat.safetensors:<cat>."""
    bin: bool = False
    """If True, files of LoRA and of textual inversion may be .bin or .pt files, which
    are pickles; nothing in them is executed."""
    num: int | None = None
    """Number of images per sampler; None takes 100, or one per prompt or picture."""
    seed: int = 0
    """Seed; image i depends only on the seed, on i and on its label, or on seed + i and
    its prompt."""
    seeds: tuple[int, ...] | None = None
    """Seed of each image, in turn, instead of one for all."""
    seed_like: Literal["jax", "torch"] = "jax"
    """Generator of the initial latents: JAX's, or PyTorch's, whose seeds give the
    pictures of diffusers with a deterministic sampler."""
    chunk: int | None = None
    """Number of images drawn at a time; images do not depend on it.
    None takes the run's."""
    columns: int = 10
    """Maximum number of images per row of the picture."""
    out: Path | None = None
    """Folder for samples.png, samples.npz, and samples/ with the images of prompts;
    None takes the run folder.
    Or one file: a .png, a .npz, or a .gif of the sampling loop."""


def draw(options: SampleOptions, run: Run) -> None:
    """Draws images from a trained run and writes them to files."""
    if options.columns < 1:
        raise InputError(f"columns must be at least 1, got {options.columns}")
    run = adapted(run, options)
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
        changes = {
            "guidance": options.guidance, "image_guidance": options.image_guidance,
            "chunk": options.chunk,
        }  # fmt: skip
        given = {k: v for k, v in changes.items() if v is not None}
        samplings[name] = replace(sampling, **given)  # type: ignore[arg-type]
    request = _request(options, run)
    run, num, labels, seed = request[:4]
    stages = enlargements_of(options, request)
    for sampling in samplings.values():
        run.check_request(labels, num, seed, sampling)
        if options.seed_like == "torch" and not sampling.sampler.deterministic:
            raise InputError(
                "seed-like must be jax for a sampler that adds noise, such as "
                f"{option_name(type(sampling.sampler))}, got torch. Choose another "
                "--sampler."
            )
    if single == ".gif" and run.parts is not None:
        raise InputError("a .gif must show a model of pixels, got one of latents.")
    if single == ".gif" and stages:
        raise InputError(
            "a .gif must show one run, got a cascade. Leave --enlarge out."
        )
    if single != ".npz":
        plots.check_installed()
    ensure_writable(out.parent if single else out, "--out")
    alone = out / IMAGES if not single and request.prompts and num > 1 else None
    if alone is not None and (
        alone.is_symlink() or (alone.exists() and not alone.is_dir())
    ):  # a link of someone else's folder may lead anywhere
        raise InputError(
            f"'{alone}' must be a folder, got a link or a file. Remove it, or name "
            "another --out."
        )

    every = None
    drawn = {}
    with bar(num * len(samplings), "sample") as on_chunk:
        for i, (name, sampling) in enumerate(samplings.items()):
            if single == ".gif":
                steps = len(sampling.sampler.grid(run.schedule).alpha) - 1
                every = max(1, steps // run_pictures.FRAMES)
            found = run.generate(
                labels, num, seed, sampling=sampling, every=every,
                on_chunk=partial(on_chunk, before=i * num), **request.given(),
            )  # fmt: skip
            drawn[name] = enlarged(finished(request, found, options), request, stages)

    if not is_first():
        return
    written = []
    notes = {}
    if request.prompts or stages or is_low_resolution(run.experiment):
        notes = _notes(request, samplings, options, stages)
    if single == ".gif":
        (frames,) = drawn.values()
        plots.save_gif(out, to_uint8(frames).swapaxes(0, 1), columns=options.columns)
        written.append(out)
    if single in ("", ".png"):
        written.append(out if single else out / "samples.png")
        _save_picture(request, drawn, options, written[-1], notes)
    if single in ("", ".npz"):
        written.append(out if single else out / "samples.npz")
        arrays = {_array_name(name, drawn): to_uint8(x) for name, x in drawn.items()}
        if isinstance(labels, np.ndarray):
            arrays["labels"] = labels
        if request.prompts:
            arrays |= {"prompts": np.array(request.prompts), "seeds": np.array(seed)}
        with replacing(written[-1]) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    if alone is not None:
        _save_images(request, drawn, samplings, options, alone, stages)
        written.append(alone)
    total = num * len(drawn)
    are = "image is" if total == 1 else "images are"
    print(printable(f"{total} {are} in {' and '.join(map(str, written))}"))


def _request(options: SampleOptions, run: Run) -> Request:
    """Returns the request of a model of unCLIP, of prompts, classes or an image."""
    if options.prior is not None:
        run = run.with_prior(options.prior)
    if run.is_unclip:
        return of_unclip(options, run)
    names = [one for one in OF_UNCLIP if one != "enlarge_steps" or not options.enlarge]
    refuse(options, tuple(names), "for a model that is not unCLIP")
    if is_low_resolution(run.experiment):
        return of_small_image(options, run)
    return (of_prompts if run.takes_prompts else of_classes)(options, run)


def _save_picture(
    request: Request,
    drawn: dict[str, np.ndarray],
    options: SampleOptions,
    path: Path,
    notes: dict[str, str],
) -> None:
    """Saves a grid of images of one sampler, or a labelled row per sampler."""
    columns = min(options.columns, request.num)
    if len(drawn) > 1:
        rows = np.concatenate([images[:columns] for images in drawn.values()])
        plots.save_grid(
            path, to_uint8(rows), row_labels=list(drawn), columns=columns, notes=notes
        )
        return
    (images,) = (to_uint8(images) for images in drawn.values())
    if len(images) == 1 and notes:
        plots.save_image(path, images[0], notes=notes)
    elif not request.prompts:
        labels = Condition.of(request.labels).labels if options.blend is None else None
        names = request.run.info.class_names
        plots.save_samples(path, images, labels, names, options.columns, notes=notes)
    else:
        plots.save_captioned(
            path, images, request.prompts, columns=columns, notes=notes
        )


def _save_images(
    request: Request,
    drawn: dict[str, np.ndarray],
    samplings: dict[str, Sampling],
    options: SampleOptions,
    folder: Path,
    stages: tuple[Enlargement, ...],
) -> None:
    """Saves each image of prompts alone, with its own prompt and seed."""
    folder.mkdir(exist_ok=True)
    seeds = np.broadcast_to(request.seed, request.num)
    for name, images in drawn.items():
        for i, image in enumerate(to_uint8(images)):
            alone = request._replace(seed=seeds[i], prompts=request.prompts[i : i + 1])
            notes = _notes(alone, {name: samplings[name]}, options, stages)
            file = f"{i:05}.png" if len(drawn) == 1 else f"{name}-{i:05}.png"
            plots.save_image(folder / file, image, notes=notes)


def _notes(
    request: Request,
    samplings: dict[str, Sampling],
    options: SampleOptions,
    stages: tuple[Enlargement, ...],
) -> dict[str, str]:
    """Returns the texts of a picture by which it can be made again."""
    settings = {
        "jaxdiff": versions()["jaxdiff"],
        "workdir": str(options.workdir),
        "step": request.run.step,
        "prompts": request.prompts,
        "labels": _plain(Condition.of(request.labels).labels),
        "negative": options.negative,
        "seeds": np.asarray(request.seed).tolist(),
        "seed_like": options.seed_like,
        "size": request.run.image_size,
        "image": None if options.image is None else str(options.image),
        "mask": _plain(options.mask),
        "strength": request.strength,
        **{name: _plain(getattr(options, name)) for name in OF_UNCLIP},
        **adapters_of(options),
        "augmentation": options.augmentation,
        "sampling": [to_dict(sampling) for sampling in samplings.values()],
        "enlarge": [stage.note() for stage in stages],
    }
    words = shlex.join(["jaxdiff", "sample", *sys.argv[2:]])
    return {
        "prompt": "\n".join(dict.fromkeys(request.prompts)),
        "seed": " ".join(map(str, np.atleast_1d(request.seed))),
        "settings": json.dumps(settings),
        "command": words,
    }


def _plain(value: Any) -> Any:
    """Returns an option as plain data."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value) if isinstance(value, Path) else value


def _array_name(name: str, drawn: dict[str, np.ndarray]) -> str:
    """Returns the name of an array in the .npz; several samplers add their names."""
    return "images" if len(drawn) == 1 else f"images_{name}"
