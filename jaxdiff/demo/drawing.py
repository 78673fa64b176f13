"""Pictures of a trained model while they form, for the page."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.conditions import blend_conditions
from jaxdiff.data import to_uint8
from jaxdiff.denoisers.inverse_problems import (
    given_measurement,
    masked,
    with_known_part,
)
from jaxdiff.denoisers.thresholding import clip_x0
from jaxdiff.errors import InputError
from jaxdiff.runs.generate import is_guided, keeps_eps, with_scale
from jaxdiff.runs.run import Run
from jaxdiff.samplers import (
    DDIM,
    SamplerOptions,
    blend_labels,
    interpolate,
    sample_steps,
)
from jaxdiff.samplers.editing import noised
from jaxdiff.samplers.spacing import with_steps
from jaxdiff.schedules.forward import q_sample
from jaxdiff.serialization import option_name, union_members
from jaxdiff.training.experiment import Sampling
from jaxdiff.typing import Array, Condition, Denoiser, Level

FRAMES = 24
"""Largest number of pictures of a sampling loop in pixels."""
FRAMES_OF_LATENTS = 4
"""The same of latents, since each is decoded."""
ITERATIONS = 5
"""Iterations per step that fit a picture to its known part."""
KNOWN = 0.02
"""Deviation of the known part of a repainted picture, in [-1, 1]."""
SAMPLERS = {option_name(one): one for one in union_members(SamplerOptions)}
"""Samplers by name."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of every drawing."""

    sampler: str
    """Sampler by name; the run's own keeps its options."""
    steps: int
    """Number of steps."""
    guidance: float
    """Guidance scale; 1 for none."""
    seed: int
    """Seed of the noise."""

    def sampling(self, run: Run) -> Sampling:
        """Returns the sampling options of a run with these settings."""
        own = run.experiment.sampling
        sampler = own.sampler
        if self.sampler != option_name(type(sampler)):
            sampler = SAMPLERS[self.sampler]()
        sampler = with_steps(sampler, int(self.steps))
        return replace(own, sampler=sampler, guidance=float(self.guidance))


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Pictures to draw.

    Attributes:
        condition: classes [num], shares of classes, the condition of prompts, or None.
        num: number of pictures.
        base: condition that guidance leads away from; None for the usual.
        alike: if True, all pictures start from the same noise.
        image: picture to change, float [height, width, channels] in [-1, 1].
        strength: share of the steps that change it, in (0, 1]; None with a mask.
        mask: bool [height, width], True where the picture is repainted.
    """

    condition: Condition | np.ndarray | None
    num: int
    base: Condition | None = None
    alike: bool = False
    image: np.ndarray | None = None
    strength: float | None = None
    mask: np.ndarray | None = None


def wish_for(run: Run, chosen: str | int | None, num: int, negative: str = "") -> Wish:
    """Returns the wish for pictures of a prompt or of a class.

    Args:
        run: trained model.
        chosen: prompt of a model of text, or class; None for all classes in turn.
        num: number of pictures.
        negative: negative prompt; empty for none.
    """
    if run.takes_prompts:
        condition = run.text([str(chosen or "")] * num)
        base = run.negative(condition, negative or None)
        return Wish(condition=condition, num=num, base=base)
    classes = run.info.num_classes
    if classes is None:
        return Wish(condition=None, num=num)
    labels = np.arange(num) % classes if chosen is None else np.full(num, chosen)
    return Wish(condition=labels.astype(np.int32), num=num)


def blend_of(run: Run, first: str | int, second: str | int, num: int) -> Wish:
    """Returns the wish for pictures from one prompt or class to another."""
    shares = jnp.linspace(0.0, 1.0, num)
    if run.takes_prompts:
        ends = [run.text([str(one)] * num) for one in (first, second)]
        condition = blend_conditions(ends[0], ends[1], shares)
        return Wish(
            condition=condition, num=num, base=run.negative(condition), alike=True
        )
    start, end = (np.full(num, one, np.int32) for one in (first, second))
    labels = blend_labels(start, end, shares, run.info.num_classes or 0)
    return Wish(condition=np.asarray(labels), num=num, alike=True)


def draw(run: Run, settings: Settings, wish: Wish) -> Iterator[np.ndarray]:
    """Yields the pictures while they form; the last ones are the result.

    Yields:
        Pictures, uint8 [num, height, width, channels].

    Raises:
        InputError: a setting does not fit the run.
    """
    sampling = settings.sampling(run)
    condition = Condition.of(wish.condition)
    run.check_request(condition, wish.num, settings.seed, sampling)
    image = None if wish.image is None else _inner(run, wish.image)
    inputs = "none" if run.parts is None else run.parts.info.inputs
    if inputs != "none":
        if wish.image is None:
            raise InputError(
                "the picture must be given for a model that changes pictures, got "
                "none. Use the tabs Change and Repaint."
            )
        condition = run.with_image(condition, wish.image, wish.mask)
        image = None
    denoiser = _denoiser(run, sampling, condition, wish)
    keep = None
    if image is not None and wish.mask is not None:
        keep = _kept(run, wish.mask)
        denoiser = _known(run, denoiser, image, keep)
    yield from _formed(run, settings, sampling, denoiser, wish, image, keep is not None)


def _formed(
    run: Run,
    settings: Settings,
    sampling: Sampling,
    denoiser: Denoiser,
    wish: Wish,
    image: Array | None,
    repaints: bool,
) -> Iterator[np.ndarray]:
    """Yields the pictures of a sampling loop."""
    shape = (wish.num, *run.model.image_shape)
    seeds = jnp.full(wish.num, settings.seed, jnp.uint32)
    keys = jax.vmap(rng.key)(seeds)
    indices = jnp.zeros(wish.num, int) if wish.alike else jnp.arange(wish.num)
    start, levels = None, None
    if image is not None and not repaints:
        images = jnp.broadcast_to(image, shape)
        start, levels = noised(
            sampling.sampler, run.schedule, keys, images, wish.strength or 0.8, indices
        )
    loop = sample_steps(
        denoiser, sampling.sampler, run.schedule, keys, shape,
        indices=indices, x_T=start, levels=levels,
    )  # fmt: skip
    grid = sampling.sampler.grid(run.schedule) if levels is None else levels
    num_steps = grid.alpha.shape[0] - 1
    frames = FRAMES if run.parts is None else FRAMES_OF_LATENTS
    every = -(-num_steps // frames)
    for place, (x, level) in enumerate(loop):
        if (num_steps - place) % every == 0:
            pictures = _pictures(run, x, level)
            if place == num_steps and wish.mask is not None:
                assert wish.image is not None, "a mask has a picture"
                mask = wish.mask[..., None]
                pictures = np.where(mask, pictures, to_uint8(wish.image))
            yield pictures


def blend_pictures(
    run: Run, settings: Settings, first: np.ndarray, second: np.ndarray, num: int
) -> np.ndarray:
    """Returns pictures from one to another, uint8 [num, height, width, channels].

    Their noises by the probability-flow ODE are blended, with DDIM.
    """
    settings = replace(settings, sampler=option_name(DDIM), guidance=1.0)
    sampling = replace(settings.sampling(run), clip=False)
    classes = run.info.num_classes
    wish = Wish(condition=None, num=num)
    condition = Condition()
    if run.takes_prompts:
        condition = run.text([""] * num)
    elif classes:
        condition = Condition.of(np.full((num, classes), 1 / classes, np.float32))
    run.check_request(condition, num, settings.seed, sampling)
    denoiser = _denoiser(run, sampling, condition, wish)
    shape = (num, *run.model.image_shape)
    start, end = (jnp.broadcast_to(_inner(run, x), shape) for x in (first, second))
    shares = jnp.linspace(0.0, 1.0, num)
    found = interpolate(denoiser, sampling.sampler, run.schedule, start, end, shares)
    return to_uint8(_outer(run, found))


def noisy(run: Run, image: np.ndarray, share: float, seed: int) -> tuple[Any, str]:
    """Returns a picture at a time of the forward process, and words on it.

    Args:
        run: trained model.
        image: picture, float [height, width, channels] in [-1, 1].
        share: time as a share of the last time, in [0, 1].
        seed: seed of the noise.
    """
    times = run.schedule.times
    t = times[round(share * (len(times) - 1))]
    clean = _inner(run, image)[None]
    noise = jax.random.normal(rng.key(seed), clean.shape)
    level = run.schedule.level(t)
    x_t = q_sample(run.schedule, clean, t, noise)
    words = f"t = {float(t):g}: {float(level.alpha):.3f} of the picture plus "
    words += f"{float(level.sigma):.3f} of the noise"
    return _pictures(run, x_t, level)[0], words


def _denoiser(
    run: Run, sampling: Sampling, condition: Condition, wish: Wish
) -> Denoiser:
    """Returns the denoiser of a run; its numbers are arguments of compiled steps."""
    network = run.network
    condition = with_scale(condition, network, sampling, wish.num)
    condition = jax.tree.map(jnp.asarray, condition)
    guided = is_guided(network, sampling)

    def number(value: float | None) -> Array | None:
        return None if value is None else jnp.float32(value)

    return run.model.sampling_denoiser(
        run.params, condition,
        guidance=number(sampling.guidance) if guided else None,
        image_guidance=number(sampling.image_guidance) if guided else None,
        base=wish.base, clip=sampling.clip and wish.mask is None,
        clip_range=number(sampling.clip_range),
        clip_quantile=number(sampling.clip_quantile),
        keep_eps=keeps_eps(sampling),
    )  # fmt: skip


def _known(run: Run, denoiser: Denoiser, image: Array, keep: Array) -> Denoiser:
    """Returns the denoiser of pictures whose kept part is known.

    In pixels it has the closed form for Gaussian data. The networks of latents are too
    large for its derivatives, and the known part is put in its place.
    """
    if run.parts is not None:
        return with_known_part(denoiser, image[None], 1 - keep)
    known = (keep * image)[None]
    given = given_measurement(
        denoiser, masked(keep), known, jnp.float32(KNOWN), iterations=ITERATIONS
    )
    limits = run.model.data_range
    return given if limits is None else clip_x0(given, *limits)


def _kept(run: Run, mask: np.ndarray) -> Array:
    """Returns 1 where nothing is repainted, at the size of the network's images."""
    height, width, _ = run.model.image_shape
    blocks = mask.reshape(height, mask.shape[0] // height, width, -1)
    return jnp.asarray(~blocks.any(axis=(1, 3)), jnp.float32)[..., None]


def _inner(run: Run, image: np.ndarray) -> Array:
    """Returns a picture as the network sees it: pixels, or latents."""
    return jnp.asarray(image if run.parts is None else run.encode(image[None])[0])


def _outer(run: Run, x: Array) -> np.ndarray:
    """Returns the pictures of pixels or latents."""
    return np.asarray(x) if run.parts is None else run.decode(np.asarray(x))


def _pictures(run: Run, x: Array, level: Level) -> np.ndarray:
    """Returns a state of the loop as pictures, scaled to the spread of data."""
    spread = max(1.0, float(jnp.hypot(level.alpha, level.sigma)))
    return to_uint8(_outer(run, x / spread))
