"""`Command`, an entry of the table of commands, and the arguments it may need."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.cli.flag_errors import HELP, flag_of, groups_of
from jaxdiff.cli.flags import value_of
from jaxdiff.data import Data, Digits
from jaxdiff.errors import InputError
from jaxdiff.parallel import Parallel, Pmap, cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.autoencoder import (
    AutoencoderRun,
    is_autoencoder,
    load_autoencoder,
)
from jaxdiff.runs.fine_tune import with_model_of, with_objective
from jaxdiff.runs.folder import (
    is_kind,
    is_run,
    read_config,
    read_diffusion,
    read_kind,
    training_part,
)
from jaxdiff.runs.load import load
from jaxdiff.runs.run import Run
from jaxdiff.runs.towers import TowersRun, load_towers
from jaxdiff.serialization import differences
from jaxdiff.training.autoencoder_experiment import AutoencoderExperiment
from jaxdiff.training.experiment import AnyExperiment, Experiment
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.training.towers_experiment import TowersExperiment

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
    description: str = ""
    """Text at the top of --help."""
    program: bool = False
    """True for the program `jaxdiff`, whose own options are mere defaults."""


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
    daily: tuple[str, ...] = ()
    """Flags that --help prints, by field; --help-all prints all. () prints all."""
    suffix: str = ""
    """End of the name of the run folder that a recipe has by default."""

    @property
    def trains(self) -> bool:
        """True if the command begins a training, or goes on with one."""
        return bool(
            {EXPERIMENT, DISTILLATION, AUTOENCODER, TOWERS, PRIOR} & set(self.needs)
        )

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
    step: int | None = None
    """Step of the checkpoint, or the newest."""


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


def _experiment(file: File, words: Sequence[str]) -> Experiment:
    """Returns the defaults of the flags of a training.

    They are the options of the run that --workdir names, if it is there and its data
    are those of the file. Otherwise they are the file's, with the model of the run that
    --init names. An --objective of few steps then brings its own sampler. A run that
    resumes takes the model from its own config.json.
    """
    typed = value_of("--workdir", words)
    asks = any(word in HELP for word in words)
    if typed and not asks and is_run(Path(typed)):
        own, info = read_diffusion(Path(typed))
        if file.program or _same_data(own, file.config):
            if not file.program:
                _warn_of_own(typed, training_part(own, info),
                             training_part(file.config, info), words)  # fmt: skip
            return own
    init = value_of("--init", words)
    few = value_of("--objective", words), value_of("--objective.steps", words)
    if init in (None, "", "None"):
        return with_objective(file.config, *few)
    workdir = Path(value_of("--workdir", words) or file.workdir)
    if is_run(workdir):
        return with_model_of(file.config, workdir)
    return with_objective(with_model_of(file.config, Path(init)), *few)


def _distillation(file: File, words: Sequence[str]) -> Experiment:
    """Returns the defaults of the flags of a chain of students, with init's model."""
    init = value_of("--init", words)
    found = file.config
    if init not in (None, "", "None"):
        found = with_model_of(found, Path(init))
    return with_objective(found, "progressive")


def _of_kind(cls: type[Any]) -> Callable[..., AnyExperiment]:
    """Returns a function that returns the defaults of the flags of a training.

    They are the options of the run that --workdir names, if it is there.
    """

    def create(file: File, words: Sequence[str]) -> AnyExperiment:
        typed = value_of("--workdir", words)
        if typed and not any(word in HELP for word in words) and is_run(Path(typed)):
            found: AnyExperiment = read_kind(Path(typed), cls)[0]
            return found
        fresh: AnyExperiment = cls(data=file.config.data)
        return fresh

    return create


def _same_data(own: Experiment, ours: Experiment) -> bool:
    """Returns True if the data of a run can be those of an experiment file."""
    path, of_run = (getattr(one.data, "path", "") for one in (ours, own))
    return type(own.data) is type(ours.data) and path in ("", of_run)


