"""The command `train-towers`: images and texts as vectors of one space."""

import math
import time

import jax

from jaxdiff.cli.train import TrainOptions, train_devices
from jaxdiff.errors import printable
from jaxdiff.parallel import cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.progress_bar import is_shown
from jaxdiff.report import page
from jaxdiff.runs.train import run_training
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.recipe import state_shapes
from jaxdiff.training.towers_experiment import TowersExperiment


def train_towers(options: TrainOptions, experiment: TowersExperiment) -> None:
    """Trains an image tower and a text tower, and writes their page."""
    cpu_devices.use(train_devices(experiment))
    start, workdir = time.monotonic(), options.workdir
    trainer = Trainer.of(experiment)
    run_training(trainer, workdir, about=summary(trainer) if is_shown() else "")
    took = time.monotonic() - start
    print(printable(f"done in {took:.0f} s; checkpoints are in {workdir}"))
    print(
        printable(
            f"measure the towers with jaxdiff evaluate --workdir {workdir}, and a "
            f"model of text with jaxdiff evaluate --workdir RUN --towers {workdir}"
        )
    )
    if is_first():
        page.refresh(workdir)


def summary(trainer: Trainer) -> str:
    """Returns lines on the data, the towers and the steps of a training."""
    data, training = trainer.dataset, trainer.experiment.training
    leaves = jax.tree.leaves(state_shapes(trainer.recipe).params)
    size = sum(math.prod(leaf.shape) for leaf in leaves)
    captions = {text for texts in data.captions or () for text in texts if text}
    shape = "x".join(map(str, data.image_shape))
    seen = training.num_steps * training.batch_size / len(data)
    return "\n".join(
        (
            f"data: {len(data):,} images of {shape} to train on; {len(captions):,} "
            "different captions",
            f"towers: {size:,} parameters",
            f"steps: {training.num_steps:,} of {training.batch_size} images; each "
            f"image is seen {seen:,.1f} times",
        )
    )
