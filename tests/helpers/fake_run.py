"""Run folder that is made without training, for tests of the code that reads it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxdiff as jd
from jaxdiff.runs.folder import training_part, write_record
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import (
    AnyExperiment,
    DataInfo,
    Sampling,
    Training,
    Upkeep,
)
from jaxdiff.training.initialize import init_shapes
from jaxdiff.training.optimizer import Optimizer
from tests.helpers.runs import NETWORK

CONFIG = jd.Experiment(
    network=NETWORK,
    schedule=jd.Linear(num_steps=8, beta_end=0.9),
    optimizer=Optimizer(warmup_steps=2),
    training=Training(num_steps=2, batch_size=8),
    upkeep=Upkeep(log_every=1, checkpoint_every=2),
    sampling=Sampling(chunk=8),
)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Returns the bytes of each file in a folder, and None for each sub-folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def fake_run(
    workdir: Path, conditional: bool, ema_lengths: tuple[float, ...] = ()
) -> None:
    """Writes a run folder as `train` does, with parameters that are all zero."""
    training = dataclasses.replace(CONFIG.training, ema_lengths=ema_lengths)
    experiment = dataclasses.replace(CONFIG, conditional=conditional, training=training)
    classes = (10, tuple("0123456789")) if conditional else (None, None)
    write_run(workdir, experiment, DataInfo((8, 8, 1), *classes))


def write_run(workdir: Path, experiment: AnyExperiment, info: DataInfo) -> None:
    """Writes a run folder with a checkpoint of step 2, whose arrays are all zero."""
    workdir.mkdir()
    write_record(workdir, experiment, info)
    shapes = init_shapes(experiment, info)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(2, state, {"configuration": training_part(experiment, info)})
