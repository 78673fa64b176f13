"""Text encoder inside a network, which is trained with it.

In training, such a network is given tokens and encodes them. In sampling, it may be
given the encoded text instead, so that a text is encoded once and not in every step.
"""

from dataclasses import dataclass, field, fields

import jax.numpy as jnp

from jaxdiff.errors import InputError
from jaxdiff.networks.text_transformer import (
    NoText,
    TextOptions,
    TextTransformer,
    TextTransformerConfig,
)
from jaxdiff.typing import Condition

ENCODER = "text_encoder"
"""Name of the text encoder's parameters."""


@dataclass(frozen=True, kw_only=True)
class OwnTextConfig:
    """Options of a network that may have a text encoder of its own."""

    text: TextOptions = field(default_factory=NoText)
    """Text encoder that is trained with the network, from captions: none, or a
    transformer, whose width is then the number of features of a token."""

    @property
    def own_text(self) -> TextTransformerConfig | None:
        """Options of the text encoder inside the network; None for none."""
        return self.text if isinstance(self.text, TextTransformerConfig) else None

    @property
    def token_channels(self) -> int | None:
        """Number of features of a text's tokens; None for a network without text."""
        if self.own_text is not None:
            return self.own_text.width
        channels: int | None = getattr(self, "text_channels", None)
        return channels

    @property
    def takes_text(self) -> bool:
        """True if the network needs a text."""
        return self.token_channels is not None

    def text_parts(self, vector: bool) -> tuple[str, ...]:
        """Returns the names of the parts of a text besides those that are needed.

        Args:
            vector: if True, the network takes the vector of its own text encoder.
        """
        if self.own_text is None:
            return ("mask",) * self.takes_text
        return ("tokens", "text", "mask") + ("vector",) * vector

    def check_own_text(self) -> None:
        """Checks the options of a text against a text encoder inside the network.

        Raises:
            InputError: `text_channels` is another number than the encoder's width.
        """
        if self.own_text is None:
            return
        given, width = getattr(self, "text_channels", None), self.own_text.width
        usual = {one.name: one.default for one in fields(self)}["text_channels"]
        if given not in (usual, width):
            raise InputError(
                f"text_channels must be text.width, {width}, for a text encoder inside "
                f"the network, got {given}. Leave it out."
            )


def example_tokens(config: TextTransformerConfig) -> Condition:
    """Returns the tokens of one example, for the initial parameters."""
    tokens = jnp.zeros((1, config.length), jnp.int32)
    return Condition(tokens=tokens, mask=jnp.ones((1, config.length), bool))


def encoded(
    config: TextTransformerConfig | None, condition: Condition, wants_vector: bool
) -> Condition:
    """Returns a condition with the encoded text in place of its tokens.

    A module calls it in its compact method.

    Args:
        config: options of the text encoder; None returns the condition as it is.
        condition: condition with tokens, or with an encoded text.
        wants_vector: if True, the condition gets the text's vector too.

    Raises:
        InputError: the condition has neither tokens nor a text.
    """
    if config is None or condition.text is not None:
        return condition
    if condition.tokens is None:
        raise InputError(
            "tokens or text must be given to a network with a text encoder, got "
            "neither. Give run.text(prompts), or data with captions."
        )
    found = TextTransformer(config, name=ENCODER)(condition.tokens, condition.mask)
    if wants_vector:
        condition = condition._replace(vector=found.vector)
    return condition._replace(text=found.tokens, tokens=None)
