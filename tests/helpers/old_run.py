"""Program for the run of `tests/data/run_b0cbe55.tar.xz`, in today's names.

    python -m tests.helpers.old_run FOLDER

resumes the run in FOLDER/old, trains the same run from scratch in FOLDER/new, and
writes the values that the tests compare: old.npz and new.npz.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.cli import main
from jaxdiff.losses.loss import draw
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

EXPERIMENT = jd.Experiment(
    schedule=jd.Linear(num_steps=20, beta_start=1e-3, beta_end=0.6),
    prediction=jd.predictions.Eps(learn_variance=True),
    objective=jd.losses.Hybrid(
        weighting=jd.losses.MinSNR(), times=jd.losses.LossHistory(warmup_steps=1)
    ),
    network=jd.UNetConfig(
        channels=4,
        multipliers=(1,),
        blocks=1,
        attention=(),
        groups=2,
        dropout=0.1,
        label_dropout=0.2,
    ),
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
    training=Training(
        num_steps=8, batch_size=16, ema_decay=0.9, ema_lengths=(0.05, 0.15)
    ),
    parallel=jd.parallel.Pmap(num_devices=1),
    upkeep=Upkeep(
        log_every=2, checkpoint_every=4, keep=1, snapshots=2, tensorboard=False
    ),
    sampling=Sampling(
        sampler=jd.DDIM(eta=0.5, spacing=jd.spacing.Trailing(num_steps=10)),
        guidance=1.5,
        chunk=8,
    ),
    seed=3,
)
SAMPLERS = {
    "ancestral": jd.DDPM(variance=jd.samplers.LearnedRange()),
    "ddim": EXPERIMENT.sampling.sampler,
    "euler": jd.samplers.Euler(spacing=jd.spacing.Trailing(num_steps=10)),
    "euler-ancestral": jd.samplers.EulerAncestral(
        spacing=jd.spacing.Trailing(num_steps=10)
    ),
    "heun": jd.Heun(spacing=jd.spacing.Karras(num_steps=6)),
    "dpm-solver": jd.DPMSolver(order=3, spacing=jd.spacing.UniformLogSNR(num_steps=8)),
    "uni-pc": jd.samplers.UniPC(order=3, spacing=jd.spacing.Trailing(num_steps=8)),
}
EVALUATE = "evaluate --features pixels --num 6 --num-terms 2 --ode-steps 0 --samples 8"


def flat(tree):
    """Returns all leaves of a tree, in their order, as one float32 vector."""
    return np.concatenate(
        [np.ravel(leaf).astype(np.float32) for leaf in jax.tree.leaves(tree)]
    )


def train(workdir):
    """Trains, and returns the final train state."""
    return {
        "state": flat(jax.device_get(jd.train(EXPERIMENT, workdir, progress=False)))
    }


def draws():
    """Returns the random draws of the first step."""
    trainer = Trainer.of(EXPERIMENT)
    batch, objective = trainer.batch(0), EXPERIMENT.objective
    key = jax.random.fold_in(jax.random.key(EXPERIMENT.seed), 0)
    drawn = draw(batch, key, trainer.model.schedule, objective, objective.times.init())
    return {
        "draws_u": drawn.u,
        "draws_t": drawn.t,
        "draws_eps": drawn.eps,
        "draws_keys": jax.random.key_data(drawn.dropout_keys),
        "draws_images": batch.images,
    }


def samples(workdir):
    """Returns images of each sampler."""
    run = jd.load(workdir)
    return {
        f"images_{name}": run.generate(
            np.arange(4), 4, 7, sampling=replace(EXPERIMENT.sampling, sampler=sampler)
        )
        for name, sampler in SAMPLERS.items()
    }


def commands(workdir):
    """Runs `evaluate`, `status` and `report`; returns the figures of `evaluate`."""
    for line in (EVALUATE, "status", "report"):
        args = [*line.split(), "--workdir", str(workdir)]
        main(EXPERIMENT, "The run of b0cbe55.", args=args)
    record = json.loads((workdir / "evaluation.json").read_text())
    return {"figures": np.array([figure["value"] for figure in record["figures"]])}


def go_on(workdir):
    """Resumes; returns images from before, the final state and a post-hoc EMA."""
    started = jd.load(workdir)
    assert started.step == 4
    images = started.generate(np.arange(4), 4, 7)
    results = {"started": images, **train(workdir)}
    return results | {"ema_0.1": flat(jd.load(workdir, ema=0.1).params)}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    old, new = folder / "old", folder / "new"
    np.savez(folder / "old.npz", **go_on(old), **samples(old), **commands(old))
    np.savez(folder / "new.npz", **train(new), **draws())
