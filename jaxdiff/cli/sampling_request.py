"""Requests of the command `sample`: classes or prompts, with their noise."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.checks import check_seed
from jaxdiff.conditions import blend_conditions
from jaxdiff.data.image_files import read_image
from jaxdiff.denoisers.network import check_labels
from jaxdiff.errors import InputError, first_few, shown
from jaxdiff.parallel import Pmap
from jaxdiff.pretrained.torch_random import TorchGenerator
from jaxdiff.runs.generate import check_num
from jaxdiff.runs.run import Run
from jaxdiff.samplers.editing import blend_labels
from jaxdiff.storage.files import LARGEST, cannot_read, open_regular
from jaxdiff.training.experiment import DataInfo
from jaxdiff.typing import Condition

if TYPE_CHECKING:
    from jaxdiff.cli.sample import SampleOptions

OF_TEXT = (
    "prompt", "prompts", "negative", "size", "image", "mask", "image_guidance",
    "strength", "windows",
)  # fmt: skip
"""Options of a model of text and latents."""
NUM = 100
"""Number of images of a model without text."""
STRENGTH = 0.8
"""Share of the steps that change an image, as in diffusers."""


class Request(NamedTuple):
    """Images to draw.

    Attributes:
        run: trained model, for the size of the images.
        num: number of images.
        labels: classes, shares of classes, or the condition of prompts; None for none.
        seed: seed of all images, or one per image.
        base: condition that guidance leads away from; None for the usual.
        indices: places of the images; None for 0, 1, ...
        start: latents to change; None for noise.
        strength: share of the steps that change them.
        prompts: prompt of each image.
    """

    run: Run
    num: int
    labels: Condition | np.ndarray | None
    seed: int | np.ndarray
    base: Condition | None = None
    indices: np.ndarray | None = None
    start: np.ndarray | None = None
    strength: float | None = None
    mask: np.ndarray | None = None
    prompts: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """Returns the arguments of `Run.generate` besides labels, num and seed."""
        return {
            "base": self.base, "indices": self.indices, "start": self.start,
            "strength": self.strength, "mask": self.mask,
        }  # fmt: skip


def refuse(options: "SampleOptions", names: tuple[str, ...], why: str) -> None:
    """Raises `InputError` if one of the options of other models is given."""
    for name in names:
        if getattr(options, name) not in (None, False, ()):
            raise InputError(
                f"{name.strip('_')} must not be given {why}, got "
                f"{shown(getattr(options, name))}. Leave it out."
            )


def of_classes(options: "SampleOptions", run: Run) -> Request:
    """Returns the request of a model of classes, or of pixels alone.

    Raises:
        InputError: an option is out of range, or is one of models of text.
    """
    refuse(options, OF_TEXT, "for a model without text")
    if options.seed_like != "jax":
        raise InputError(
            "seed-like must be jax for a model without text, got torch. Leave it out."
        )
    num = NUM if options.num is None else options.num
    run.check_request(None, num, options.seed)
    labels, indices = labels_of(run, options, num)
    seed: int | np.ndarray = options.seed
    if options.seeds is not None:
        seed, indices = seeds_of(options, num), np.zeros(num, np.int32)
    return Request(run, num, labels, seed, indices=indices)


def of_prompts(options: "SampleOptions", run: Run) -> Request:
    """Returns the request of a model of text and latents, after its texts are encoded.

    Image i is drawn from the seed + i, so that it can be drawn again alone.

    Raises:
        InputError: there is no prompt, or an option is out of range.

    Warns:
        UserWarning: it names words of a prompt that are cut off.
    """
    if options.labels is not None:
        raise InputError(
            f"labels must be None for a model of text, got {options.labels}. Give "
            "--prompt."
        )
    if options.size is not None:
        run = run.resized(*options.size)
    prompts = prompts_of(options)
    num = len(prompts) if options.num is None else options.num
    if options.blend is not None:
        num = options.columns if options.num is None else options.num
        prompts = tuple(map(str, options.blend))
    check_num(num)
    seeds = seeds_of(options, num)
    if options.blend is not None:
        shares, rows = row_shares(options, num)
        seeds = seeds[rows]
        pair = run.text(prompts, windows=options.windows)
        ends = [repeated(pair, [i] * num) for i in (0, 1)]
        condition = blend_conditions(ends[0], ends[1], jnp.asarray(shares))
        first, second = map(shown, prompts)
        given = tuple(f"{first} to {second}, {share:.0%}" for share in shares)
    else:
        rows = np.arange(num) % len(prompts)
        condition = repeated(run.text(prompts, windows=options.windows), rows)
        given = tuple(prompts[row] for row in rows)
    count = len(run.parallel.devices)
    if isinstance(run.parallel, Pmap) and num < count and jax.process_count() == 1:
        run = replace(run, parallel=Pmap(num_devices=num))  # the others would idle
    base = run.negative(condition, options.negative)
    request = Request(
        run, num, condition, seeds, base, np.zeros(num, np.int32), prompts=given
    )
    return _with_image(request, options)


def _with_image(request: Request, options: "SampleOptions") -> Request:
    """Returns a request with its image: a start, or a part of the condition."""
    run, num = request.run, request.num
    inputs = "none" if run.parts is None else run.parts.info.inputs
    kind = (run.parts and run.parts.info.pipeline) or "model of text"
    for name, needs, wanted in (
        ("image", inputs != "none" or options.mask is not None, True),
        ("mask", inputs == "mask", inputs != "image"),
    ):
        found = getattr(options, name)
        if (found is None and needs) or (found is not None and not wanted):
            word, remedy = ("be given", "Give") if needs else ("not be given", "Omit")
            why = "with a mask" if inputs == "none" else f"for a {kind}"
            raise InputError(
                f"{name} must {word} {why}, got {found}. {remedy} --{name}."
            )
    starts = options.image is not None and inputs == "none"
    if options.strength is not None and not starts:
        raise InputError(
            "strength must be None, because no image is changed step by step, got "
            f"{options.strength:g}. Omit it."
        )
    if options.seed_like == "torch" and starts:
        raise InputError(
            "seed-like must be jax for an image that is changed, got torch. Omit it."
        )
    if options.seed_like == "torch":
        request = request._replace(start=_torch_noise(request))
    if options.image is None:
        return request
    channels = run.model.image_shape[-1] if run.parts is None else 3
    pixels = read_image(options.image, run.image_size, channels)
    pixels = pixels / np.float32(127.5) - 1
    mask = None
    if options.mask is not None:
        mask = read_image(options.mask, run.image_size, 1)[..., 0] / 255
    if starts:
        strength = STRENGTH if mask is None else 1.0
        if options.strength is not None:
            strength = options.strength
        image = pixels[None] if run.parts is None else run.encode(pixels[None])
        if mask is not None:
            mask = mask[..., None] if run.parts is None else run.latent_mask(mask)
            mask = np.repeat(mask[None].astype(np.float32), num, 0)
        start = np.repeat(image, num, 0)
        return request._replace(start=start, strength=strength, mask=mask)
    assert isinstance(request.labels, Condition), "of prompts"
    return request._replace(labels=run.with_image(request.labels, pixels, mask))


def _torch_noise(request: Request) -> np.ndarray:
    """Returns the noise that PyTorch's CPU generators of the seeds begin with."""
    height, width, channels = request.run.model.image_shape
    seeds = np.atleast_1d(request.seed).tolist()
    return np.concatenate(
        [TorchGenerator(seed).images(1, height, width, channels) for seed in seeds]
    )


