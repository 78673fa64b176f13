"""Samplers: rules for one step down the noise levels, one family a file."""

from typing import TypeAlias

from jaxdiff.samplers.ancestral import Ancestral as Ancestral
from jaxdiff.samplers.base import Sampler as Sampler
from jaxdiff.samplers.base import sample as sample
from jaxdiff.samplers.ddim import Ddim as Ddim
from jaxdiff.samplers.ddim import EulerAncestral as EulerAncestral
from jaxdiff.samplers.dpm_solver import DpmSolver as DpmSolver
from jaxdiff.samplers.edm import Euler as Euler
from jaxdiff.samplers.edm import Heun as Heun
from jaxdiff.samplers.flow import FlowEuler as FlowEuler
from jaxdiff.samplers.flow import FlowHeun as FlowHeun
from jaxdiff.samplers.ode import decode as decode
from jaxdiff.samplers.ode import encode as encode
from jaxdiff.samplers.spacing import AllTimes as AllTimes
from jaxdiff.samplers.spacing import Karras as Karras
from jaxdiff.samplers.spacing import Leading as Leading
from jaxdiff.samplers.spacing import Linspace as Linspace
from jaxdiff.samplers.spacing import QuadraticTimes as QuadraticTimes
from jaxdiff.samplers.spacing import Spacing as Spacing
from jaxdiff.samplers.spacing import Times as Times
from jaxdiff.samplers.spacing import Trailing as Trailing
from jaxdiff.samplers.spacing import UniformLogSnr as UniformLogSnr
from jaxdiff.samplers.uni_pc import UniPc as UniPc

SamplerOptions: TypeAlias = (
    Ancestral
    | Ddim
    | Euler
    | EulerAncestral
    | Heun
    | FlowEuler
    | FlowHeun
    | DpmSolver
    | UniPc
)
