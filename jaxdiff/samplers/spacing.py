"""Spacings: the options that choose a sampler's time grid, as `jaxdiff.spacing`."""

from dataclasses import replace
from typing import Any, TypeAlias

from jaxdiff.samplers.published_grids import DiffusersGrid as DiffusersGrid
from jaxdiff.samplers.published_grids import FlowMatchGrid as FlowMatchGrid
from jaxdiff.samplers.published_grids import LCMTimes as LCMTimes
from jaxdiff.samplers.time_grids import MOST_NOISE as MOST_NOISE
from jaxdiff.samplers.time_grids import AllTimes as AllTimes
from jaxdiff.samplers.time_grids import Counted as Counted
from jaxdiff.samplers.time_grids import Karras as Karras
from jaxdiff.samplers.time_grids import Leading as Leading
from jaxdiff.samplers.time_grids import Linspace as Linspace
from jaxdiff.samplers.time_grids import QuadraticTimes as QuadraticTimes
from jaxdiff.samplers.time_grids import Times as Times
from jaxdiff.samplers.time_grids import Trailing as Trailing
from jaxdiff.samplers.time_grids import UniformLogSNR as UniformLogSNR

Spacing: TypeAlias = (
    AllTimes
    | Leading
    | Trailing
    | Linspace
    | QuadraticTimes
    | UniformLogSNR
    | Karras
    | Times
    | DiffusersGrid
    | LCMTimes
    | FlowMatchGrid
)


def with_steps(sampler: Any, steps: int | None) -> Any:
    """Returns the sampler with another number of steps."""
    if steps is None:
        return sampler
    counted = isinstance(sampler.spacing, Counted)
    spacing = sampler.spacing if counted else Trailing()
    return replace(sampler, spacing=replace(spacing, num_steps=steps))
