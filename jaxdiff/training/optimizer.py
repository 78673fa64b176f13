"""The optimiser's options."""

from dataclasses import dataclass
from typing import Annotated, Literal

import optax
from annotated_types import Ge, Gt, IsFinite

from jaxdiff.checks import Checked, Share


@dataclass(frozen=True, kw_only=True)
class Optimizer(Checked):
    """Adam (AdamW where weight decay is above 0) with warm-up and gradient clipping.

    The defaults are DDPM's (Ho et al. 2020, appendix B).
    """

    learning_rate: IsFinite[Annotated[float, Gt(0)]] = 2e-4
    """The learning rate after the warm-up."""
    warmup_steps: Annotated[int, Ge(0)] = 5000
    """Steps of linear warm-up from 0; 0 for none."""
    decay: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after the warm-up: stay, or fall to 0 at the end."""
    beta_1: Share = 0.9
    """Adam's decay of the mean."""
    beta_2: Share = 0.999
    """Adam's decay of the variance."""
    epsilon: Annotated[float, Gt(0)] = 1e-8
    """What Adam adds to the root of the variance. Where a gradient is smaller,
    a step is smaller too."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled weight decay."""
    clip_norm: Annotated[float, Gt(0)] = 1.0
    """The largest global norm of the gradient; larger ones are scaled to it."""

    def schedule(self, num_steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, for a run of so many steps."""
        warmup = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
        if self.decay == "cosine":
            length = max(num_steps - self.warmup_steps, 1)
            rest = optax.cosine_decay_schedule(self.learning_rate, length)
        else:
            rest = optax.constant_schedule(self.learning_rate)
        return optax.join_schedules([warmup, rest], [self.warmup_steps])

    def build(self, num_steps: int) -> optax.GradientTransformation:
        """The Optax optimiser for a run of so many steps."""
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
