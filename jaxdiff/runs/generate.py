"""Sampling from a model and its parameters, on all devices, in chunks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from jaxdiff import rng
from jaxdiff.checks import check_seed
from jaxdiff.denoisers.inverse_problems import with_known_part
from jaxdiff.denoisers.network import (
    check_condition,
    check_null_class,
    taken_by,
)
from jaxdiff.errors import InputError, NonFiniteSamples
from jaxdiff.parallel import Parallel, Pmap, map_by_value
from jaxdiff.samplers import DDIM, Spacing, sample
from jaxdiff.samplers.base import check_grid
from jaxdiff.samplers.editing import image_to_image
from jaxdiff.training.experiment import Sampling
from jaxdiff.training.model import Model
from jaxdiff.typing import Array, Condition, Params


@dataclass(frozen=True)
class Draw:
    """Work of one device for `generate`; equal instances share one compiled program.

    The fields and the type of the sampler are compiled in. Everything else is an
    argument: parameters, key, guidance weight and the sampler's numbers.

    Attributes:
        model: the model.
        spacing: the sampler's time grid.
        guided: if True, the guidance weight applies.
        clip: if True, clip the estimate of x_0 to the range of the data, or to
            sampling.clip_range, which is an argument.
        keep_eps: if True, keep eps as predicted when x_0 is clipped.
        every: steps between two states of the trajectory; None returns images only.
        strength: share of the steps that change given images; None starts from noise.
    """

    model: Model
    spacing: Spacing
    guided: bool
    clip: bool
    keep_eps: bool
    every: int | None
    strength: float | None

    def __call__(self, shared: Any, batch: Any) -> Array:
        """Returns images, or trajectories; `generate` assembles the arguments."""
        params, weights, sampler, clip_range, quantile = shared
        weight, image_weight = weights if self.guided else (None, None)
        sampler = replace(sampler, spacing=self.spacing)
        seeds, indices, condition, base, start, mask = batch
        keys = jax.vmap(rng.key)(seeds)
        denoiser = self.model.sampling_denoiser(
            params, condition, guidance=weight, image_guidance=image_weight, base=base,
            clip=self.clip, clip_range=clip_range, clip_quantile=quantile,
            keep_eps=self.keep_eps,
        )  # fmt: skip
        if mask is not None:
            denoiser = with_known_part(denoiser, start, mask)
        shape = (len(indices), *self.model.image_shape)
        if self.strength is not None:
            images = image_to_image(
                denoiser, sampler, self.model.schedule, keys, start, self.strength,
                indices=indices,
            )  # fmt: skip
            # Some published grids end at a level with noise.
            return images if mask is None else start + mask * (images - start)
        if start is not None:
            grid = sampler.grid(self.model.schedule)
            start = sampler.start_scale(self.model.schedule, grid) * start
        result = sample(
            denoiser, sampler, self.model.schedule, keys, shape,
            indices=indices, x_T=start, every=self.every,
        )  # fmt: skip
        return result if self.every is None else result.swapaxes(0, 1)


def scales_by_number(network: Any) -> bool:
    """Returns True if a network takes the guidance scale as a number (LCM)."""
    config = getattr(network, "config", None)
    return getattr(config, "guidance_channels", None) is not None


def is_guided(network: Any, sampling: Sampling) -> bool:
    """Returns True if the sampling loop applies guidance."""
    if scales_by_number(network):  # the network has seen the scale in training
        return False
    return sampling.guidance != 1 or sampling.image_guidance is not None


def keeps_eps(sampling: Sampling) -> bool:
    """Returns True if a clipped estimate keeps its eps, which only DDIM does."""
    return sampling.keep_eps and isinstance(sampling.sampler, DDIM)


def with_scale(
    condition: Condition, network: Any, sampling: Sampling, num: int
) -> Condition:
    """Returns a condition with the guidance scale, if the network takes it.

    The last number of the condition is the scale w of Luo et al. 2023, which is smaller
    than the usual weight by 1.
    """
    if not scales_by_number(network):
        return condition
    scale = np.full((num, 1), sampling.guidance - 1, np.float32)
    given = condition.numbers
    numbers = scale if given is None else np.concatenate([given, scale], 1)
    return condition._replace(numbers=numbers)


def check_num(num: int) -> None:
    """Raises an error for an impossible number of images."""
    if num < 1:
        raise InputError(f"num must be at least 1, got {num}")
    if num >= 2**31:  # indices are 32-bit integers
        raise InputError(f"num must be below 2^31, got {num}")


def check_request(
    model: Model,
    sampling: Sampling,
    labels: Condition | np.ndarray | None,
    num: int,
    seed: int | np.ndarray,
) -> None:
    """Checks the arguments of `generate`.

    Raises:
        InputError: an argument is out of range, or the sampler or the condition does
            not fit.
    """
    check_num(num)
    if sampling.image_guidance is not None and "image" not in taken_by(model.network):
        raise InputError(
            "image_guidance must be None for a network without an image, got "
            f"{sampling.image_guidance:g}. Leave it out."
        )
    for one in np.unique(seed).tolist():
        check_seed(one)
    if np.shape(seed) not in ((), (num,)):
        raise InputError(
            f"seed must be one, or one per image ({num}), got {np.size(seed)}"
        )
    condition = with_scale(Condition.of(labels), model.network, sampling, num)
    check_condition(condition, model.network)
    for name, part in condition._asdict().items():
        if part is not None and len(part) != num:
            raise InputError(
                f"{name} must have one entry per image ({num}), got {len(part)}"
            )
    check_grid(sampling.sampler.grid(model.schedule))


def generate(
    model: Model,
    params: Params,
    sampling: Sampling,
    labels: Condition | np.ndarray | None,
    seed: int | np.ndarray,
    *,
    num: int | None = None,
    base: Condition | None = None,
    start: np.ndarray | None = None,
    strength: float | None = None,
    mask: np.ndarray | None = None,
    parallel: Parallel | None = None,
    indices: np.ndarray | None = None,
    every: int | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draws images on all devices, one chunk after another.

    Another seed, condition, parameters, guidance weight or number of the sampler (eta,
    churn) compiles nothing again. Another time grid compiles again.

    Args:
        model: the model.
        params: its parameters.
        sampling: the sampler, guidance and clipping.
        labels: integer classes [num], or weights of the classes, float [num, classes];
            None for any class. Or a `Condition` of the parts that the network takes.
        seed: random seed, or one per image, integers [num]. Image i depends only on
            (its seed, indices[i]) and its condition.
        num: number of images; that of the condition by default.
        base: condition [num] that guidance leads away from, such as a negative prompt;
            see `classifier_free_guidance`.
        start: standard Gaussian noise to start from, float32 [num, height, width,
            channels], instead of the seed's; or, with `strength`, images to change.
        strength: share of the steps that change the images of `start`, in (0, 1]; see
            `samplers.image_to_image`.
        mask: where the images of `start` change, with `strength`: float [num, height,
            width, 1], 1 to repaint, 0 to keep; see `with_known_part`. None is 1.
        parallel: layout of devices; all devices of this process by default.
        indices: integers [num]; 0, 1, ... by default. Images with equal indices start
            from the same noise.
        every: return trajectories with a state every this many steps (see `sample`),
            instead of images.
        on_chunk: called with the number of finished images after each chunk.

    Returns:
        float32 [num, height, width, channels], in [-1, 1] up to rounding if
        clipped; with `every`, [num, states, height, width, channels].

    Raises:
        InputError: the condition does not fit the model, or an argument is out of
            range.
        NonFiniteSamples: an image is not finite. The error, an `InputError` too, has
            the images.
    """
    condition = Condition.of(labels)
    lengths = [len(part) for part in condition if part is not None]
    if num is None:
        if not lengths:
            raise InputError("num must be given if there are no labels, got None")
        num = lengths[0]
    check_request(model, sampling, condition, num, seed)
    condition = with_scale(condition, model.network, sampling, num)
    if condition.labels is None and model.num_classes:
        check_null_class(model.network)
    sampler = sampling.sampler
    guided = is_guided(model.network, sampling)
    keep_eps = keeps_eps(sampling)
    if strength is not None and (start is None or every is not None):
        raise InputError(
            f"strength must be None without images in start, or with every, got "
            f"{strength:g}"
        )
    shape = (num, *model.image_shape)
    if start is not None and np.shape(start) != shape:
        raise InputError(f"start must have shape {shape}, got {np.shape(start)}")
    if mask is not None and strength is None:
        raise InputError("mask must be None without strength, got an array")
    if mask is not None and np.shape(mask) != (*shape[:3], 1):
        raise InputError(
            f"mask must have shape {(*shape[:3], 1)}, got {np.shape(mask)}"
        )
    draw = Draw(
        model, sampler.spacing, guided, sampling.clip, keep_eps, every, strength
    )
    numbers = sampler.rule()
    weights = (sampling.guidance, sampling.image_guidance)
    limits = (sampling.clip_range, sampling.clip_quantile)
    shared = (
        params, *jax.tree.map(np.float32, (weights, numbers, *limits))
    )  # fmt: skip
    indices = np.arange(num) if indices is None else indices
    seeds = np.broadcast_to(np.asarray(seed, np.uint32), (num,))
    batch = (seeds, indices, jax.tree.map(np.asarray, condition), base, start, mask)
    parallel = parallel or Pmap()
    images = parallel.chunks(
        map_by_value(parallel, draw), shared, batch, sampling.chunk, on_chunk
    )
    bad = np.flatnonzero(~np.isfinite(images).reshape(num, -1).all(axis=1))
    if bad.size:
        raise NonFiniteSamples(
            f"samples must be finite, got NaN or infinity in {bad.size} of {num} "
            f"images, the first of index {indices[bad[0]]}. Take more sampling steps "
            "or a smaller guidance weight, or clip x_0 (sampling.clip).",
            images,
        )
    return images
