"""Requests of the command `sample` to runs of super-resolution, and cascades.

sample --workdir SUPER --image small.png       enlarges a picture
sample --workdir BASE --enlarge SUPER          enlarges what BASE draws
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.cli.sampling_request import (
    Request,
    labels_of,
    prompts_of,
    refuse,
    seeds_of,
)
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.data.image_files import read_image
from jaxdiff.denoisers.network import check_null_class
from jaxdiff.errors import InputError
from jaxdiff.runs.enlarge import (
    CASCADE,
    cascade_seeds,
    condition_of_small,
    is_low_resolution,
    low_resolution_of,
)
from jaxdiff.runs.generate import check_num
from jaxdiff.runs.load import load
from jaxdiff.runs.run import Run
from jaxdiff.runs.unclip import UnCLIP
from jaxdiff.samplers.spacing import with_steps
from jaxdiff.serialization import to_dict
from jaxdiff.training.experiment import Sampling
from jaxdiff.typing import Condition

if TYPE_CHECKING:
    from jaxdiff.cli.sample import SampleOptions

_OF_OTHERS = ("mask", "image_guidance", "strength", "windows", "size", "blend")


def of_small_image(options: "SampleOptions", run: Run) -> Request:
    """Returns the request to enlarge a picture.

    Image i is drawn from the seed and i, or from its own seed.

    Raises:
        InputError: there is no picture, or an option is out of range or of other
            models.
    """
    refuse(options, _OF_OTHERS, "for a run of super-resolution")
    if options.seed_like != "jax":
        raise InputError(
            "seed-like must be jax for a run of super-resolution, got torch. Leave it "
            "out."
        )
    if options.image is None:
        raise InputError(
            "image must be given for a run of super-resolution, got None. Give "
            "--image, or draw small images with sample --workdir BASE --enlarge "
            f"{options.workdir}."
        )
    num = 1 if options.num is None else options.num
    check_num(num)
    seed: int | np.ndarray = options.seed
    indices = None
    if options.seeds is not None:
        seed, indices = seeds_of(options, num), np.zeros(num, np.int32)
    labels: Any = None
    if options.labels is not None:
        labels, _ = labels_of(run, options, num)
    given, words = Condition(labels=labels), ()
    if run.takes_prompts:
        asked = options.prompt or options.prompts
        texts = prompts_of(options) if asked else ("",)
        words = tuple(np.resize(np.array(texts, object), num))
        given = run.text(list(words))._replace(labels=labels)
    else:
        refuse(options, ("prompt", "prompts", "negative"), "for a model without text")
    channels = run.model.image_shape[-1]
    pixels = read_image(options.image, None, channels) / np.float32(127.5) - 1
    run, condition = condition_of_small(
        run, np.repeat(pixels[None], num, 0), given, seed,
        augmentation=options.augmentation or 0.0, indices=indices,
    )  # fmt: skip
    base = None
    if words and options.negative is not None:
        base = run.negative(condition, options.negative)
    return Request(run, num, condition, seed, base, indices, prompts=words)


@dataclass(frozen=True)
class Enlargement:
    """Stage of a cascade: a run, and what it is given besides small images.

    Attributes:
        workdir: run folder.
        run: the run of super-resolution.
        given: classes or texts of the images.
        augmentation: level of the noise that is added to the small images.
        sampling: sampler, guidance and clipping.
    """

    workdir: Path
    run: Run
    given: Condition
    augmentation: float
    sampling: Sampling

    def note(self) -> dict[str, Any]:
        """Returns the stage as plain data, to be written into pictures."""
        return {
            "workdir": str(self.workdir), "step": self.run.step,
            "augmentation": self.augmentation, "sampling": to_dict(self.sampling),
        }  # fmt: skip


def enlargements_of(
    options: "SampleOptions", request: Request
) -> tuple[Enlargement, ...]:
    """Returns the stages of a cascade after a request; () without.

    Raises:
        InputError: a folder holds no run of super-resolution, or one for images of
            another size or other channels, or for other classes.
    """
    if not options.enlarge:
        alone = is_low_resolution(request.run.experiment)
        if options.augmentation is not None and not alone:
            raise InputError(
                "augmentation must not be given without small images, got "
                f"{options.augmentation:g}. Give --enlarge too, or leave it out."
            )
        return ()
    if options.enlarge_steps is not None and options.enlarge_steps < 1:
        raise InputError(
            f"enlarge_steps must be at least 1, got {options.enlarge_steps}"
        )
    found: list[Enlargement] = []
    size, channels = _drawn_size(request.run)
    for folder in options.enlarge:
        run = load(folder, parallel=request.run.parallel)
        if not is_low_resolution(run.experiment):
            raise InputError(
                f"enlarge must name runs of super-resolution, got '{folder}', which is "
                "another. Train a run with --condition low-resolution."
            )
        low = low_resolution_of(run.experiment)
        _check_size(folder, run, low, size, channels)
        level = min(CASCADE, low.augmentation)
        level = level if options.augmentation is None else options.augmentation
        sampling = run.experiment.sampling
        if options.enlarge_steps is not None:
            sampler = with_steps(sampling.sampler, options.enlarge_steps)
            sampling = replace(sampling, sampler=sampler)
        given = _passed_on(folder, run, request, options.blend is not None)
        small = np.zeros((1, *size, channels), np.float32)
        one = Condition(*(None if part is None else part[:1] for part in given))
        _, whole = condition_of_small(run, small, one, 0, augmentation=level)
        run.check_request(whole, 1, 0, sampling)
        found.append(Enlargement(folder, run, given, level, sampling))
        size = size[0] * low.factor, size[1] * low.factor
    return tuple(found)


def enlarged(
    images: np.ndarray, request: Request, stages: tuple[Enlargement, ...]
) -> np.ndarray:
    """Returns images after all stages of a cascade."""
    for place, stage in enumerate(stages):
        images = stage.run.enlarge(
            images, stage.given, cascade_seeds(request.seed, place),
            augmentation=stage.augmentation, sampling=stage.sampling,
            indices=request.indices,
        )  # fmt: skip
    return images


def _drawn_size(run: Run) -> tuple[tuple[int, int], int]:
    """Returns the size of the images that a run draws, and their channels."""
    if run.parts is None:
        return run.image_size, run.model.image_shape[-1]
    unclip = run.unclip if run.is_unclip else None
    if isinstance(unclip, UnCLIP) and unclip.enlarges:
        height, width, _ = unclip.enlargement.model.image_shape
        return (height, width), 3
    return run.image_size, 3


def _check_size(
    folder: Path, run: Run, low: LowResolution, size: tuple[int, int], channels: int
) -> None:
    """Raises `InputError` if a run enlarges images of another shape."""
    wanted = low.small_shape(run.model.image_shape)
    if wanted != (*size, channels):
        raise InputError(
            f"'{folder}' must enlarge the images that are drawn, of "
            f"{_words((*size, channels))}, got a run that enlarges "
            f"{_words(wanted)}. Choose another run."
        )


def _words(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _passed_on(folder: Path, run: Run, request: Request, blends: bool) -> Condition:
    """Returns the classes or prompts of a request, as far as a run takes them."""
    labels = request.labels
    labels = labels.labels if isinstance(labels, Condition) else labels
    own, drawn = run.info.num_classes, request.run.info.num_classes
    if own is None:
        labels = None
    elif labels is None:
        check_null_class(run.network)
    elif own != drawn:
        raise InputError(
            f"'{folder}' must take the {drawn} classes of the images that are drawn, "
            f"got a run of {own} classes. Choose another run."
        )
    if not run.takes_prompts:
        return Condition(labels=labels)
    if blends:
        raise InputError(
            f"blend must be None for a cascade of a run with prompts, '{folder}', got "
            "some. Leave one of both out."
        )
    texts = request.prompts or ("",) * request.num
    return run.text(list(texts))._replace(labels=labels)
