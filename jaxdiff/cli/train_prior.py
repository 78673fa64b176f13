"""The command `train-prior`: vectors of images from texts, for unCLIP."""

import time

from jaxdiff.cli.train import (
    TrainOptions,
    finish,
    steps_line,
    train_devices,
)
from jaxdiff.errors import printable
from jaxdiff.parallel import cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.report import page
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.model import num_parameters
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.training.recipe import state_shapes


def train_prior(options: TrainOptions, experiment: PriorExperiment) -> None:
    """Trains a prior on the vectors of trained towers, and writes its page."""
    cpu_devices.use(train_devices(experiment))
    start, workdir = time.monotonic(), options.workdir
    finish(Trainer.of(experiment), workdir, summary, start)
    print(
        printable(
            "draw images with jaxdiff sample --workdir DECODER --prior "
            f"{workdir} --prompt TEXT, with a decoder by the recipe unclip"
        )
    )
    if is_first():
        page.refresh(workdir)


def summary(trainer: Trainer) -> list[str]:
    """Returns lines on the data, the prior and the steps of a training."""
    data, size = trainer.dataset, num_parameters(state_shapes(trainer.recipe).params)
    captions = {text for texts in data.captions or () for text in texts if text}
    return [
        f"data: {len(data):,} vectors of {data.image_shape[-1]} features to train "
        f"on; {len(captions):,} different captions",
        f"prior: {size:,} parameters",
        steps_line(trainer, "vector"),
    ]
