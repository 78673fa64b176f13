"""Program of a training run that tests kill; its network compiles in a second.

python -m tests.helpers.killed FOLDER
"""

import sys
import time

import jaxdiff as jd
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import Training, Upkeep
from jaxdiff.training.optimizer import Optimizer
from tests.helpers.own_networks import Wide

NETWORK = Wide(num_classes=10)
EXPERIMENT = jd.Experiment(
    schedule=jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6),
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
    training=Training(num_steps=1000, batch_size=16, ema_decay=0.9),
    parallel=jd.parallel.Pmap(num_devices=1),
    upkeep=Upkeep(log_every=30, checkpoint_every=250, keep=20, tensorboard=False),
)
"""Experiment whose lines of metrics take 30 steps, so that saves cut lines."""


def train(workdir):
    """Trains, and returns the final state."""
    return jd.train(EXPERIMENT, workdir, network=NETWORK, progress=False)


def slowly(trainer, state, batches):
    """Runs a dispatch of steps after a pause, which leaves time for a kill."""
    time.sleep(0.01)
    return advance(trainer, state, batches)


advance = Trainer.advance
if __name__ == "__main__":
    Trainer.advance = slowly  # type: ignore[method-assign]
    train(sys.argv[1])
