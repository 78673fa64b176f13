"""Requests of the command `sample` to a model of unCLIP: prompts and pictures."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.cli.sampling_request import (
    Request,
    prompts_of,
    refuse,
    repeated,
    row_shares,
    seeds_of,
)
from jaxdiff.conditions import blend_conditions
from jaxdiff.data.image_files import read_image
from jaxdiff.errors import InputError, shown
from jaxdiff.runs.generate import check_num
from jaxdiff.runs.run import Run
from jaxdiff.runs.unclip import UnCLIP, turned
from jaxdiff.samplers.spacing import with_steps
from jaxdiff.training.experiment import Sampling
from jaxdiff.typing import Condition

if TYPE_CHECKING:
    from jaxdiff.cli.sample import SampleOptions

OF_UNCLIP = (
    "like", "from_", "to", "prior", "noise_level", "prior_steps", "prior_guidance",
    "enlarge_steps",
)  # fmt: skip
"""Options of models of unCLIP."""
_OF_OTHERS = (
    "labels", "image", "mask", "image_guidance", "strength", "windows",
)  # fmt: skip
MOST = 0.5
"""Largest share of the angle between a picture and a difference of texts, as in Ramesh
et al. 2022, section 3.3."""


def of_unclip(options: "SampleOptions", run: Run) -> Request:
    """Returns the request of a model of unCLIP, after its vectors are drawn.

    Image i is drawn from the seed + i in all stages, so that it can be drawn alone.

    Raises:
        InputError: there is no prompt and no picture, or an option is out of range.

    Warns:
        UserWarning: it names words of a prompt that are cut off.
    """
    refuse(options, _OF_OTHERS, "for a model of unCLIP")
    if options.seed_like != "jax":
        raise InputError(
            "seed-like must be jax for a model of unCLIP, got torch. Leave it out."
        )
    if options.size is not None:
        if run.unclip.enlarges:
            raise InputError(
                "size must be None for a model that enlarges its images, got "
                f"{' '.join(map(str, options.size))}. Leave it out."
            )
        run = run.resized(*options.size)
    asked = _Asked(options, run)
    vectors, text, words = asked.found()
    condition, base = run.unclip.condition(
        vectors, text, negative=options.negative, seed=asked.seeds,
        noise_level=options.noise_level or 0,
    )  # fmt: skip
    return Request(
        run, asked.num, condition, asked.seeds, base, np.zeros(asked.num, np.int32),
        prompts=words,
    )  # fmt: skip


def finished(
    request: Request, drawn: np.ndarray, options: "SampleOptions"
) -> np.ndarray:
    """Returns the images of what a run has drawn: decoded or enlarged."""
    run = request.run
    if run.parts is None:
        return drawn
    info = run.parts.info
    if info.unclip is None or info.unclip.enlarge is None:
        return run.decode(drawn)
    unclip = run.unclip
    assert isinstance(unclip, UnCLIP), "an imported model"
    sampling = _stepped(
        unclip.enlargement.sampling, options.enlarge_steps, "enlarge_steps"
    )
    return unclip.enlarge(
        drawn, request.seed, sampling=sampling,
        indices=request.indices,
    )  # fmt: skip


class _Asked:
    """Prompts or pictures of a request: vectors, texts, and words for each image."""

    def __init__(self, options: "SampleOptions", run: Run) -> None:
        self.options, self.run = options, run
        differs = options.from_ is not None or options.to is not None
        if differs and None in (options.from_, options.to, options.like):
            raise InputError(
                "from and to must be given together with like, the picture that they "
                "change, got one alone. Give --like, such as --like cat.png."
            )
        row = options.blend is not None or differs
        self.prompts = () if options.like is not None else prompts_of(options)
        ways = [options.like, options.prompt, options.prompts, options.blend]
        if options.like is not None and sum(bool(way) for way in ways) > 1:
            raise InputError(
                "like must not be given together with prompt, prompts or blend. Leave "
                "one out."
            )
        most = options.columns if row else max(len(self.prompts), 1)
        self.num = most if options.num is None else options.num
        check_num(self.num)
        self.seeds = seeds_of(options, self.num)
        self.shares = np.zeros(self.num)
        if row:  # a row shares its noise
            self.shares, rows = row_shares(options, self.num)
            self.seeds = self.seeds[rows]

    def found(self) -> tuple[np.ndarray, Any, tuple[str, ...]]:
        """Returns vectors of the images, texts of the decoder, and words for each."""
        options = self.options
        if options.like is not None:
            return self._like(options.like)
        if options.blend is not None:
            return self._blend(*map(str, options.blend))
        words = tuple(np.resize(np.array(self.prompts, object), self.num))
        return self._drawn(words), list(words), words

    def _like(self, path: Path) -> tuple[np.ndarray, Any, tuple[str, ...]]:
        options, unclip = self.options, self.run.unclip
        vectors = np.repeat(self._picture(path), self.num, 0)
        if options.from_ is None or options.to is None:
            return vectors, "", (f"like {path}",) * self.num
        ends = unclip.text([options.from_, options.to]).vector
        shares = MOST * self.shares
        first, second = (np.repeat(ends[i : i + 1], self.num, 0) for i in (0, 1))
        change = f"{shown(options.from_)} to {shown(options.to)}"
        words = tuple(f"like {path}, {change}, {share:.0%}" for share in shares)
        return turned(vectors, first, second, shares), "", words

    def _blend(
        self, first: str, second: str
    ) -> tuple[np.ndarray, Condition, tuple[str, ...]]:
        ends = []
        for name in (first, second):
            picture = os.path.isfile(name)
            vectors = (
                np.repeat(self._picture(Path(name)), self.num, 0)
                if picture
                else self._drawn((name,) * self.num)
            )
            text = repeated(self._text("" if picture else name), [0] * self.num)
            ends.append((vectors, text))
        (a, text_a), (b, text_b) = ends
        shares = jnp.asarray(self.shares)
        start, end = (Condition(vector=jnp.asarray(v)) for v in (a, b))
        vectors = np.asarray(blend_conditions(start, end, shares).vector)
        text = blend_conditions(text_a, text_b, shares)
        one, two = shown(first), shown(second)
        words = tuple(f"{one} to {two}, {share:.0%}" for share in self.shares)
        return vectors, text, words

    def _text(self, prompt: str) -> Condition:
        """Returns the text of the decoder for one prompt."""
        return self.run.unclip.text_of_decoder(prompt)

    def _picture(self, path: Path) -> np.ndarray:
        """Returns the vector of a picture, [1, features]."""
        unclip = self.run.unclip
        image = read_image(path, unclip.picture_size, unclip.channels)
        return unclip.encode([image / np.float32(127.5) - 1])

    def _drawn(self, prompts: tuple[str, ...]) -> np.ndarray:
        """Returns vectors that the prior draws from a prompt for each image."""
        options, unclip = self.options, self.run.unclip
        sampling = _stepped(unclip.prior.sampling, options.prior_steps, "prior_steps")
        if options.prior_guidance is not None:
            sampling = replace(sampling, guidance=options.prior_guidance)
        return unclip.draw(
            prompts, self.seeds, sampling=sampling,
            indices=np.zeros(self.num, np.int32),
        )  # fmt: skip


def _stepped(sampling: Sampling, steps: int | None, name: str) -> Sampling:
    """Returns a stage's sampling with another number of steps."""
    if steps is not None and steps < 2:
        raise InputError(f"{name} must be at least 2, got {steps}")
    return replace(sampling, sampler=with_steps(sampling.sampler, steps))
