"""Prompts of one model: the texts of all its encoders as one condition.

Stable Diffusion has one text encoder. Stable Diffusion XL joins the tokens of two along
their features, and takes the second one's vector and six numbers: height and width of
the original, top and left of the crop, height and width of the image (Podell et al.
2023, section 2.2). Its refiner takes the second encoder alone, and a score of beauty in
place of the last two numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.text_encoder import TextEncoder
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, Condition

Numbers: TypeAlias = Literal["none", "sizes", "score"]
SCORE, NEGATIVE_SCORE = 6.0, 2.5
"""Scores that the refiner is given for a prompt, and for a negative prompt."""


@dataclass(frozen=True)
class Prompts:
    """Text encoders of one model, and what its condition holds besides their tokens.

    Attributes:
        encoders: text encoders; their tokens are joined along the features.
        pooled: if True, the condition has the vector of the last encoder.
        numbers: further numbers of the condition: none; "sizes", Stable Diffusion XL's
            six; or "score", its refiner's five.
        zeros: if True, an absent negative prompt is all zeros, not an empty text.

    Raises:
        InputError: there is no encoder, or their texts have different lengths.
    """

    encoders: tuple[TextEncoder, ...]
    pooled: bool = False
    numbers: Numbers = "none"
    zeros: bool = False

    def __post_init__(self) -> None:
        lengths = {encoder.tokenizer.length for encoder in self.encoders}
        if len(lengths) != 1:
            raise InputError(
                "encoders must have texts of one length, got "
                f"{', '.join(map(str, sorted(lengths))) or 'none'}"
            )

    def __call__(
        self,
        texts: str | Sequence[str],
        size: tuple[int, int],
        *,
        windows: bool = False,
        quiet: bool = False,
    ) -> Condition:
        """Returns the condition of prompts, one image each.

        Args:
            texts: prompts, or a single one.
            size: height and width of the images, in pixels.
            windows: if True, a long prompt is encoded in windows, not cut; see
                `TextEncoder`.
            quiet: if True, a long prompt is cut without a warning.

        Raises:
            InputError: a prompt is not a valid string.

        Warns:
            UserWarning: it names words that are cut off.
        """
        return self._condition(texts, size, windows, SCORE, quiet)

    def negative(
        self,
        condition: Condition,
        texts: str | Sequence[str] | None,
        size: tuple[int, int],
    ) -> Condition:
        """Returns the condition that guidance leads away from.

        Args:
            condition: condition of the prompts.
            texts: negative prompts, a single one for all images, or None for none.
            size: height and width of the images, in pixels.

        Raises:
            InputError: the number of negative prompts is not that of the images; or one
                is longer than the prompts, or is not a valid string.

        Warns:
            UserWarning: it names words that are cut off.
        """
        num, tokens = condition.text.shape[:2]
        if texts is None and self.zeros:
            numbers = self._numbers(num, size, NEGATIVE_SCORE)
            vector = condition.vector
            vector = None if vector is None else jnp.zeros_like(vector)
            text = jnp.zeros_like(condition.text)
            return Condition(
                text=text, mask=condition.mask, vector=vector, numbers=numbers
            )
        texts = [texts or ""] if isinstance(texts, str | None) else list(texts)
        if len(texts) not in (1, num):
            raise InputError(
                f"negative prompts must be 1 or {num}, one per image, got {len(texts)}"
            )
        count = tokens // self.encoders[0].tokenizer.length
        found = self._condition(texts, size, count > 1, NEGATIVE_SCORE)
        if found.text.shape[1] > tokens:
            raise InputError(
                f"the negative prompt must have at most the {count} windows of the "
                f"longest prompt, got {found.text.shape[1] * count // tokens}. "
                "Shorten it."
            )
        rest = count - found.text.shape[1] * count // tokens
        if rest:
            empty = self._condition([""] * len(texts), size, False, NEGATIVE_SCORE)
            parts = [found, *[empty] * rest]
            text = jnp.concatenate([part.text for part in parts], 1)
            mask = found.mask
            if mask is not None:
                mask = jnp.concatenate([part.mask for part in parts], 1)
            found = found._replace(text=text, mask=mask)
        rows = np.resize(np.arange(len(texts)), num)
        return Condition(*(None if part is None else part[rows] for part in found))

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Returns the texts that are too long for one of the encoders."""
        tokenizers = [encoder.tokenizer for encoder in self.encoders]
        return [
            text
            for text in texts
            if any(len(t.windows(text).ids) > 1 for t in tokenizers)
        ]

    def _condition(
        self,
        texts: str | Sequence[str],
        size: tuple[int, int],
        windows: bool,
        score: float,
        quiet: bool = False,
    ) -> Condition:
        texts = [texts] if isinstance(texts, str) else list(texts)
        found = [
            encoder(texts, windows=windows, quiet=quiet) for encoder in self.encoders
        ]
        # Two vocabularies may split one text into different numbers of windows.
        if len({one.text.shape[1] for one in found}) > 1:
            raise InputError(
                "the text encoders must split a prompt into equally many windows, got "
                f"{' and '.join(str(one.text.shape[1]) for one in found)} tokens. "
                "Shorten it."
            )
        return Condition(
            text=jnp.concatenate([one.text for one in found], -1),
            mask=found[0].mask,
            vector=found[-1].vector if self.pooled else None,
            numbers=self._numbers(len(texts), size, score),
        )

    def _numbers(self, num: int, size: tuple[int, int], score: float) -> Array | None:
        """Returns the numbers [num, numbers] of the condition."""
        if self.numbers == "none":
            return None
        last = size if self.numbers == "sizes" else (score,)
        return jnp.asarray(np.tile([*size, 0, 0, *last], (num, 1)), jnp.float32)
