"""Options of the optimizer."""

from dataclasses import dataclass
from typing import Annotated, Literal

import optax
from annotated_types import Ge, Gt, IsFinite

from jaxdiff.checks import Checked, Share


@dataclass(frozen=True, kw_only=True)
class Optimizer(Checked):
    """Adam (AdamW if weight decay is above 0) with warm-up and gradient clipping.

    The defaults are DDPM's (Ho et al. 2020, appendix B).
    """

    learning_rate: IsFinite[Annotated[float, Gt(0)]] = 2e-4
    """Learning rate after the warm-up."""
    warmup_steps: Annotated[int, Ge(0)] = 5000
    """Number of steps of linear warm-up from 0; 0 for none."""
    decay: Literal["constant", "cosine"] = "constant"
    """Learning-rate schedule after the warm-up: constant, or a cosine to 0 at the
    end."""
    beta_1: Share = 0.9
    """Decay rate of Adam's mean."""
    beta_2: Share = 0.999
    """Decay rate of Adam's variance."""
    epsilon: Annotated[float, Gt(0)] = 1e-8
    """Number that Adam adds to the root of the variance. Steps are smaller if a
    gradient is smaller than this number."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay; 0 for none."""
    clip_norm: Annotated[float, Gt(0)] = 1.0
    """Largest global norm of the gradient; larger gradients are scaled to this norm."""

    def schedule(self, num_steps: int) -> optax.Schedule:
        """Returns the learning rate by step, for a run of `num_steps` steps."""
        warmup = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        if self.decay == "cosine":
            length = max(num_steps - self.warmup_steps, 1)
            rest = optax.cosine_decay_schedule(self.learning_rate, length)
        else:
            rest = optax.constant_schedule(self.learning_rate)
        return optax.join_schedules([warmup, rest], [self.warmup_steps])

    def build(self, num_steps: int) -> optax.GradientTransformation:
        """Returns the Optax optimizer for a run of `num_steps` steps."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(
                self.schedule(num_steps),
                b1=self.beta_1,
                b2=self.beta_2,
                eps=self.epsilon,
                weight_decay=self.weight_decay,
            ),
        )
