"""Schedulers of diffusers for continuous schedules: EDM and flow matching."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxdiff.denoisers.predictions import EDM, Prediction, Velocity
from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_fields import Common, Thresholded
from jaxdiff.pretrained.schedulers_multistep import FEW_STEPS
from jaxdiff.samplers import (
    DPMSolver,
    Euler,
    FlowEuler,
    FlowHeun,
    FlowMatchGrid,
    Karras,
    Sampler,
    Spacing,
    UniformLogSNR,
)
from jaxdiff.schedules import VE, RectifiedFlow, ScheduleOptions
from jaxdiff.training.experiment import Sampling


@dataclass(frozen=True, kw_only=True)
class OfEDM(Common):
    """Fields of EDM's schedulers."""

    STEPS: ClassVar[int | None] = 50

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    prediction_type: Literal["epsilon"] = "epsilon"
    rho: float = 7.0
    final_sigmas_type: Literal["zero"] = "zero"

    def schedule(self) -> ScheduleOptions:
        """Returns the noise schedule."""
        return VE(
            num_steps=self.num_train_timesteps,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            rho=self.rho,
            time_scale=1.0,
        )

    def prediction(self, learn_variance: bool) -> Prediction:
        """Returns the network's prediction."""
        return EDM(data_deviation=self.sigma_data, learn_variance=learn_variance)

    def grid(self, num_steps: int, schedule: Any) -> Spacing:
        """Returns the time grid of a sampling loop with this number of steps."""
        if self.sigma_schedule == "exponential":
            return UniformLogSNR(num_steps=num_steps)
        return Karras(num_steps=num_steps, rho=self.rho)


@dataclass(frozen=True, kw_only=True)
class EDMEulerScheduler(OfEDM):
    """Euler's rule, without churn."""

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        return self.sampled(Euler(spacing=self.grid(num_steps, schedule)))


@dataclass(frozen=True, kw_only=True)
class EDMDPMSolverMultistepScheduler(Thresholded, OfEDM):
    """DPM-Solver++, multistep."""

    STEPS: ClassVar[int | None] = 20

    solver_order: Literal[1, 2, 3] = 2
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False  # the last step, onto the data, is Euler's anyway

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        sde = self.algorithm_type == "sde-dpmsolver++"
        if sde and self.solver_order == 3:
            raise InputError(
                "solver_order must be 1 or 2 with algorithm_type sde-dpmsolver++, got 3"
            )
        sampler = DPMSolver(
            spacing=self.grid(num_steps, schedule),
            order=self.solver_order,
            eta=float(sde),
            variant="heun" if self.solver_type == "heun" else "midpoint",
            third_order="published" if self.solver_order == 3 else "exact",
            lower_order_final=self.lower_order_final and num_steps < FEW_STEPS,
        )
        return self.sampled(sampler)


@dataclass(frozen=True, kw_only=True)
class FlowMatch(Common):
    """Fields of the schedulers of flow matching."""

    STEPS: ClassVar[int | None] = 50
    SAMPLER: ClassVar[type[Sampler]]

    num_train_timesteps: Literal[1000] = 1000  # the network's time is 1000 t
    shift: float = 1.0

    def schedule(self) -> ScheduleOptions:
        """Returns the noise schedule."""
        return RectifiedFlow(shift=self.shift)

    def prediction(self, learn_variance: bool) -> Prediction:
        """Returns the network's prediction."""
        return Velocity(learn_variance=learn_variance)

    def grid(self, num_steps: int, schedule: Any) -> Spacing:
        """Returns the time grid of a sampling loop with this number of steps."""
        return FlowMatchGrid(num_steps=num_steps)

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        return self.sampled(self.SAMPLER(spacing=self.grid(num_steps, schedule)))


@dataclass(frozen=True, kw_only=True)
class FlowMatchEulerDiscreteScheduler(FlowMatch):
    """Euler's rule along the straight path."""

    SAMPLER: ClassVar[type[Sampler]] = FlowEuler

    use_dynamic_shifting: Literal[False] = False
    base_shift: float | None = 0.5  # these four are for dynamic shifting
    max_shift: float | None = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: Literal[False] = False
    shift_terminal: Literal[None] = None
    use_karras_sigmas: Literal[False] | None = False
    use_exponential_sigmas: Literal[False] | None = False
    use_beta_sigmas: Literal[False] | None = False
    time_shift_type: str = "exponential"
    stochastic_sampling: Literal[False] = False


@dataclass(frozen=True, kw_only=True)
class FlowMatchHeunDiscreteScheduler(FlowMatch):
    """Heun's rule along the straight path."""

    SAMPLER: ClassVar[type[Sampler]] = FlowHeun
