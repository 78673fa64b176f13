"""Options of every network: the parts of its condition."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import jax.numpy as jnp
from annotated_types import Ge

from jaxdiff.checks import Checked, Share
from jaxdiff.errors import InputError
from jaxdiff.typing import Array


@dataclass(frozen=True, kw_only=True)
class ConditionConfig(Checked):
    """Options of every network: its condition, and what its backward pass stores."""

    label_dropout: Share = 0.1
    """Rate at which training replaces the class by the null class; guidance needs it
    above 0."""
    null_class: bool = True
    """If True, the network has one more class, for "any"."""
    center_input: bool = False
    """If True, the network maps its input x to 2x - 1 first."""
    condition_channels: Annotated[int, Ge(0)] = 0
    """Number of channels of a condition's image, such as a small image to enlarge; the
    network takes them after those of its input."""
    image_level: bool = False
    """If True, the network also takes the level of the noise in that image. Its part of
    the embedding starts at zero."""
    second_time: bool = False
    """If True, the network also takes the time at which a step ends, as a flow map
    does. Its part of the embedding starts at zero."""
    remat: Literal["none", "cheap", "blocks"] = "none"
    """Part of the forward pass that the backward pass recomputes, to save memory: none,
    all except convolutions and matrix products, or whole blocks. (On the CPU, XLA
    undoes this option, except in a compiled loop over blocks.)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_dropout and not self.null_class:
            raise InputError(
                "label_dropout must be 0 if null_class is off, because it uses the "
                f"null class, got {self.label_dropout:g}. Set label_dropout to 0."
            )
        if self.image_level and not self.condition_channels:
            raise InputError(
                "image_level must be off without an image, got on with "
                "condition_channels 0. Set condition_channels."
            )

    @property
    def image_parts(self) -> tuple[str, ...]:
        """Names of the parts of a condition that belong to its image."""
        image = ("image",) * (self.condition_channels > 0)
        return image + ("image_level",) * self.image_level

    def example_image(self, image_shape: tuple[int, ...]) -> dict[str, Array]:
        """Returns these parts for one example, for images of this shape."""
        shape = (1, *image_shape[:2], self.condition_channels)
        parts = {"image": jnp.zeros(shape), "image_level": jnp.zeros(1)}
        return {name: parts[name] for name in self.image_parts}

    def check_null_class(self) -> None:
        """Raises `InputError` if the network cannot be evaluated without labels."""
        if not self.null_class:
            raise InputError(
                "labels must be given, because the network has no null class. Give "
                "labels, and turn guidance off."
            )

    def for_sizes(self, sizes: Sequence[tuple[int, int]]) -> Self:
        """Returns the options with which one network takes images of these sizes.

        Args:
            sizes: heights and widths; the options are for the first.

        Raises:
            InputError: the network has parameters for images of one size.
        """
        return self
