"""The command `reproduce`: a run again from its folder, compared by checksums."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax

from jaxdiff.cli.train import devices_again
from jaxdiff.cli.train_autoencoder import trainer_of
from jaxdiff.data import Data
from jaxdiff.errors import InputError, printable
from jaxdiff.parallel import Pmap, cpu_devices
from jaxdiff.parallel.processes import exit_process, is_first
from jaxdiff.runs.folder import CHECKPOINTS, METRICS, check_workdir, read_config
from jaxdiff.runs.identity import newest_step
from jaxdiff.runs.log import last_start
from jaxdiff.runs.stages import Stage, segments, stages_before
from jaxdiff.runs.train import run_training
from jaxdiff.storage import json_lines
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.read_state import digest
from jaxdiff.training.initialize import init_shapes, placed


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Options of the command `reproduce`."""

    workdir: Path
    """Run folder; it is only read."""
    again: Path | None = None
    """Folder of the second run. None adds -again to the name of the run folder."""


def reproduce(options: ReproduceOptions, data: Data | None = None) -> bool:
    """Runs a run again, up to its newest checkpoint, and compares the two runs.

    The second run has the first one's configuration and stages, and the code, versions
    and devices of now. Their differences are printed.

    Args:
        options: options of the command.
        data: data of the run, if they have moved.

    Returns:
        True if all parts of the train state (parameters, averages, optimizer) and the
        lines of metrics are bitwise identical.

    Raises:
        InputError: there is no run, it has no checkpoint, or the data have changed; see
            also `train`.
    """
    first = options.workdir
    cpu_devices.use(devices_again(first))
    again = options.again or first.with_name(first.name + "-again")
    if again.resolve() == first.resolve():
        raise InputError(
            f"--again must differ from --workdir, got '{again}'. Name another folder."
        )
    if again.exists() and not again.is_dir():
        raise InputError(f"--again must be a folder, got '{again}'. Name a folder.")
    experiment, info = read_config(first)
    with Checkpoints(first / CHECKPOINTS) as checkpoints:

        def read(step: int | None) -> tuple[int, list[Stage]]:
            if step is None:
                raise InputError(
                    f"the run in '{first}' has no checkpoint. Train it first."
                )
            return step, stages_before(checkpoints.record(step), experiment)

        newest = partial(newest_step, checkpoints)
        step, stages = checkpoints.read_newest(read, newest)
    if data is not None:
        experiment = replace(experiment, data=data)
    with Checkpoints(again / CHECKPOINTS) as checkpoints:
        done = newest_step(checkpoints) or 0
    for part, _, until in segments(stages, experiment, min(done, step - 1), step):
        trainer = trainer_of(part)
        check_workdir(first, experiment, trainer.info)
        run_training(trainer, again, until=until)

    shapes = init_shapes(experiment, info)._replace(frozen=())
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
        print(printable(f"step {step} of '{first}' and of '{again}'"))
        for name, one in found[0].items():
            two = found[1][name]
            print(f"  {name:<14} {one}  {'the same' if one == two else f'now {two}'}")
        for line in _differences(first, again):
            print(printable(f"  {line}"))
        print("bitwise identical" if same else "NOT identical")
    return same


def reproduce_or_exit(options: ReproduceOptions, data: Data | None = None) -> None:
    """Runs a run again; exits with code 1 if the two runs differ."""
    if not reproduce(options, data):
        exit_process(1)


def _differences(first: Path, again: Path) -> list[str]:
    """Returns a line per difference between the last starts of the two runs."""
    starts = [last_start(folder) for folder in (first, again)]
    lines = []
    for part in ("code", "versions", "devices", "machine"):
        one, two = (start.get(part, {}) for start in starts)
        for name in sorted(one.keys() | two.keys()):
            if one.get(name) != two.get(name):
                lines.append(f"{name}: {one.get(name)} then, {two.get(name)} now")
    return lines
