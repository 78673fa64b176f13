"""Embeddings of the time, inputs of the U-Net.

(1)  sinusoids  [sin(f_i t) | cos(f_i t)],  f_i = 10000^(-i / (n - shift)), i < n
                                         (Vaswani et al. 2017, section 3.5)
(2)  Fourier    [sin(2 pi f_i log t) | cos(2 pi f_i log t)],  f_i ~ N(0, scale^2)
                                         (Song et al. 2021, appendix C.2 (NCSN++))
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Gt, Lt

from jaxdiff.checks import Checked
from jaxdiff.typing import Array, Timesteps

_PERIOD = 1e4


@dataclass(frozen=True, kw_only=True)
class Sinusoids(Checked):
    """Sinusoids of the time, equation (1)."""

    order: Literal["sin-cos", "cos-sin"] = "sin-cos"
    """Order of the sines and cosines; DDPM has sin-cos."""
    # shift must be below n in equation (1); n is 2 in a network of 4 channels.
    shift: Annotated[float, Lt(2)] = 1.0
    """Shift in equation (1): 1 in DDPM, 0 in Vaswani et al."""

    def layer(self, channels: int) -> Callable[[Timesteps], Array]:
        """Returns the function from times [batch] to float32 [batch, channels]."""
        flip = self.order == "cos-sin"
        return partial(
            timestep_embedding, features=channels, shift=self.shift, flip=flip
        )


@dataclass(frozen=True, kw_only=True)
class Fourier(Checked):
    """Random frequencies of the time's logarithm, equation (2); for times above 0."""

    scale: Annotated[float, Gt(0)] = 16.0
    """Standard deviation of the frequencies, above 0. Training does not change them,
    except by weight decay."""
    divide: bool = False
    """If True, the network's output is divided by the time, as for a score whose time
    is the noise scale."""

    def layer(self, channels: int) -> Callable[[Timesteps], Array]:
        """Returns the module from times [batch] to float32 [batch, 2 channels]."""
        return FourierFeatures(channels, self.scale, name="time_fourier")


TimeEmbedding: TypeAlias = Sinusoids | Fourier


class FourierFeatures(nn.Module):
    """Module of equation (2).

    Attributes:
        count: number of frequencies.
        scale: standard deviation of the frequencies.
    """

    count: int
    scale: float

    @nn.compact
    def __call__(self, t: Timesteps) -> Array:
        """Embeds times [batch] above 0 as float32 [batch, 2 count]."""
        init = nn.initializers.normal(self.scale)
        frequencies = self.param("frequencies", init, (self.count,))
        logarithms = jnp.log(t.astype(jnp.float32))[:, None]
        angles = 2 * math.pi * logarithms * jax.lax.stop_gradient(frequencies)[None, :]
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def timestep_embedding(
    t: Timesteps, features: int, *, shift: float = 1.0, flip: bool = False
) -> Array:
    """Returns sinusoids of the time, equation (1).

    Args:
        t: times [batch], integer or float; embedded in float32.
        features: length of the embedding, even and at least 4.
        shift: shift in equation (1), below features / 2.
        flip: if True, the cosines come first.

    Returns:
        float32 [batch, features].
    """
    half = features // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / (half - shift)
    frequencies = jnp.exp(-math.log(_PERIOD) * exponents)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts[::-1] if flip else parts, axis=-1)