def _warn_of_own(
    workdir: str, own: dict[str, Any], ours: dict[str, Any], words: Sequence[str]
) -> None:
    """Warns about options of a run that differ from the file's and are no flags."""
    flags = [flag_of(group)[0].lstrip("-") for group in groups_of(words)]
    typed = [re.sub(r"(^|\.)no_", r"\1", flag.replace("-", "_")) for flag in flags]
    found = [
        one for one in differences(own, ours)
        if not any(f"{one.partition(':')[0]}.".startswith(f"{flag}.") for flag in typed)
    ]  # fmt: skip
    if found and is_first():
        warnings.warn(
            f"used the options of the run in '{workdir}', which are not the file's: "
            f"{'; '.join(found)}",
            stacklevel=2,
        )


def _load_any(
    file: File, options: Any, devices: TrainedOnData
) -> Run | AutoencoderRun | TowersRun:
    """Loads the model, autoencoder or towers of the run folder in the options."""
    loads: Callable[..., Any]
    if is_autoencoder(options.workdir):
        loads = load_autoencoder
    elif is_kind(options.workdir, TowersExperiment):
        loads = load_towers
    else:
        return _load(file, options, devices)
    if devices.ema is not None:
        raise InputError("ema must be None for this kind of run. Leave --ema out.")
    cpu_devices.use(devices.parallel.usable(cpu_devices.available()))
    run: Any = loads(options.workdir, devices.step, devices.parallel)
    found: AutoencoderRun | TowersRun = replace(
        run, experiment=replace(run.experiment, data=devices.data)
    )
    return found


def _load(file: File, options: Any, devices: Devices) -> Run:
    """Loads the model of the run folder in the options."""
    cpu_devices.use(devices.parallel.usable(cpu_devices.available()))
    step, ema = None, None
    if isinstance(devices, Trained):
        step, ema = devices.step, devices.ema
    run = load(options.workdir, step, devices.parallel, ema)
    if not isinstance(devices, RunData):
        return run
    return replace(run, experiment=replace(run.experiment, data=devices.data))


CONFIG = Need(lambda file, *_: file.config)
"""Experiment of the file, unchanged."""
JUDGE = Need(lambda file, *_: file.judge)
"""Label-agreement function of the file."""
DATA = Need(lambda _, __, experiment: experiment, lambda file, _: file.config)
"""Experiment with the changes of the flags."""
EXPERIMENT = Need(lambda _, __, experiment: experiment, _experiment)
"""Experiment, or the options of the run that resumes, with the changes of the flags."""
DISTILLATION = Need(lambda _, __, experiment: experiment, _distillation)
"""Experiment of a chain of students, with the changes of the flags."""
AUTOENCODER = Need(
    lambda _, __, experiment: experiment, _of_kind(AutoencoderExperiment)
)
"""Options of an autoencoder's training, or of its run that resumes, with the flags."""
TOWERS = Need(lambda _, __, experiment: experiment, _of_kind(TowersExperiment))
"""Options of the training of two towers, or of a run that resumes, with the flags."""
PRIOR = Need(lambda _, __, experiment: experiment, _of_kind(PriorExperiment))
"""Options of the training of a prior, or of a run that resumes, with the flags."""
ANY_MODEL_AND_DATA = Need(_load_any, _with_data(TrainedOnData))
"""Trained model, autoencoder or towers, whose experiment names the flags' data."""
MODEL = Need(_load, lambda *_: Trained())
"""Trained model."""
MODEL_AND_DATA = Need(_load, _with_data(TrainedOnData))
"""Trained model, whose experiment names the data of the flags."""
USUAL_MODEL_AND_DATA = Need(_load, _with_data(DevicesAndData))
"""Trained model with its average of constant decay, and the data of the flags."""
DATA_OF_RUN = Need(lambda _, __, options: options.data, _with_data(RunData))
"""Data of the run, with the changes of the flags."""
