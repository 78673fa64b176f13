"""Noise schedules (signal and noise scales at each time), and the forward process q."""

from typing import TypeAlias

from jaxdiff.schedules.continuous import VE as VE
from jaxdiff.schedules.continuous import VP as VP
from jaxdiff.schedules.continuous import ContinuousSchedule as ContinuousSchedule
from jaxdiff.schedules.continuous import RectifiedFlow as RectifiedFlow
from jaxdiff.schedules.diagnose import Diagnosis as Diagnosis
from jaxdiff.schedules.diagnose import diagnose as diagnose
from jaxdiff.schedules.discrete import Betas as Betas
from jaxdiff.schedules.discrete import Cosine as Cosine
from jaxdiff.schedules.discrete import Linear as Linear
from jaxdiff.schedules.discrete import Quadratic as Quadratic
from jaxdiff.schedules.discrete import Schedule as Schedule
from jaxdiff.schedules.discrete import Sigmoid as Sigmoid
from jaxdiff.schedules.discrete import ZeroTerminalSNR as ZeroTerminalSNR
from jaxdiff.schedules.discrete import (
    rescale_zero_terminal_snr as rescale_zero_terminal_snr,
)
from jaxdiff.schedules.forward import Posterior as Posterior
from jaxdiff.schedules.forward import log_snr as log_snr
from jaxdiff.schedules.forward import q_posterior as q_posterior
from jaxdiff.schedules.forward import q_sample as q_sample
from jaxdiff.schedules.forward import q_step as q_step
from jaxdiff.schedules.forward import snr as snr

VariancePreserving, VarianceExploding, StraightPath = VP, VE, RectifiedFlow
"""Long names of the continuous schedules."""

ScheduleOptions: TypeAlias = (
    Linear
    | Quadratic
    | Cosine
    | Sigmoid
    | ZeroTerminalSNR
    | VP
    | VE
    | RectifiedFlow
    | Betas
)