def prompts_of(options: "SampleOptions") -> tuple[str, ...]:
    """Returns the prompts on the command line, or those in a file."""
    ways = [options.prompt, options.prompts, options.blend]
    if sum(bool(way) for way in ways) != 1:
        raise InputError(
            "a model of text must have one of prompt, prompts and blend, got "
            f"{'several' if any(ways) else 'none'}. Give --prompt, such as --prompt "
            "'a photo of a cat'."
        )
    if options.prompts is None:
        return options.prompt
    try:
        with open_regular(options.prompts, LARGEST) as file:
            lines = file.read().decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{options.prompts}' must be a text in UTF-8, got {error.reason} at byte "
            f"{error.start}. Save it again."
        ) from error
    except OSError as error:
        raise cannot_read(options.prompts, error) from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise InputError(f"'{options.prompts}' must have a prompt per line, got none.")
    return found


def seeds_of(options: "SampleOptions", num: int) -> np.ndarray:
    """Returns the seed of each image [num]."""
    if options.seeds is None:
        check_seed(options.seed)
        return (options.seed + np.arange(num)) % 2**32
    for seed in options.seeds:
        check_seed(seed)
    if not options.seeds:
        raise InputError("seeds must be at least one, got none. Leave it out.")
    return np.resize(np.array(options.seeds), num)


def row_shares(options: "SampleOptions", num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the place of each image in its row, and its row; a row shares its noise.

    Returns:
        Shares from 0 (first of the row) to 1 (last), [num], and row numbers [num].
    """
    columns, order = options.columns, np.arange(num)
    return order % columns / max(min(columns, num) - 1, 1), order // columns


def repeated(condition: Condition, rows: Any) -> Condition:
    """Returns rows of a condition."""
    rows = np.asarray(rows)
    parts = (None if part is None else part[rows] for part in condition)
    return Condition(*parts)


def labels_of(
    run: Run, options: "SampleOptions", num: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns the labels, and the indices if the images of a row share their noise."""
    classes = run.info.num_classes
    if options.blend is not None:
        if options.labels is not None:
            raise InputError("labels and blend must not both be given. Leave one out.")
        ends = _classes(options.blend, run.info)
        shares, rows = row_shares(options, num)
        start, end = (np.full(num, label, np.int32) for label in ends)
        labels = blend_labels(start, end, shares, classes or 0)
        return np.asarray(labels), rows
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
    if names.count(label) == 1:
        return names.index(label)
    # A published name may list several words: "tench, Tinca tinca".
    found = [i for i, name in enumerate(names) if label in name.split(", ")]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"labels must be classes of the run, got {shown(label)}, a name of the "
            f"classes {' and '.join(map(str, found))}. Give a number."
        )
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
