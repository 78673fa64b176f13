"""Layouts of devices and processes give an autoencoder the results of one device.

The autoencoder has a discriminator, whose weight is a quotient of two gradients of the
whole batch. The bounds are those of test_layouts.py.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.parallel import Pmap, Sharded
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage import json_lines
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.autoencoder_experiment import (
    KL,
    AutoencoderExperiment,
    Patch,
)
from jaxdiff.training.experiment import Training, Upkeep
from jaxdiff.training.initialize import init_shapes
from jaxdiff.training.optimizer import Optimizer
from tests.helpers.runs import trained

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("standard_promotion")]
ROOT = pathlib.Path(jd.__file__).parent.parent
PROGRAM = pathlib.Path(sys.executable).with_name("jaxdiff")
STEPS = 4
EXPERIMENT = AutoencoderExperiment(
    autoencoder=KL(channels=8, multipliers=(1, 1), groups=2, kl_weight=1e-2),
    discriminator=Patch(start=2, channels=8, layers=1),
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2, epsilon=1e-2),
    training=Training(num_steps=STEPS, batch_size=16, ema_decay=0.9),
    upkeep=Upkeep(log_every=1, checkpoint_every=STEPS, tensorboard=False),
    parallel=Pmap(num_devices=1),
)


def lines_of(workdir):
    return json_lines.read(workdir / "metrics.jsonl", "step")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run on one device, and its last state."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    with jax.numpy_dtype_promotion("standard"):
        return workdir, trained(workdir, EXPERIMENT)


def check(workdir, state, alone):
    expected, wanted = alone
    for found, line in zip(lines_of(workdir), lines_of(expected), strict=True):
        assert found == pytest.approx(line, rel=1e-4, abs=1e-6)
    assert lines_of(expected)[-1]["adaptive_weight"] > 0
    for part in ("params", "ema"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, 0, 1e-5),
            getattr(state, part),
            getattr(wanted, part),
        )


@pytest.mark.parametrize(
    ("parallel", "accumulate"),
    [(Pmap(num_devices=8), 1), (Sharded(data=2, fsdp=4), 1), (Pmap(num_devices=2), 2)],
    ids=["pmap", "sharded", "accumulated"],
)
def test_devices_agree(parallel, accumulate, alone, tmp_path):
    training = dataclasses.replace(EXPERIMENT.training, accumulate=accumulate)
    experiment = dataclasses.replace(EXPERIMENT, parallel=parallel, training=training)
    check(tmp_path / "run", trained(tmp_path / "run", experiment), alone)


@pytest.mark.parametrize("layout", ["pmap", "sharded"])
def test_processes_agree(layout, alone, tmp_path):
    """Two processes of the program, which read the experiment from its flags."""
    workdir = tmp_path / "run"
    flags = (
        f"train-autoencoder digits --workdir {workdir} --autoencoder.channels 8 "
        "--autoencoder.multipliers 1 1 --autoencoder.groups 2 "
        "--autoencoder.kl-weight 1e-2 --discriminator patch --discriminator.start 2 "
        "--discriminator.channels 8 --discriminator.layers 1 "
        "--optimizer.learning-rate 1e-2 --optimizer.warmup-steps 2 "
        "--optimizer.decay constant --optimizer.epsilon 1e-2 "
        "--training.batch-size 16 --training.ema-decay 0.9 "
        f"--training.num-steps {STEPS} --upkeep.log-every 1 --upkeep.checkpoint-every "
        f"{STEPS} --upkeep.no-tensorboard --parallel {layout}"
    )
    line = f"launch/local -n 2 -d 1 -o {tmp_path / 'logs'} {PROGRAM}"
    environment = {k: v for k, v in os.environ.items() if k != "NPROC"}
    done = subprocess.run(
        [*line.split(), *flags.split()], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shapes = init_shapes(EXPERIMENT, Trainer.of(EXPERIMENT).info)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = jax.device_get(checkpoints.restore(shapes, STEPS))
    check(workdir, state, alone)
