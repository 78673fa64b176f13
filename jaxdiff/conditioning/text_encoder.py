"""Text encoder bound to its parameters and its tokenizer: texts to a condition."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.tokenizers import Tokenizer, Tokens
from jaxdiff.errors import InputError
from jaxdiff.networks.clip import CLIPText
from jaxdiff.networks.transformer import Encoded
from jaxdiff.typing import Array, Condition, Params


@partial(jax.jit, static_argnames=("network", "masked", "skip", "final_norm"))
def encode(
    network: Any,
    params: Params,
    tokens: Tokens,
    *,
    masked: bool = True,
    skip: int = 0,
    final_norm: bool = True,
) -> Condition:
    """Returns the condition of texts, compiled once per shape.

    Args:
        network: text encoder, such as `CLIPText`, `T5Encoder`, `BERT` or
            `TextTransformer`.
        params: its parameters.
        tokens: tokens of the texts.
        masked: if True, padding is not attended to, and the condition has the mask.
            Stable Diffusion attends to padding.
        skip: number of last blocks of CLIP that the tokens do not pass.
        final_norm: if True, the tokens of CLIP pass its final normalisation.

    Returns:
        Condition with `text`, with `mask` if masked, and with `vector` if the encoder
        has one.
    """
    mask = jnp.asarray(tokens.mask) if masked else None
    options: dict[str, Any] = {}
    if isinstance(network, CLIPText):
        options = {"skip": skip, "final_norm": final_norm}
    elif skip or not final_norm:
        raise InputError(
            f"skip must be 0 and final_norm True for {type(network).__name__}, got "
            f"{skip} and {final_norm}"
        )
    found: Encoded | Array = network.apply(
        {"params": params}, jnp.asarray(tokens.ids), mask, **options
    )
    if isinstance(found, Encoded):
        return Condition(text=found.tokens, mask=mask, vector=found.vector)
    return Condition(text=found, mask=mask)


@dataclass(frozen=True)
class TextEncoder:
    """Text encoder with its parameters and its tokenizer.

    Attributes:
        params: parameters.
        network: Flax module; see `encode`.
        tokenizer: tokenizer of the same model.
        masked: see `encode`.
        skip: see `encode`.
        final_norm: see `encode`.

    Raises:
        InputError: the tokenizer has more tokens than the network, or longer texts.
    """

    params: Params = field(repr=False)
    network: Any
    tokenizer: Tokenizer
    masked: bool = True
    skip: int = 0
    final_norm: bool = True

    def __post_init__(self) -> None:
        config = self.network.config
        if self.tokenizer.vocabulary > config.vocabulary:
            raise InputError(
                f"the tokenizer must have at most {config.vocabulary} tokens, those of "
                f"the text encoder, got {self.tokenizer.vocabulary}. Take the "
                "tokenizer of the same model."
            )
        length = getattr(config, "length", self.tokenizer.length)
        if self.tokenizer.length > length:
            raise InputError(
                f"length must be at most {length}, the text encoder's, got "
                f"{self.tokenizer.length}. Give read_tokenizer this length."
            )

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        windows: bool = False,
        quiet: bool = False,
    ) -> Condition:
        """Returns the condition of texts.

        Args:
            texts: texts, or a single one.
            windows: if True, a long text is not cut: it is encoded in windows, whose
                tokens follow each other. All texts get the number of windows of the
                longest; the vector is that of the first window.
            quiet: if True, long texts are cut without a warning.

        Raises:
            InputError: a text is not a valid string.

        Warns:
            UserWarning: it names words that are cut off.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not windows and not quiet:
            return self._encoded(self.tokenizer(texts))
        parts = [self.tokenizer.windows(text) for text in texts]
        if not windows:
            firsts = (np.stack([a[0] for a in one]) for one in zip(*parts, strict=True))
            return self._encoded(Tokens(*firsts))
        count = max(len(part.ids) for part in parts)
        empty = self.tokenizer.windows("")
        padded = [
            [np.concatenate([one, *[rest] * (count - len(one))]) for one, rest in pair]
            for pair in (zip(part, empty, strict=True) for part in parts)
        ]
        ids, mask = (np.concatenate(arrays) for arrays in zip(*padded, strict=True))
        found = self._encoded(Tokens(ids, mask))
        text, mask_, vector = found.text, found.mask, found.vector
        text = text.reshape(len(texts), -1, text.shape[-1])
        if mask_ is not None:
            mask_ = mask_.reshape(len(texts), -1)
        if vector is not None:
            vector = vector[::count]
        return Condition(text=text, mask=mask_, vector=vector)

    def _encoded(self, tokens: Tokens) -> Condition:
        return encode(
            self.network, self.params, tokens, masked=self.masked, skip=self.skip,
            final_norm=self.final_norm,
        )  # fmt: skip
