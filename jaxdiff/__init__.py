"""jaxdiff: denoising diffusion models as pure functions in JAX.

A diffusion model is three nouns: a schedule, a denoiser and a sampler.

>>> import jax
>>> import jaxdiff as jd
>>> schedule = jd.Linear(num_steps=1000).build()
>>> def oracle(x_t, level):
...     return jd.predictions.Eps().estimate(x_t * level.sigma, x_t, level)
>>> images = jd.sample(oracle, jd.DDPM(), schedule, jax.random.key(0), (4, 8, 8, 1))
>>> images.shape
(4, 8, 8, 1)

This module has the names of daily use. The others are in namespaces: `jd.schedules`,
`jd.denoisers`, `jd.predictions`, `jd.guidance`, `jd.oracles`, `jd.inverse_problems`,
`jd.adapters`, `jd.samplers`, `jd.spacing`, `jd.losses`, `jd.networks`, `jd.parallel`,
`jd.training`.
Five namespaces load on first use: `jd.data`, `jd.runs`, `jd.evaluation`, `jd.plots`,
`jd.pretrained`.
"""

import sys
from typing import TYPE_CHECKING

from jaxdiff import interrupts as interrupts  # handles Ctrl-C during the imports below

# isort: split
from jaxdiff import adapters as adapters
from jaxdiff import denoisers as denoisers
from jaxdiff import losses as losses
from jaxdiff import networks as networks
from jaxdiff import parallel as parallel
from jaxdiff import samplers as samplers
from jaxdiff import schedules as schedules
from jaxdiff import training as training
from jaxdiff.denoisers import guidance as guidance
from jaxdiff.denoisers import inverse_problems as inverse_problems
from jaxdiff.denoisers import oracles as oracles
from jaxdiff.denoisers import predictions as predictions
from jaxdiff.denoisers.guidance import (
    classifier_free_guidance as classifier_free_guidance,
)
from jaxdiff.denoisers.network import bind as bind
from jaxdiff.denoisers.thresholding import clip_x0 as clip_x0
from jaxdiff.errors import InputError as InputError
from jaxdiff.losses.loss import loss_fn as loss_fn
from jaxdiff.names import OLD_NAMES, OldModules, lazy
from jaxdiff.networks import UNet as UNet
from jaxdiff.networks import UNetConfig as UNetConfig
from jaxdiff.samplers import DDIM as DDIM
from jaxdiff.samplers import DDPM as DDPM
from jaxdiff.samplers import DPMSolver as DPMSolver
from jaxdiff.samplers import Heun as Heun
from jaxdiff.samplers import p_sample_step as p_sample_step
from jaxdiff.samplers import sample as sample
from jaxdiff.samplers import spacing as spacing
from jaxdiff.schedules import Cosine as Cosine
from jaxdiff.schedules import Linear as Linear
from jaxdiff.schedules import Quadratic as Quadratic
from jaxdiff.schedules import Schedule as Schedule
from jaxdiff.schedules import Sigmoid as Sigmoid
from jaxdiff.schedules import q_posterior as q_posterior
from jaxdiff.schedules import q_sample as q_sample
from jaxdiff.schedules import q_step as q_step
from jaxdiff.training.fit import fit as fit
from jaxdiff.training.model import Model as Model
from jaxdiff.training.state import TrainState as TrainState
from jaxdiff.training.step import train_step as train_step
from jaxdiff.typing import Batch as Batch
from jaxdiff.typing import Condition as Condition
from jaxdiff.typing import Estimate as Estimate
from jaxdiff.typing import Level as Level

if TYPE_CHECKING:
    from jaxdiff import data as data
    from jaxdiff import evaluation as evaluation
    from jaxdiff import plots as plots
    from jaxdiff import pretrained as pretrained
    from jaxdiff import runs as runs
    from jaxdiff.pretrained import from_diffusers as from_diffusers
    from jaxdiff.pretrained import to_diffusers as to_diffusers
    from jaxdiff.runs.load import load as load
    from jaxdiff.runs.train import train as train
    from jaxdiff.training.experiment import Experiment as Experiment

__version__ = "0.1.0"

__getattr__ = lazy(
    __name__,
    {
        "Experiment": "jaxdiff.training.experiment:Experiment",
        "data": "jaxdiff.data",
        "evaluation": "jaxdiff.evaluation",
        "from_diffusers": "jaxdiff.pretrained:from_diffusers",
        "load": "jaxdiff.runs.load:load",
        "plots": "jaxdiff.plots",
        "pretrained": "jaxdiff.pretrained",
        "runs": "jaxdiff.runs",
        "to_diffusers": "jaxdiff.pretrained:to_diffusers",
        "train": "jaxdiff.runs.train:train",
    },
    OLD_NAMES,
)
sys.meta_path.append(OldModules())
