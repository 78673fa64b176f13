"""Autoencoder bound to its parameters: images to latents of unit variance, and back."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.errors import InputError
from jaxdiff.latents.tiles import tiled
from jaxdiff.networks.autoencoder_kl import LatentScaling
from jaxdiff.typing import Array, ArrayLike, Images, Key, Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Autoencoder:
    """Autoencoder with its parameters; a pytree.

    Attributes:
        params: parameters.
        network: Flax module `AutoencoderKL` or `AutoencoderTiny`.
    """

    params: Params
    network: Any = field(metadata={"static": True})

    @property
    def factor(self) -> int:
        """Ratio of the sizes of image and latents."""
        return int(self.network.config.factor)

    @property
    def scaling(self) -> LatentScaling:
        """Map from the encoder's output to latents."""
        found: LatentScaling = self.network.config.scaling
        return found

    def moments(self, images: Images) -> tuple[Array, Array | None]:
        """Returns mean and deviation of the latents, each [batch, h, w, channels].

        The deviation is None for an autoencoder without variance.

        Args:
            images: images [batch, height, width, channels] in [-1, 1]; the sizes are
                multiples of `factor`.

        Raises:
            InputError: the images have another shape.
        """
        self._check(images, self.network.config.image_channels, self.factor)
        return _moments(self, images)

    def encode(
        self, images: Images, key: Key | None = None, indices: Array | None = None
    ) -> Array:
        """Returns latents of images: their mean, or a sample.

        Args:
            images: images [batch, height, width, channels] in [-1, 1].
            key: PRNG key of a sample; None for the mean. The sample of image i depends
                on (key, indices[i]) alone.
            indices: integers [batch]; 0, 1, ... by default.

        Raises:
            InputError: the images have another shape.
        """
        mean, deviation = self.moments(images)
        if key is None or deviation is None:
            return mean
        indices = jnp.arange(len(images)) if indices is None else indices
        noise = rng.normal(rng.example_keys(key, indices), mean.shape[1:])
        return mean + deviation * noise

    def decode(self, latents: Array) -> Images:
        """Returns images of latents, float32, about in [-1, 1].

        Args:
            latents: latents [batch, h, w, channels].

        Raises:
            InputError: the latents have another shape.
        """
        self._check(latents, self.network.config.latent_channels, 1)
        return _decode(self, latents)

    def encode_tiled(
        self, images: ArrayLike, tile: int = 512, overlap: int = 128
    ) -> np.ndarray:
        """Returns the means of the latents of large images, encoded tile by tile.

        The normalisations then see a tile, not the whole: seams are blended, and
        colours may shift slightly.

        Args:
            images: images [batch, height, width, channels] in [-1, 1].
            tile: side of a tile, a multiple of `factor`.
            overlap: pixels that tiles share, a multiple of `factor`.

        Raises:
            InputError: tile or overlap are no multiples, or a shape does not match.
        """
        for name, value in (("tile", tile), ("overlap", overlap)):
            if value % self.factor:
                raise InputError(
                    f"{name} must be a multiple of {self.factor}, got {value}"
                )
        self._check(images, self.network.config.image_channels, self.factor)
        return tiled(self.encode, images, tile, overlap, multiple=self.factor)

    def decode_tiled(
        self, latents: ArrayLike, tile: int = 64, overlap: int = 16
    ) -> np.ndarray:
        """Returns images of large latents, decoded tile by tile; see `encode_tiled`.

        Args:
            latents: latents [batch, h, w, channels].
            tile: side of a tile in latents.
            overlap: latents that tiles share.

        Raises:
            InputError: a shape does not match.
        """
        self._check(latents, self.network.config.latent_channels, 1)
        return tiled(self.decode, latents, tile, overlap)

    def _check(self, x: ArrayLike, channels: int, multiple: int) -> None:
        name = "images" if multiple > 1 else "latents"
        if x.ndim != 4 or x.shape[-1] != channels:
            raise InputError(
                f"{name} must be [batch, height, width, {channels}], got shape "
                f"{x.shape}"
            )
        if any(size % multiple or not size for size in x.shape[1:3]):
            raise InputError(
                f"height and width must be multiples of {multiple}, got "
                f"{x.shape[1]} and {x.shape[2]}. Crop or resize the images."
            )


@jax.jit
def _moments(autoencoder: Autoencoder, images: Images) -> tuple[Array, Array | None]:
    scaling = autoencoder.scaling
    mean, log_variance = autoencoder.network.apply(
        {"params": autoencoder.params}, images, method="encode"
    )
    if log_variance is None:
        return scaling.forward(mean), None
    deviation = jnp.exp(log_variance / 2)
    # The map is affine: a deviation is scaled like a difference.
    scaled = scaling.forward(deviation) - scaling.forward(jnp.zeros_like(deviation))
    return scaling.forward(mean), scaled


@jax.jit
def _decode(autoencoder: Autoencoder, latents: Array) -> Images:
    output = autoencoder.scaling.inverse(latents)
    found: Images = autoencoder.network.apply(
        {"params": autoencoder.params}, output, method="decode"
    )
    return found
