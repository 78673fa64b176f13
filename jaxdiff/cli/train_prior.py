"""The command `train-prior`: vectors of images from texts, for unCLIP."""

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
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.training.recipe import state_shapes


def train_prior(options: TrainOptions, experiment: PriorExperiment) -> None:
    """Trains a prior on the vectors of trained towers, and writes its page."""
    cpu_devices.use(train_devices(experiment))
    start, workdir = time.monotonic(), options.workdir
    trainer = Trainer.of(experiment)
    run_training(trainer, workdir, about=summary(trainer) if is_shown() else "")
    took = time.monotonic() - start
    print(printable(f"done in {took:.0f} s; checkpoints are in {workdir}"))
    print(
        printable(
            "draw images with jaxdiff sample --workdir DECODER --prior "
            f"{workdir} --prompt TEXT, with a decoder by the recipe unclip"
        )
    )
    if is_first():
        page.refresh(workdir)


def summary(trainer: Trainer) -> str:
    """Returns lines on the data, the prior and the steps of a training."""
    data, training = trainer.dataset, trainer.experiment.training
    leaves = jax.tree.leaves(state_shapes(trainer.recipe).params)
    size = sum(math.prod(leaf.shape) for leaf in leaves)
    captions = {text for texts in data.captions or () for text in texts if text}
    seen = training.num_steps * training.batch_size / len(data)
    return "\n".join(
        (
            f"data: {len(data):,} vectors of {data.image_shape[-1]} features to train "
            f"on; {len(captions):,} different captions",
            f"prior: {size:,} parameters",
            f"steps: {training.num_steps:,} of {training.batch_size} vectors; each "
            f"vector is seen {seen:,.1f} times",
        )
    )
