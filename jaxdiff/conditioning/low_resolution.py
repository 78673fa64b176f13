"""Condition of super-resolution: the image, made small, noised and enlarged again.

(1)  y = A x_0                   means over factor x factor pixels
(2)  y_s = alpha_s y + sigma_s e,   alpha_s = cos(pi s / 2),  sigma_s = sin(pi s / 2)
(3)  c = B y_s                   bicubic enlargement to the size of x_0

The network gets c beside x_t, and the level s. In training, s is uniform from 0
to `augmentation`: Gaussian conditioning augmentation (Ho et al. 2022, "Cascaded
Diffusion Models", section 4.2), which makes the network robust to the faults of the
model that draws the small images of a cascade. (2) is the forward process of the cosine
schedule. A of (1) is the operator `inverse_problems.downsample`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Interval

from jaxdiff import rng
from jaxdiff.checks import Checked
from jaxdiff.denoisers.inverse_problems import downsample
from jaxdiff.errors import InputError
from jaxdiff.typing import Array, Batch, Condition, Key, Level

PARTS = ("image", "image_level")
"""Parts of a condition that super-resolution gives to the network."""


@dataclass(frozen=True, kw_only=True)
class LowResolution(Checked):
    """Networks get the image made small, and enlarge it: super-resolution."""

    factor: Annotated[int, Ge(2)] = 2
    """Height and width of the images, in those of the small ones."""
    augmentation: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """Largest level of the noise that training adds to the small images, from 0 (none)
    to 1 (noise alone)."""

    def small_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the small image of an image of this shape.

        Raises:
            InputError: the factor does not divide the image's size.
        """
        height, width, *channels = image_shape
        if height % self.factor or width % self.factor:
            raise InputError(
                f"condition.factor must divide the images' {height}x{width} pixels, "
                f"got {self.factor}. Choose another factor or --data.size."
            )
        return height // self.factor, width // self.factor, *channels

    def reduced(self, images: Array) -> Array:
        """Returns small images of images [batch, ...], equation (1)."""
        return downsample(self.factor)(images)

    def enlarged(self, small: Array) -> Array:
        """Returns images of the full size from small ones, equation (3)."""
        batch, height, width, channels = small.shape
        shape = (batch, height * self.factor, width * self.factor, channels)
        return jax.image.resize(small, shape, "cubic")

    def condition(self, small: Array, levels: Array, noise: Array) -> Condition:
        """Returns the condition of small images, equations (2) and (3).

        Args:
            small: small images [batch, height, width, channels].
            levels: levels s of the noise in [0, 1], float [batch].
            noise: standard Gaussian noise, of the shape of small.

        Returns:
            A condition with the parts `image` and `image_level`.
        """
        alpha, sigma = augmentation_level(levels).scales(small)
        image = self.enlarged(alpha * small + sigma * noise)
        return Condition(image=image, image_level=levels)

    def drawn(self, images: Array, keys: Key) -> Condition:
        """Returns the conditions of a training step.

        Args:
            images: images [batch, height, width, channels].
            keys: one key per example [batch].
        """
        small = self.reduced(images)
        levels = self.augmentation * rng.uniform(rng.fold(keys, 0))
        noise = rng.normal(rng.fold(keys, 1), small.shape[1:])
        return self.condition(small, levels, noise)

    def with_condition(self, batch: Batch, keys: Key) -> Batch:
        """Returns a batch with these conditions beside its own; see `drawn`."""
        drawn = self.drawn(jnp.asarray(batch.images), keys)
        given = Condition.of(batch.condition)
        changes = {name: getattr(drawn, name) for name in PARTS}
        return batch._replace(condition=given._replace(**changes))

    def network_options(self, network: Any, channels: int) -> dict[str, Any]:
        """Returns the options of a network that takes the condition, by name.

        Args:
            network: options of the network.
            channels: number of channels of the images.

        Raises:
            InputError: the network already takes another image.
        """
        if network.condition_channels not in (0, channels):
            raise InputError(
                "network.condition_channels must be that of the small images, "
                f"{channels}, for the condition low-resolution, got "
                f"{network.condition_channels}. Leave it out."
            )
        return {"condition_channels": channels, "image_level": True}


def augmentation_level(s: Array) -> Level:
    """Returns the level of equation (2) at s in [0, 1]."""
    angle = math.pi / 2 * s
    return Level(s, jnp.cos(angle), jnp.sin(angle))
