"""Spacings: the options that choose a sampler's time grid, as `jaxdiff.spacing`."""

from typing import TypeAlias

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
