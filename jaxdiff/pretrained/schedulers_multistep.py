"""Schedulers of diffusers for DPM-Solver++, UniPC and DEIS, multistep."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from jaxdiff.errors import InputError
from jaxdiff.pretrained.scheduler_fields import (
    LEAST_ALPHA,
    Rescaled,
    Spaced,
    Thresholded,
)
from jaxdiff.samplers import DEIS, DiffusersGrid, DPMSolver, UniPC
from jaxdiff.schedules.discrete import Schedule
from jaxdiff.training.experiment import Sampling

FEW_STEPS = 15
"""Least number of steps at which diffusers ignores lower_order_final."""


@dataclass(frozen=True, kw_only=True)
class Multistep(Thresholded, Spaced):
    """Fields of the multistep schedulers."""

    STEPS: ClassVar[int | None] = 20

    solver_order: Literal[1, 2, 3] = 2
    lower_order_final: bool = True
    use_flow_sigmas: Literal[False] = False
    flow_shift: float = 1.0
    use_dynamic_shifting: Literal[False] = False
    time_shift_type: str = "exponential"

    @property
    def ends_at_data(self) -> bool:
        """True if the last step leads to the data."""
        return True

    def times(self, num_steps: int, schedule: Any) -> list[float]:
        """Returns the times at which the network is evaluated, noisiest first.

        Warns:
            UserWarning: diffusers' rounding may give another first time.
        """
        times = super().times(num_steps, schedule)
        if self.grid(num_steps, schedule).rounding == "down":
            warnings.warn(
                f"took {times[0]:g} for the first time of the {self.rule()} rule; "
                "diffusers rounds some schedules' down to the time before it, and then "
                "draws slightly other images",
                stacklevel=2,
            )
        return times

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        rule, near = self.rule(), self.use_karras_sigmas
        return replace(
            super().grid(num_steps, schedule),
            to_data=self.ends_at_data,
            skip_last=rule == "of-times" and self.timestep_spacing != "trailing",
            # diffusers makes the log-SNR of a last time without signal finite.
            least_alpha=LEAST_ALPHA if self._rescales else 0.0,
            sigmas=rule,
            rounding="none" if rule == "of-times" else "nearest" if near else "down",
        )

    def lowers(self, num_steps: int) -> bool:
        """Returns True if the last steps have a lower order.

        With rules for the noise levels and no step to the data, the last step of
        diffusers changes nothing. It is left out, and the order of the last step that
        is left is 2.

        Raises:
            InputError: the order of the last steps is not supported.
        """
        few = self.lower_order_final and num_steps < FEW_STEPS
        if self.rule() == "of-times" or self.ends_at_data:
            return few
        if few and self.solver_order == 3:
            raise InputError(
                "solver_order must be 1 or 2 with lower_order_final, a rule such as "
                "use_karras_sigmas and no step to the data, got 3"
            )
        return False


@dataclass(frozen=True, kw_only=True)
class Final(Multistep, Rescaled):
    """Field of the schedulers that choose the level of the last step."""

    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def ends_at_data(self) -> bool:
        """True if the last step leads to the data."""
        return self.final_sigmas_type == "zero"


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(Final):
    """DPM-Solver++, for the ODE or the SDE."""

    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++", "deis"] = "dpmsolver++"
    solver_type: Literal["midpoint", "heun", "logrho", "bh1", "bh2"] = "midpoint"
    euler_at_final: bool = False
    use_lu_lambdas: bool = False
    lambda_min_clipped: float | None = None
    variance_type: Literal["learned_range"] | None = None

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        few = self.lowers(num_steps)
        # euler_at_final lowers the last step only; one onto the data is lowered anyway.
        euler = self.euler_at_final and not self.ends_at_data
        euler &= self.rule() == "of-times"
        if euler and not few and self.solver_order == 3:
            raise InputError(
                "solver_order must be 1 or 2 with euler_at_final and final_sigmas_type "
                "sigma_min, got 3"
            )
        sde = self.algorithm_type == "sde-dpmsolver++"
        if sde and self.solver_order == 3:
            warnings.warn(
                "kept the sign of the third-order term of solver_order 3 with "
                "algorithm_type sde-dpmsolver++; diffusers' differs, and it draws "
                "other images",
                stacklevel=2,
            )
        self.times(num_steps, schedule)
        sampler = DPMSolver(
            spacing=self.grid(num_steps, schedule),
            order=self.solver_order,
            eta=float(sde),
            # diffusers takes midpoint for the types of other solvers.
            variant="heun" if self.solver_type == "heun" else "midpoint",
            third_order="published" if self.solver_order == 3 else "exact",
            lower_order_final=few or euler,
        )
        return self.sampled(sampler)

    def rule(self) -> Literal["of-times", "karras", "exponential", "beta"]:
        """Returns the rule for the noise levels; Lu's is that of equal log sigma."""
        rule = super().rule()
        # The order of diffusers: Karras first.
        lu = self.use_lu_lambdas and rule != "karras"
        return "exponential" if lu else rule

    def grid(self, num_steps: int, schedule: Any) -> DiffusersGrid:
        """Returns the time grid of a sampling loop with this number of steps."""
        grid = super().grid(num_steps, schedule)
        if self.rule() != "of-times":
            whole = self.use_karras_sigmas or self.use_lu_lambdas
            near = whole and self.beta_schedule != "squaredcos_cap_v2"
            return replace(grid, rounding="nearest" if near else "down")
        if self.lambda_min_clipped is None:
            return grid
        count = int((half_log_snr(schedule) >= self.lambda_min_clipped).sum())
        return replace(grid, num_times=count)


