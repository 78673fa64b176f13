"""The command `reproduce`: a run again from its folder, and whether it is the same."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.cli.train import devices_again
from jaxdiff.errors import InputError
from jaxdiff.parallel import Pmap, cpu_devices
from jaxdiff.parallel.processes import exit_process, is_first
from jaxdiff.runs.folder import CHECKPOINTS, METRICS, read_config
from jaxdiff.runs.load import newest_step
from jaxdiff.runs.log import last_start
from jaxdiff.runs.train import train
from jaxdiff.storage import json_lines
from jaxdiff.storage.checkpoints import Checkpoints, by_name
from jaxdiff.training.initialize import build_model, placed, recipe_of
from jaxdiff.training.recipe import state_shapes


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Which run to run again."""

    workdir: Path
    """The run folder; it is only read."""
    again: Path | None = None
    """The folder of the second run; beside the first, with -again, by default."""


def reproduce(options: ReproduceOptions) -> bool:
    """Runs a run again, up to its newest checkpoint, and compares the two.

    Both are trained with the first one's configuration; the code, the versions and the
    devices are those of now, and told where they differ.

    Returns:
        Whether parameters, their average, the optimiser's state and the lines of
        metrics are the same, bit for bit.

    Raises:
        InputError: there is no run, or it has no checkpoint; or see `train`.
    """
    first = options.workdir
    cpu_devices.use(devices_again(first))
    again = options.again or first.with_name(first.name + "-again")
    if again.resolve() == first.resolve():
        raise InputError(f"'{again}' is the run itself: give another --again")
    if again.exists() and not again.is_dir():
        raise InputError(f"'{again}' is no folder: give another --again")
    experiment, info = read_config(first)
    with Checkpoints(first / CHECKPOINTS) as checkpoints:
        step = newest_step(checkpoints)
    if step is None:
        raise InputError(f"the run in '{first}' has no checkpoint yet: train it first")
    train(experiment, again, until=step)

    shapes = state_shapes(recipe_of(experiment, build_model(experiment, info)))
    template = placed(shapes, Pmap().shardings(shapes))
    found = []
    for folder in (first, again):
        with Checkpoints(folder / CHECKPOINTS) as checkpoints:
            state = jax.device_get(checkpoints.restore(template, step))
        hashes = {name: digest(part) for name, part in state._asdict().items()}
        lines = [
            line for line in json_lines.read(folder / METRICS, "step")
            if line["step"] <= step
        ]  # fmt: skip
        found.append(hashes | {METRICS: digest([repr(line) for line in lines])})
    same = found[0] == found[1]
    if is_first():
        print(f"step {step} of '{first}' and of '{again}'")
        for name, one in found[0].items():
            two = found[1][name]
            print(f"  {name:<14} {one}  {'the same' if one == two else f'now {two}'}")
        for line in _differences(first, again):
            print(f"  {line}")
        print("the same bits" if same else "NOT the same")
    return same


def reproduce_or_exit(options: ReproduceOptions) -> None:
    """Runs a run again; exits with 1 where the two are not the same."""
    if not reproduce(options):
        exit_process(1)


def digest(tree: Any) -> str:
    """A hash of every leaf's name, type, shape and bytes."""
    found = hashlib.sha256()
    for name, leaf in by_name(tree).items():
        array = np.asarray(leaf)
        found.update(f"{name} {array.dtype} {array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def _differences(first: Path, again: Path) -> list[str]:
    """What differs in how the two were last started."""
    starts = [last_start(folder) for folder in (first, again)]
    lines = []
    for part in ("code", "versions", "devices", "machine"):
        one, two = (start.get(part, {}) for start in starts)
        for name in sorted(one.keys() | two.keys()):
            if one.get(name) != two.get(name):
                lines.append(f"{name}: {one.get(name)} then, {two.get(name)} now")
    return lines
