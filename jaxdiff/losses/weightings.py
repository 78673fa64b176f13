"""Weightings: the weight of each noise level's loss.

The simple loss takes the mean squared error of the network's own output. Any other
weighting is a weight w on the error of x_0. It is a function of the signal-to-noise
ratio alone, for any prediction (Kingma & Gao 2023, section 2):

    (1)  L = w(SNR) || x_0 - x_0-hat ||^2 / D,      SNR = alpha^2 / sigma^2

Every prediction can therefore train the same objective. The error of x_0 is sigma /
alpha times the error of eps. A weight w on eps's error is therefore w SNR on x_0's. The
objective's `times` choose the density of the times, which no weight here contains.
"""

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import jax.numpy as jnp
from annotated_types import Gt

from jaxdiff.checks import Checked
from jaxdiff.denoisers.predictions import Prediction
from jaxdiff.schedules.forward import snr
from jaxdiff.typing import Array, Level


@dataclass(frozen=True, kw_only=True)
class Weighting(Checked):
    """Base of the weightings. A member defines `x_0_weight`."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        raise NotImplementedError

    def output_weight(self, prediction: Prediction, level: Level) -> Array:
        """Returns the weight of the output's squared error, of the level's shape."""
        return self.x_0_weight(snr(level)) * prediction.x0_error_scale(level) ** 2


@dataclass(frozen=True, kw_only=True)
class Uniform(Weighting):
    """Weight 1 on the network's own output: L_simple (Ho et al. 2020, equation 14)."""

    def output_weight(self, prediction: Prediction, level: Level) -> Array:
        """Returns the weight of the output's squared error, of the level's shape."""
        return jnp.ones_like(level.sigma)


@dataclass(frozen=True, kw_only=True)
class UniformX0(Weighting):
    """Weight 1 on x_0's error, for any prediction."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        return jnp.ones_like(snr)


@dataclass(frozen=True, kw_only=True)
class UniformEps(Weighting):
    """Weight 1 on eps's error, for any prediction: SNR on x_0's error."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        return snr


@dataclass(frozen=True, kw_only=True)
class SNRPlusOne(Weighting):
    """Weight SNR + 1 (Salimans & Ho 2022, section 4): 1 on v's error."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        return snr + 1


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """Weight min(SNR, gamma) (Hang et al. 2023, section 3.3)."""

    gamma: Annotated[float, Gt(0)] = 5.0
    """SNR above which the weight is constant, above 0."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        return jnp.minimum(snr, self.gamma)


@dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    """Weight SNR / (k + SNR)^gamma (Choi et al. 2022, eq. 8).

    The weight is smaller for the finest noise.
    """

    k: Annotated[float, Gt(0)] = 1.0
    """Number added to the SNR in the denominator, above 0."""
    gamma: float = 1.0
    """Strength with which fine noise is weighted down; 0 gives `UniformEps`."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True, kw_only=True)
class SigmoidWeighting(Weighting):
    """Weight sigmoid(bias - log SNR) on eps's error (Kingma & Gao 2023, section 5)."""

    bias: float = 2.0
    """Log-SNR at which the weight of eps's error is half of its maximum."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        return snr / (1 + snr * jnp.exp(-self.bias))


@dataclass(frozen=True, kw_only=True)
class EDMWeighting(Weighting):
    """Weight SNR + 1 / d^2 = (sigma^2 + d^2) / (sigma d)^2.

    The weight is from Karras et al. 2022, table 1. With the `EDM` prediction it is 1 on
    the network's own output.
    """

    data_deviation: Annotated[float, Gt(0)] = 0.5
    """Standard deviation d of the data (sigma_data), above 0."""

    def x_0_weight(self, snr: Array) -> Array:
        """Returns the weight of x_0's squared error, of the shape of the SNR."""
        return snr + 1 / self.data_deviation**2


WeightingOptions: TypeAlias = (
    Uniform
    | UniformX0
    | UniformEps
    | SNRPlusOne
    | MinSNR
    | P2
    | SigmoidWeighting
    | EDMWeighting
)
