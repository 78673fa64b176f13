"""Losses: objectives, weightings, time sampling and the variational bound."""

from jaxdiff.losses.consistency import Consistency as Consistency
from jaxdiff.losses.consistency import Grid as Grid
from jaxdiff.losses.consistency import Pairs as Pairs
from jaxdiff.losses.consistency import Ratio as Ratio
from jaxdiff.losses.loss import loss_fn as loss_fn
from jaxdiff.losses.mean_flow import MeanFlow as MeanFlow
from jaxdiff.losses.objectives import Bound as Bound
from jaxdiff.losses.objectives import Hybrid as Hybrid
from jaxdiff.losses.objectives import Objective as Objective
from jaxdiff.losses.objectives import Simple as Simple
from jaxdiff.losses.progressive import Progressive as Progressive
from jaxdiff.losses.time_sampling import LogNormal as LogNormal
from jaxdiff.losses.time_sampling import LossHistory as LossHistory
from jaxdiff.losses.time_sampling import TimesOptions as TimesOptions
from jaxdiff.losses.time_sampling import UniformTimes as UniformTimes
from jaxdiff.losses.variational import bound_term as bound_term
from jaxdiff.losses.variational import prior_term as prior_term
from jaxdiff.losses.weightings import P2 as P2
from jaxdiff.losses.weightings import EDMWeighting as EDMWeighting
from jaxdiff.losses.weightings import MinSNR as MinSNR
from jaxdiff.losses.weightings import SigmoidWeighting as SigmoidWeighting
from jaxdiff.losses.weightings import SNRPlusOne as SNRPlusOne
from jaxdiff.losses.weightings import Uniform as Uniform
from jaxdiff.losses.weightings import UniformEps as UniformEps
from jaxdiff.losses.weightings import UniformX0 as UniformX0
from jaxdiff.losses.weightings import WeightingOptions as WeightingOptions
