"""jaxdiff: denoising diffusion models as pure functions in JAX.

A diffusion model is three nouns: a schedule, a denoiser and a sampler.

>>> import jax
>>> import jaxdiff as jd
>>> schedule = jd.Linear(num_steps=1000).build()
>>> oracle = lambda x_t, level: jd.Eps().estimate(x_t * level.sigma, x_t, level)
>>> images = jd.sample(
...     oracle, jd.Ancestral(), schedule, jax.random.key(0), (4, 8, 8, 1)
... )
>>> images.shape
(4, 8, 8, 1)
"""

from jaxdiff.data import Dataset as Dataset
from jaxdiff.data import Digits as Digits
from jaxdiff.data import FashionMnist as FashionMnist
from jaxdiff.data import Folder as Folder
from jaxdiff.data import Tfds as Tfds
from jaxdiff.data import to_float as to_float
from jaxdiff.data import to_uint8 as to_uint8
from jaxdiff.denoisers.guidance import autoguidance as autoguidance
from jaxdiff.denoisers.guidance import classifier_free as classifier_free
from jaxdiff.denoisers.guidance import classifier_guidance as classifier_guidance
from jaxdiff.denoisers.guidance import mix_classes as mix_classes
from jaxdiff.denoisers.inverse_problems import blur as blur
from jaxdiff.denoisers.inverse_problems import downsample as downsample
from jaxdiff.denoisers.inverse_problems import gaussian_blur as gaussian_blur
from jaxdiff.denoisers.inverse_problems import given_measurement as given_measurement
from jaxdiff.denoisers.inverse_problems import masked as masked
from jaxdiff.denoisers.network import bind as bind
from jaxdiff.denoisers.oracles import Gaussian as Gaussian
from jaxdiff.denoisers.oracles import GaussianMixture as GaussianMixture
from jaxdiff.denoisers.predictions import X0 as X0
from jaxdiff.denoisers.predictions import Edm as Edm
from jaxdiff.denoisers.predictions import Eps as Eps
from jaxdiff.denoisers.predictions import V as V
from jaxdiff.denoisers.predictions import Velocity as Velocity
from jaxdiff.denoisers.thresholding import clip_x_0 as clip_x_0
from jaxdiff.denoisers.thresholding import dynamic_threshold as dynamic_threshold
from jaxdiff.errors import InputError as InputError
from jaxdiff.errors import NonFinite as NonFinite
from jaxdiff.evaluation.likelihood import bits_per_dim as bits_per_dim
from jaxdiff.evaluation.likelihood import dequantise as dequantise
from jaxdiff.evaluation.likelihood import ode_log_density as ode_log_density
from jaxdiff.evaluation.likelihood import variational_bound as variational_bound
from jaxdiff.losses.loss import loss_fn as loss_fn
from jaxdiff.losses.objectives import Bound as Bound
from jaxdiff.losses.objectives import Hybrid as Hybrid
from jaxdiff.losses.objectives import Simple as Simple
from jaxdiff.losses.time_sampling import LogNormal as LogNormal
from jaxdiff.losses.time_sampling import LossHistory as LossHistory
from jaxdiff.losses.time_sampling import UniformTimes as UniformTimes
from jaxdiff.losses.weightings import P2 as P2
from jaxdiff.losses.weightings import EdmWeighting as EdmWeighting
from jaxdiff.losses.weightings import MinSnr as MinSnr
from jaxdiff.losses.weightings import SigmoidWeighting as SigmoidWeighting
from jaxdiff.losses.weightings import SnrPlusOne as SnrPlusOne
from jaxdiff.losses.weightings import Uniform as Uniform
from jaxdiff.losses.weightings import UniformEps as UniformEps
from jaxdiff.losses.weightings import UniformX0 as UniformX0
from jaxdiff.networks import UNet as UNet
from jaxdiff.networks import UNetConfig as UNetConfig
from jaxdiff.parallel import Pmap as Pmap
from jaxdiff.parallel import Sharded as Sharded
from jaxdiff.parallel import Terminated as Terminated
from jaxdiff.pretrained import from_diffusers as from_diffusers
from jaxdiff.pretrained import to_diffusers as to_diffusers
from jaxdiff.runs.load import Run as Run
from jaxdiff.runs.load import load as load
from jaxdiff.runs.train import train as train
from jaxdiff.samplers import AllTimes as AllTimes
from jaxdiff.samplers import Ancestral as Ancestral
from jaxdiff.samplers import Ddim as Ddim
from jaxdiff.samplers import DpmSolver as DpmSolver
from jaxdiff.samplers import Euler as Euler
from jaxdiff.samplers import EulerAncestral as EulerAncestral
from jaxdiff.samplers import FlowEuler as FlowEuler
from jaxdiff.samplers import FlowHeun as FlowHeun
from jaxdiff.samplers import Heun as Heun
from jaxdiff.samplers import Karras as Karras
from jaxdiff.samplers import Leading as Leading
from jaxdiff.samplers import Linspace as Linspace
from jaxdiff.samplers import QuadraticTimes as QuadraticTimes
from jaxdiff.samplers import Sampler as Sampler
from jaxdiff.samplers import Times as Times
from jaxdiff.samplers import Trailing as Trailing
from jaxdiff.samplers import UniformLogSnr as UniformLogSnr
from jaxdiff.samplers import UniPc as UniPc
from jaxdiff.samplers import decode as decode
from jaxdiff.samplers import encode as encode
from jaxdiff.samplers import sample as sample
from jaxdiff.samplers.ancestral import FixedLarge as FixedLarge
from jaxdiff.samplers.ancestral import FixedSmall as FixedSmall
from jaxdiff.samplers.ancestral import LearnedRange as LearnedRange
from jaxdiff.samplers.ancestral import MarginalNoise as MarginalNoise
from jaxdiff.samplers.ancestral import p_mean_variance as p_mean_variance
from jaxdiff.samplers.ancestral import p_sample_step as p_sample_step
from jaxdiff.samplers.editing import blend_labels as blend_labels
from jaxdiff.samplers.editing import image_to_image as image_to_image
from jaxdiff.samplers.editing import interpolate as interpolate
from jaxdiff.samplers.editing import slerp as slerp
from jaxdiff.samplers.inverse_problems import Dps as Dps
from jaxdiff.samplers.inverse_problems import Repaint as Repaint
from jaxdiff.samplers.inverse_problems import Replacement as Replacement
from jaxdiff.schedules.continuous import ContinuousSchedule as ContinuousSchedule
from jaxdiff.schedules.continuous import StraightPath as StraightPath
from jaxdiff.schedules.continuous import VarianceExploding as VarianceExploding
from jaxdiff.schedules.continuous import VariancePreserving as VariancePreserving
from jaxdiff.schedules.diagnose import Diagnosis as Diagnosis
from jaxdiff.schedules.diagnose import diagnose as diagnose
from jaxdiff.schedules.discrete import Cosine as Cosine
from jaxdiff.schedules.discrete import Linear as Linear
from jaxdiff.schedules.discrete import Quadratic as Quadratic
from jaxdiff.schedules.discrete import Schedule as Schedule
from jaxdiff.schedules.discrete import Sigmoid as Sigmoid
from jaxdiff.schedules.discrete import ZeroTerminalSnr as ZeroTerminalSnr
from jaxdiff.schedules.discrete import (
    rescale_zero_terminal_snr as rescale_zero_terminal_snr,
)
from jaxdiff.schedules.forward import Posterior as Posterior
from jaxdiff.schedules.forward import log_snr as log_snr
from jaxdiff.schedules.forward import q_posterior as q_posterior
from jaxdiff.schedules.forward import q_sample as q_sample
from jaxdiff.schedules.forward import q_step as q_step
from jaxdiff.schedules.forward import snr as snr
from jaxdiff.training.experiment import Experiment as Experiment
from jaxdiff.training.state import TrainState as TrainState
from jaxdiff.training.step import train_step as train_step
from jaxdiff.typing import Batch as Batch
from jaxdiff.typing import Denoiser as Denoiser
from jaxdiff.typing import Estimate as Estimate
from jaxdiff.typing import Level as Level
