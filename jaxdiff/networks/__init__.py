"""Networks, as Flax modules; no other part of the package imports Flax."""

from typing import TypeAlias

from jaxdiff.networks.ncsnpp import NCSNpp as NCSNpp
from jaxdiff.networks.ncsnpp import NCSNppConfig as NCSNppConfig
from jaxdiff.networks.time_embedding import Fourier as Fourier
from jaxdiff.networks.time_embedding import Sinusoids as Sinusoids
from jaxdiff.networks.time_embedding import timestep_embedding as timestep_embedding
from jaxdiff.networks.unet import UNet as UNet
from jaxdiff.networks.unet import UNetConfig as UNetConfig

NetworkOptions: TypeAlias = UNetConfig | NCSNppConfig
