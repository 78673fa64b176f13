"""Training as pure functions of pytrees; nothing here uses a disk."""

from typing import TYPE_CHECKING

from jaxdiff.conditioning.low_resolution import LowResolution as LowResolution
from jaxdiff.names import lazy
from jaxdiff.training.fit import fit as fit
from jaxdiff.training.model import Model as Model
from jaxdiff.training.optimizer import Optimizer as Optimizer
from jaxdiff.training.state import TrainState as TrainState
from jaxdiff.training.step import train_step as train_step

if TYPE_CHECKING:
    from jaxdiff.training.experiment import DataInfo as DataInfo
    from jaxdiff.training.experiment import Experiment as Experiment
    from jaxdiff.training.experiment import Sampling as Sampling
    from jaxdiff.training.experiment import Training as Training
    from jaxdiff.training.experiment import Upkeep as Upkeep

__getattr__ = lazy(
    __name__,
    {
        name: f"jaxdiff.training.experiment:{name}"  # this module imports the datasets
        for name in ("DataInfo", "Experiment", "Sampling", "Training", "Upkeep")
    },
)
