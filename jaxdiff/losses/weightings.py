"""Weightings: how much the loss of each noise level counts.

The simple loss takes the mean squared error of the network's own output. Any other
weighting is a weight w on the error of x_0, a function of the signal-to-noise ratio
alone, whatever the network predicts (Kingma & Gao 2023, section 2):

    (1)  L = w(SNR) || x_0 - x_0-hat ||^2 / D,      SNR = alpha^2 / sigma^2

so that one and the same objective can be had with every prediction. Since x_0's error
is sigma / alpha times that of eps, a weight of eps's error times SNR is one of x_0's.
Times are drawn as the objective's `times` say; no weight here contains their density.
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
    """What the weightings share. A member defines `x_0_weight`."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
        raise NotImplementedError

    def output_weight(self, prediction: Prediction, level: Level) -> Array:
        """The weight of the output's squared error, of the level's shape."""
        return self.x_0_weight(snr(level)) * prediction.x0_error_scale(level) ** 2


@dataclass(frozen=True, kw_only=True)
class Uniform(Weighting):
    """1 on the network's own output: L_simple (Ho et al. 2020, equation 14)."""

    def output_weight(self, prediction: Prediction, level: Level) -> Array:
        """The weight of the output's squared error, of the level's shape."""
        return jnp.ones_like(level.sigma)


@dataclass(frozen=True, kw_only=True)
class UniformX0(Weighting):
    """1 on x_0's error, whatever is predicted."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
        return jnp.ones_like(snr)


@dataclass(frozen=True, kw_only=True)
class UniformEps(Weighting):
    """1 on eps's error, whatever is predicted: SNR on x_0's."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
        return snr


@dataclass(frozen=True, kw_only=True)
class SNRPlusOne(Weighting):
    """SNR + 1 (Salimans & Ho 2022, section 4): 1 on v's error."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
        return snr + 1


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    """min(SNR, gamma) (Hang et al. 2023, section 3.3)."""

    gamma: Annotated[float, Gt(0)] = 5.0
    """Where the weight stops growing."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
        return jnp.minimum(snr, self.gamma)


@dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    """SNR / (k + SNR)^gamma: less for the finest noise (Choi et al. 2022, eq. 8)."""

    k: Annotated[float, Gt(0)] = 1.0
    """Added to the SNR in the denominator."""
    gamma: float = 1.0
    """How strongly the fine noise is weighted down; 0 is `UniformEps`."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
        return snr / (self.k + snr) ** self.gamma


@dataclass(frozen=True, kw_only=True)
class SigmoidWeighting(Weighting):
    """sigmoid(bias - log SNR) on eps's error (Kingma & Gao 2023, section 5)."""

    bias: float = 2.0
    """The log-SNR at which the weight is half of its largest."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
        return snr / (1 + snr * jnp.exp(-self.bias))


@dataclass(frozen=True, kw_only=True)
class EDMWeighting(Weighting):
    """SNR + 1 / d^2 = (sigma^2 + d^2) / (sigma d)^2 (Karras et al. 2022, table 1).

    With the `EDM` prediction it is 1 on the network's own output.
    """

    data_deviation: Annotated[float, Gt(0)] = 0.5
    """d, the data's standard deviation (sigma_data)."""

    def x_0_weight(self, snr: Array) -> Array:
        """The weight of x_0's squared error, of the shape of the SNR."""
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
