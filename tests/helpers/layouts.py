"""Training, sampling and evaluation under any layout of devices and processes.

The tests call `work` for layouts of one process. They start several processes with

    launch/local -n 2 -d 2 python -m tests.helpers.layouts FOLDER pmap-4 fsdp-4

and, for a network that compiles in a second instead of the U-Net, with

    launch/local -n 2 -d 1 python -m tests.helpers.layouts FOLDER --wide fsdp-2
"""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

import jaxdiff as jd
from jaxdiff.data import batch
from jaxdiff.evaluation.dataset_likelihood import evaluate_likelihood
from jaxdiff.losses.loss import draw
from jaxdiff.parallel import Parallel, processes
from jaxdiff.runs.trainer import data_info
from jaxdiff.training.experiment import Sampling, Training, Upkeep
from jaxdiff.training.initialize import build_model
from jaxdiff.training.optimizer import Optimizer
from jaxdiff.typing import Network
from tests.helpers.own_networks import Wide

STEPS, HALF, BATCH = 10, 5, 16
EXPERIMENT = jd.Experiment(
    schedule=jd.Linear(num_steps=8, beta_start=1e-3, beta_end=0.9),
    network=jd.UNetConfig(
        channels=8, multipliers=(1,), blocks=1, attention=(), groups=4, dropout=0.2
    ),
    optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2, epsilon=1e-2),
    training=Training(
        num_steps=STEPS, batch_size=BATCH, ema_decay=0.9, ema_lengths=(0.1,)
    ),
    upkeep=Upkeep(
        log_every=HALF, checkpoint_every=HALF, snapshots=2, tensorboard=False
    ),
    sampling=Sampling(chunk=BATCH),
)
"""Experiment whose network has dropout, and arrays large enough to shard."""

WIDE = Wide(num_classes=10)
"""Network that compiles quickly, also with dropout and large arrays."""

GRADIENT_KEPT = optax.GradientTransformation(
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda gradient, state, params=None: (
        jax.tree.map(jnp.zeros_like, gradient),
        gradient,
    ),
)
"""Optimiser that updates nothing, and whose state is the gradient."""


def layout(name: str) -> jd.Experiment:
    """Returns the experiment of a layout.

    Args:
        name: `pmap-N` or `data-D-fsdp-F`, then `-accumulate-A`, `-dispatch-S`.
    """
    option = {k: int(v) for k, v in re.findall(r"([a-z]+)-(\d+)", name)}
    parallel: Parallel = (
        jd.parallel.Pmap(num_devices=option["pmap"])
        if "pmap" in option
        else jd.parallel.Sharded(data=option.get("data", 1), fsdp=option["fsdp"])
    )
    training = dataclasses.replace(
        EXPERIMENT.training,
        accumulate=option.get("accumulate", 1),
        steps_per_dispatch=option.get("dispatch", 1),
    )
    return dataclasses.replace(EXPERIMENT, parallel=parallel, training=training)


def work(
    name: str, folder: Path, one: Path, before: Path, network: Network | None = None
) -> None:
    """Trains, resumes, samples and evaluates under a layout, and writes to `folder`.

    Args:
        name: Name of the layout.
        folder: Folder for `results.npz`, the run `train`, and the run `resumed`.
        one: Run folder of the model that samples and evaluates.
        before: Run folder whose checkpoint of the middle step is resumed.
        network: Network to use instead of the experiment's network.
    """
    experiment = layout(name)
    results = first_step(experiment, network)
    jd.train(experiment, folder / "train", network=network, progress=False)

    if processes.is_first():
        (folder / "resumed" / "checkpoints").mkdir(parents=True)
        for place in ("config.json", f"checkpoints/{HALF}"):
            copy = shutil.copytree if (before / place).is_dir() else shutil.copy
            copy(before / place, folder / "resumed" / place)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("copied")
    jd.train(experiment, folder / "resumed", network=network, progress=False)

    run = jd.load(one, parallel=experiment.parallel, network=network)
    results["images"] = run.generate(np.arange(BATCH) % 10, BATCH, seed=3)
    judged = evaluate_likelihood(run, jd.data.Digits().load("test"), num=8, ode_steps=2)
    assert judged.ode is not None
    results["bits"] = np.array([b.value for b in (*judged.bounds.values(), judged.ode)])
    if processes.is_first():
        np.savez(folder / "results.npz", allow_pickle=False, **results)


def first_step(
    experiment: jd.Experiment, own: Network | None = None
) -> dict[str, np.ndarray]:
    """Returns the random draws, the metrics and the gradient of step 0."""
    parallel, dataset = experiment.parallel, experiment.data.load("train")
    info = data_info(experiment, dataset)
    model = build_model(experiment, info, own)
    network, schedule = model.network, model.schedule
    whole = batch(dataset, experiment.seed, 0, BATCH)
    mine = batch(dataset, experiment.seed, 0, BATCH, rows=parallel.rows(BATCH))

    def draw_(key: Any, share: Any) -> Any:
        drawn = draw(share, key, schedule, experiment.objective, ())
        names = "dropout_keys", "keys"
        data = {name: jax.random.key_data(getattr(drawn, name)) for name in names}
        return drawn._replace(**data)

    key = jax.random.fold_in(jax.random.key(experiment.seed), 0)
    drawn = parallel.map(draw_)(key, whole)

    def init() -> jd.TrainState:
        return jd.TrainState.create(model.init(experiment.seed), GRADIENT_KEPT)

    state = jax.jit(init, out_shardings=parallel.shardings(jax.eval_shape(init)))()
    step = parallel.step(
        partial(
            jd.train_step, network=network, schedule=schedule,
            prediction=experiment.prediction, objective=experiment.objective,
            optimizer=GRADIENT_KEPT, ema_decay=0.9, seed=experiment.seed,
            accumulate=experiment.training.accumulate,
        )
    )  # fmt: skip
    state, metrics = step(parallel.localize(state), mine)
    state = parallel.globalize(state)
    gradient = multihost_utils.process_allgather(state.opt_state, tiled=True)
    return {
        **{f"draw/{name}": value for name, value in drawn._asdict().items()},
        **{f"metric/{k}": np.asarray(v) for k, v in metrics.items()},
        **{
            f"gradient{jax.tree_util.keystr(path)}": np.asarray(leaf)
            for path, leaf in jax.tree.leaves_with_path(gradient)
        },
    }


class Counted(np.ndarray):
    """Images that log the indices of each read."""

    reads: list[list[int]] = []  # noqa: RUF012

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, np.ndarray):
            self.reads.append(place.tolist())
        return np.asarray(super().__getitem__(place))


def counted(load: Callable[..., jd.data.Dataset]) -> Callable[..., jd.data.Dataset]:
    """Returns `Digits.load` with `Counted` images."""

    def load_counted(self: jd.data.Digits, split: str = "train") -> jd.data.Dataset:
        dataset = load(self, split)
        return dataclasses.replace(
            dataset, images=np.asarray(dataset.images).view(Counted)
        )

    return load_counted


def main(folder: Path, *names: str) -> None:
    """Runs one of several processes."""
    processes.join()
    jd.data.Digits.load = counted(jd.data.Digits.load)  # type: ignore[method-assign]
    before = folder / "one" / "train"
    network = WIDE if "--wide" in names else None
    for name in names:
        if name == "--wide":
            continue
        Counted.reads.clear()
        work(name, folder / name, folder / "one" / "train", before, network)
        record = folder / name / f"reads-{jax.process_index()}.json"
        record.write_text(json.dumps(Counted.reads))
        before = folder / name / "train"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
