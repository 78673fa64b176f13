"""Networks, as Flax modules; no other part of the package imports Flax."""

from typing import TypeAlias

from jaxdiff.networks.autoencoder_kl import AutoencoderKLConfig as AutoencoderKLConfig
from jaxdiff.networks.autoencoder_tiny import (
    AutoencoderTinyConfig as AutoencoderTinyConfig,
)
from jaxdiff.networks.bert import BERTConfig as BERTConfig
from jaxdiff.networks.clip import CLIPTextConfig as CLIPTextConfig
from jaxdiff.networks.clip import CLIPVisionConfig as CLIPVisionConfig
from jaxdiff.networks.cross_attention_unet import (
    CrossAttentionUNet as CrossAttentionUNet,
)
from jaxdiff.networks.cross_attention_unet_options import (
    CrossAttentionUNetConfig as CrossAttentionUNetConfig,
)
from jaxdiff.networks.dit import DiT as DiT
from jaxdiff.networks.dit_options import DiTConfig as DiTConfig
from jaxdiff.networks.edm2 import EDM2 as EDM2
from jaxdiff.networks.edm2 import EDM2Config as EDM2Config
from jaxdiff.networks.ncsnpp import NCSNpp as NCSNpp
from jaxdiff.networks.ncsnpp import NCSNppConfig as NCSNppConfig
from jaxdiff.networks.prior import PriorConfig as PriorConfig
from jaxdiff.networks.t5 import T5Config as T5Config
from jaxdiff.networks.text_transformer import NoText as NoText
from jaxdiff.networks.text_transformer import (
    TextTransformerConfig as TextTransformerConfig,
)
from jaxdiff.networks.time_embedding import Fourier as Fourier
from jaxdiff.networks.time_embedding import Sinusoids as Sinusoids
from jaxdiff.networks.time_embedding import timestep_embedding as timestep_embedding
from jaxdiff.networks.unclip import UnCLIPProjectionConfig as UnCLIPProjectionConfig
from jaxdiff.networks.unet import UNet as UNet
from jaxdiff.networks.unet import UNetConfig as UNetConfig

LevelOptions: TypeAlias = UNetConfig | NCSNppConfig
"""Networks with DDPM's levels."""
NetworkOptions: TypeAlias = (
    UNetConfig | NCSNppConfig | CrossAttentionUNetConfig | DiTConfig | EDM2Config
)
