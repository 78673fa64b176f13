"""The command `train-towers`: images and texts as vectors of one space."""

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
from jaxdiff.training.recipe import state_shapes
from jaxdiff.training.towers_experiment import TowersExperiment


def train_towers(options: TrainOptions, experiment: TowersExperiment) -> None:
    """Trains an image tower and a text tower, and writes their page."""
    cpu_devices.use(train_devices(experiment))
    start, workdir = time.monotonic(), options.workdir
    finish(Trainer.of(experiment), workdir, summary, start)
    print(
        printable(
            f"measure the towers with jaxdiff evaluate --workdir {workdir}, and a "
            f"model of text with jaxdiff evaluate --workdir RUN --towers {workdir}"
        )
    )
    if is_first():
        page.refresh(workdir)


def summary(trainer: Trainer) -> list[str]:
    """Returns lines on the data, the towers and the steps of a training."""
    data, size = trainer.dataset, num_parameters(state_shapes(trainer.recipe).params)
    captions = {text for texts in data.captions or () for text in texts if text}
    shape = "x".join(map(str, data.image_shape))
    return [
        f"data: {len(data):,} images of {shape} to train on; {len(captions):,} "
        "different captions",
        f"towers: {size:,} parameters",
        steps_line(trainer, "image"),
    ]
