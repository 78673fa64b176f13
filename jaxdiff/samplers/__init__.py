"""Samplers: rules for one step down the noise levels, one family per file."""

from typing import TypeAlias

from jaxdiff.names import lazy
from jaxdiff.samplers.adams import DEIS as DEIS
from jaxdiff.samplers.adams import LMS as LMS
from jaxdiff.samplers.adams import PNDM as PNDM
from jaxdiff.samplers.ancestral import DDPM as DDPM
from jaxdiff.samplers.ancestral import FixedLarge as FixedLarge
from jaxdiff.samplers.ancestral import FixedLargeFloored as FixedLargeFloored
from jaxdiff.samplers.ancestral import FixedSmall as FixedSmall
from jaxdiff.samplers.ancestral import LearnedRange as LearnedRange
from jaxdiff.samplers.ancestral import MarginalNoise as MarginalNoise
from jaxdiff.samplers.ancestral import Variance as Variance
from jaxdiff.samplers.ancestral import p_mean_variance as p_mean_variance
from jaxdiff.samplers.ancestral import p_sample_step as p_sample_step
from jaxdiff.samplers.base import Sampler as Sampler
from jaxdiff.samplers.base import StepInfo as StepInfo
from jaxdiff.samplers.base import sample as sample
from jaxdiff.samplers.consistency import LCM as LCM
from jaxdiff.samplers.consistency import Consistency as Consistency
from jaxdiff.samplers.ddim import DDIM as DDIM
from jaxdiff.samplers.ddim import EulerAncestral as EulerAncestral
from jaxdiff.samplers.dpm_solver import DPMSolver as DPMSolver
from jaxdiff.samplers.editing import blend_labels as blend_labels
from jaxdiff.samplers.editing import image_to_image as image_to_image
from jaxdiff.samplers.editing import interpolate as interpolate
from jaxdiff.samplers.editing import slerp as slerp
from jaxdiff.samplers.edm import Euler as Euler
from jaxdiff.samplers.edm import Heun as Heun
from jaxdiff.samplers.flow import FlowEuler as FlowEuler
from jaxdiff.samplers.flow import FlowHeun as FlowHeun
from jaxdiff.samplers.flow_map import FlowMap as FlowMap
from jaxdiff.samplers.inverse_problems import DPS as DPS
from jaxdiff.samplers.inverse_problems import RePaint as RePaint
from jaxdiff.samplers.inverse_problems import Replacement as Replacement
from jaxdiff.samplers.inversion import decode as decode
from jaxdiff.samplers.inversion import encode as encode
from jaxdiff.samplers.live import sample_steps as sample_steps
from jaxdiff.samplers.singlestep import DPM2 as DPM2
from jaxdiff.samplers.singlestep import DPM2Ancestral as DPM2Ancestral
from jaxdiff.samplers.singlestep import DPMSolver2S as DPMSolver2S
from jaxdiff.samplers.singlestep import DPMSolverSDE as DPMSolverSDE
from jaxdiff.samplers.spacing import AllTimes as AllTimes
from jaxdiff.samplers.spacing import DiffusersGrid as DiffusersGrid
from jaxdiff.samplers.spacing import FlowMatchGrid as FlowMatchGrid
from jaxdiff.samplers.spacing import Karras as Karras
from jaxdiff.samplers.spacing import LCMTimes as LCMTimes
from jaxdiff.samplers.spacing import Leading as Leading
from jaxdiff.samplers.spacing import Linspace as Linspace
from jaxdiff.samplers.spacing import QuadraticTimes as QuadraticTimes
from jaxdiff.samplers.spacing import Spacing as Spacing
from jaxdiff.samplers.spacing import Times as Times
from jaxdiff.samplers.spacing import Trailing as Trailing
from jaxdiff.samplers.spacing import UniformLogSNR as UniformLogSNR
from jaxdiff.samplers.unipc import UniPC as UniPC

Ancestral = DDPM
"""Other name of `DDPM`: the ancestral sampler."""

SamplerOptions: TypeAlias = (
    DDPM
    | DDIM
    | Euler
    | EulerAncestral
    | Heun
    | FlowEuler
    | FlowHeun
    | DPMSolver
    | UniPC
    | PNDM
    | LMS
    | DEIS
    | DPM2
    | DPM2Ancestral
    | DPMSolver2S
    | DPMSolverSDE
    | LCM
    | Consistency
    | FlowMap
)

__getattr__ = lazy(
    __name__,
    renamed={
        "Ddim": "jaxdiff.samplers.DDIM",
        "DpmSolver": "jaxdiff.samplers.DPMSolver",
        "UniPc": "jaxdiff.samplers.UniPC",
        "UniformLogSnr": "jaxdiff.samplers.UniformLogSNR",
    },
)
