"""What the network's output means: network output <-> `Estimate`.

With x_t = alpha x_0 + sigma eps, knowing any one of (x_0, eps) gives the other:

    (1)  x_0 = (x_t - sigma eps) / alpha
    (2)  eps = (x_t - alpha x_0) / sigma
"""

from dataclasses import dataclass
from typing import TypeAlias

from jaxdiff.typing import Array, Estimate, Level


@dataclass(frozen=True)
class Eps:
    """The network predicts the noise eps (Ho et al. 2020, section 3.2)."""

    def target(self, x_0: Array, eps: Array, level: Level) -> Array:
        """What the network should output, of x_0's shape."""
        return eps

    def estimate(self, output: Array, x_t: Array, level: Level) -> Estimate:
        """What the network's output says of x_t, equation (1)."""
        alpha, sigma = level.scales(x_t)
        return Estimate(x_0=(x_t - sigma * output) / alpha, eps=output)


def from_x_0(x_0: Array, x_t: Array, level: Level) -> Estimate:
    """The estimate that a clean image implies, equation (2).

    At sigma = 0 there is no noise to tell; eps is then not finite.
    """
    alpha, sigma = level.scales(x_t)
    return Estimate(x_0=x_0, eps=(x_t - alpha * x_0) / sigma)


Prediction: TypeAlias = Eps
