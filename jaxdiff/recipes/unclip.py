"""Decoder of unCLIP from nothing: images from the vector of an image.

    jaxdiff train-towers emoji --workdir runs/towers
    jaxdiff train-prior emoji --towers runs/towers --workdir runs/prior
    jaxdiff train unclip --condition.towers runs/towers
    jaxdiff sample unclip --prior runs/prior --prompt "cat face"
    jaxdiff sample unclip --like picture.png --num 8

The way of DALL-E 2 (Ramesh et al. 2022) on OpenMoji's 32x32 pictures: towers of images
and texts in place of CLIP, a prior from a text to an image's vector, and this decoder
from the vector to the image. The U-Net is that of the recipe `emoji`, without text.

`experiments/unclip.py` runs the whole chain, with an enlargement to 64x64.
"""

from dataclasses import replace

from jaxdiff.conditioning.image_condition import ImageVector
from jaxdiff.networks import CrossAttentionUNetConfig
from jaxdiff.networks.text_transformer import NoText
from jaxdiff.recipes import emoji

_NETWORK = emoji.CONFIG.network
assert isinstance(_NETWORK, CrossAttentionUNetConfig), "the U-Net with a text encoder"
CONFIG = replace(
    emoji.CONFIG,
    condition=ImageVector(),
    network=replace(_NETWORK, text=NoText(), text_channels=None),
    upkeep=replace(emoji.CONFIG.upkeep, sample_prompts=()),
    sampling=replace(emoji.CONFIG.sampling, guidance=2.0),
)
