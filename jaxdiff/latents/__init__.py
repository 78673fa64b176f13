"""Latents: images made small by an autoencoder, and back."""

from jaxdiff.latents.autoencoder import Autoencoder as Autoencoder
from jaxdiff.latents.tiles import tiled as tiled
