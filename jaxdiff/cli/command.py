"""`Command`, an entry of the table of commands, and the arguments it may need."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.cli.flags import value_of
from jaxdiff.data import Data, Digits
from jaxdiff.errors import InputError
from jaxdiff.parallel import Parallel, Pmap, cpu_devices
from jaxdiff.runs.fine_tune import with_model_of
from jaxdiff.runs.folder import CONFIG as CONFIG_FILE
from jaxdiff.runs.folder import read_config
from jaxdiff.runs.load import Run, load
from jaxdiff.training.experiment import Experiment

Judge = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]
"""Function of (images, labels, training images, training labels) that returns the share
of images that show their class."""


class File(NamedTuple):
    """Experiment file, as its command line uses it."""

    config: Experiment
    """Experiment; flags change its fields."""
    judge: Judge | None
    """Function for the label agreement of samples, if any."""
    workdir: Path
    """Default of --workdir."""


@dataclass(frozen=True)
class Need:
    """Argument of a command in addition to its own options."""

    get: Callable[..., Any]
    """Function of (file, the command's options, options of `flags` if any) that returns
    the argument."""
    flags: Callable[[File, Sequence[str]], Any] | None = None
    """Function of (file, words of the command line) that returns further options, whose
    fields become flags of the command."""


@dataclass(frozen=True)
class Command:
    """Entry of the table of commands."""

    name: str
    """Name on the command line."""
    options: type[Any]
    """Class of the command's own flags."""
    run: Callable[..., None]
    """Function that runs the command, from its options and the arguments in `needs`."""
    about: str
    """Summary for --help; it starts with a verb."""
    needs: tuple[Need, ...] = ()
    """Further arguments of `run`; at most one of them has flags."""
    words: tuple[str, ...] = ()
    """Flags whose values may be the first words after the command."""

    def defaults(self, file: File) -> Any:
        """Returns the options of the command if no flag is given."""
        if "workdir" in {field.name for field in fields(self.options)}:
            return self.options(workdir=file.workdir)
        return self.options()


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Options of commands that load a trained model."""

    parallel: Parallel = field(default_factory=Pmap)
    """Layout of devices; the results do not depend on it, up to rounding."""


@dataclass(frozen=True, kw_only=True)
class Trained(Devices):
    """Options of commands that use one average of a trained model's parameters."""

    ema: float | None = None
    """Relative length in (0, 0.288) of a post-hoc average from training.ema-lengths.
    None takes the average of constant decay."""


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Options of commands that read the data of a run."""

    data: Data = field(default_factory=Digits)
    """Dataset of the run. Its images and labels must be those of the training."""


@dataclass(frozen=True, kw_only=True)
class TrainedOnData(Trained, RunData):
    """Options of commands that use a trained model and its data."""


@dataclass(frozen=True, kw_only=True)
class DevicesAndData(Devices, RunData):
    """Options of commands that load a trained model and its data."""


def _with_data(cls: type[RunData]) -> Callable[[File, Sequence[str]], RunData]:
    """Returns a function that creates the options with the data of the run folder."""

    def create(file: File, words: Sequence[str]) -> RunData:
        workdir = Path(value_of("--workdir", words) or file.workdir)
        try:
            return cls(data=read_config(workdir)[0].data)
        except InputError:  # the command raises it again
            return cls(data=file.config.data)

    return create


def _with_init(file: File, words: Sequence[str]) -> Experiment:
    """Returns the experiment with the model of the run that --init names.

    A run that resumes takes the model from its own config.json.
    """
    init = value_of("--init", words)
    if init in (None, "", "None"):
        return file.config
    workdir = Path(value_of("--workdir", words) or file.workdir)
    is_there = (workdir / CONFIG_FILE).exists()
    return with_model_of(file.config, workdir if is_there else Path(init))


def _load(file: File, options: Any, devices: Devices) -> Run:
    """Loads the model of the run folder in the options."""
    cpu_devices.use(devices.parallel.usable(cpu_devices.available()))
    ema = devices.ema if isinstance(devices, Trained) else None
    run = load(options.workdir, parallel=devices.parallel, ema=ema)
    if not isinstance(devices, RunData):
        return run
    return replace(run, experiment=replace(run.experiment, data=devices.data))


CONFIG = Need(lambda file, *_: file.config)
"""Experiment of the file, unchanged."""
JUDGE = Need(lambda file, *_: file.judge)
"""Label-agreement function of the file."""
DATA = Need(lambda _, __, experiment: experiment, lambda file, _: file.config)
"""Experiment with the changes of the flags."""
EXPERIMENT = Need(lambda _, __, experiment: experiment, _with_init)
"""Experiment with the model of --init and the changes of the flags."""
MODEL = Need(_load, lambda *_: Trained())
"""Trained model."""
MODEL_AND_DATA = Need(_load, _with_data(TrainedOnData))
"""Trained model, whose experiment names the data of the flags."""
USUAL_MODEL_AND_DATA = Need(_load, _with_data(DevicesAndData))
"""Trained model with its average of constant decay, and the data of the flags."""
DATA_OF_RUN = Need(lambda _, __, options: options.data, _with_data(RunData))
"""Data of the run, with the changes of the flags."""
