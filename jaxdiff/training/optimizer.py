"""The optimiser's options."""

from dataclasses import dataclass
from typing import Literal

import optax

from jaxdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Adam (AdamW where weight decay is above 0) with warm-up and gradient clipping.

    The defaults are DDPM's (Ho et al. 2020, appendix B).
    """

    learning_rate: float = 2e-4
    """The learning rate after the warm-up; above 0."""
    warmup_steps: int = 5000
    """Steps of linear warm-up from 0; 0 for none."""
    decay: Literal["constant", "cosine"] = "constant"
    """What the learning rate does after the warm-up: stay, or fall to 0 at the end."""
    beta_1: float = 0.9
    """Adam's decay of the mean, in [0, 1)."""
    beta_2: float = 0.999
    """Adam's decay of the variance, in [0, 1)."""
    epsilon: float = 1e-8
    """What Adam adds to the root of the variance; above 0. Where a gradient is smaller,
    a step is smaller too."""
    weight_decay: float = 0.0
    """Decoupled weight decay; at least 0."""
    clip_norm: float = 1.0
    """The largest global norm of the gradient; larger ones are scaled to it."""

    def __post_init__(self) -> None:
        """Refuses options out of range."""
        if self.decay not in ("constant", "cosine"):
            raise InputError(
                f"decay must be 'constant' or 'cosine'; got {self.decay!r}"
            )
        for name in ("learning_rate", "epsilon", "clip_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0; got {getattr(self, name):g}")
        if self.learning_rate == float("inf"):
            raise InputError("learning_rate must be finite; got inf")
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(
                    f"{name} must be at least 0; got {getattr(self, name):g}"
                )
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} must lie in [0, 1); got {getattr(self, name):g}"
                )

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