def half_log_snr(schedule: Schedule) -> np.ndarray:
    """Returns log(alpha / sigma) at every time, float64 [T]."""
    alphas_bar = np.asarray(schedule.alphas_bar, np.float64)
    with np.errstate(divide="ignore"):
        return np.log(alphas_bar / (1 - alphas_bar)) / 2


@dataclass(frozen=True, kw_only=True)
class UniPCMultistepScheduler(Final):
    """UniPC with the prediction of x_0."""

    predict_x0: Literal[True] = True
    solver_type: Literal["bh1", "bh2", "midpoint", "heun", "logrho"] = "bh2"
    disable_corrector: tuple[int, ...] = ()
    solver_p: Literal[None] = None
    sigma_min: Literal[None] = None
    sigma_max: Literal[None] = None
    shift_terminal: Literal[None] = None

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        if self.disable_corrector:
            raise InputError(
                f"disable_corrector must be empty, got {self.disable_corrector}"
            )
        if self.rule() != "of-times" and not self.ends_at_data:
            raise InputError(
                "final_sigmas_type must be zero with use_karras_sigmas, "
                "use_exponential_sigmas or use_beta_sigmas, got sigma_min"
            )
        self.times(num_steps, schedule)
        sampler = UniPC(
            spacing=self.grid(num_steps, schedule),
            order=self.solver_order,
            # diffusers takes bh2 for the types of other solvers.
            variant="bh1" if self.solver_type == "bh1" else "bh2",
            lower_order_final=self.lower_order_final,
        )
        return self.sampled(sampler)


@dataclass(frozen=True, kw_only=True)
class DEISMultistepScheduler(Multistep):
    """DEIS in log rho; its last step ends at time 0."""

    algorithm_type: Literal["deis", "dpmsolver", "dpmsolver++"] = "deis"
    solver_type: Literal["logrho", "midpoint", "heun", "bh1", "bh2"] = "logrho"

    @property
    def ends_at_data(self) -> bool:
        """False: the last step ends at the least noisy level."""
        return False

    def sampling(self, schedule: Any, num_steps: int) -> Sampling:
        """Returns the sampling of diffusers' pipeline with this number of steps."""
        self.times(num_steps, schedule)
        sampler = DEIS(
            spacing=self.grid(num_steps, schedule),
            order=self.solver_order,
            lower_order_final=self.lowers(num_steps),
        )
        return self.sampled(sampler)
