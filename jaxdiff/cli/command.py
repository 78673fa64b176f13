"""A command of the command line, and what it may need beside its own flags."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.cli.flags import value_of
from jaxdiff.parallel import Parallel, Pmap, cpu_devices
from jaxdiff.runs.fine_tune import with_model_of
from jaxdiff.runs.folder import CONFIG as CONFIG_FILE
from jaxdiff.runs.load import Run, load
from jaxdiff.training.experiment import Experiment

Judge = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]
"""From (images, labels, training images, training labels) the share of images that show
their class."""


class File(NamedTuple):
    """An experiment's file, as its command line uses it."""

    config: Experiment
    """The experiment."""
    judge: Judge | None
    """The judge of its samples."""
    workdir: Path
    """The default of --workdir."""


@dataclass(frozen=True)
class Need:
    """An argument of commands, beside their own flags."""

    get: Callable[..., Any]
    """From (file, the command's options, those of `flags` if any) the argument."""
    flags: Callable[[File, Sequence[str]], Any] | None = None
    """From (file, the words of the line) options whose flags the command takes too."""


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    name: str
    """The word that chooses it."""
    options: type[Any]
    """The class of its own flags."""
    run: Callable[..., None]
    """Does it, from its options and what it needs."""
    about: str
    """A verb and more, for --help."""
    needs: tuple[Need, ...] = ()
    """The further arguments of `run`; one of them at most has flags."""
    words: tuple[str, ...] = ()
    """The flags whose values are the first words after the command."""

    def defaults(self, file: File) -> Any:
        """Its options where no flag is given."""
        if "workdir" in {field.name for field in fields(self.options)}:
            return self.options(workdir=file.workdir)
        return self.options()


@dataclass(frozen=True, kw_only=True)
class Devices:
    """How the devices share a trained model."""

    parallel: Parallel = field(default_factory=Pmap)
    """How devices share the work; what comes of it does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Trained(Devices):
    """Which of a run's models is used, and how the devices share it."""

    ema: float | None = None
    """Take the parameters' average of this relative length, in (0, 0.288), made from
    those of training.ema-lengths; by default that of constant decay."""


def _with_init(file: File, words: Sequence[str]) -> Experiment:
    """The experiment with the model of the run that --init names.

    A run that goes on needs only its own record of it.
    """
    init = value_of("--init", words)
    if init in (None, "", "None"):
        return file.config
    workdir = Path(value_of("--workdir", words) or file.workdir)
    is_there = (workdir / CONFIG_FILE).exists()
    return with_model_of(file.config, workdir if is_there else Path(init))


def _load(file: File, options: Any, devices: Devices) -> Run:
    """The model in the run folder of the options, on its devices."""
    cpu_devices.use(devices.parallel.usable(cpu_devices.available()))
    ema = devices.ema if isinstance(devices, Trained) else None
    return load(options.workdir, parallel=devices.parallel, ema=ema)


CONFIG = Need(lambda file, *_: file.config)
"""The experiment as the file has it."""
JUDGE = Need(lambda file, *_: file.judge)
"""The file's judge."""
DATA = Need(lambda _, __, experiment: experiment, lambda file, _: file.config)
"""The experiment as flags change it."""
EXPERIMENT = Need(lambda _, __, experiment: experiment, _with_init)
"""The experiment as flags change it, from the model of --init."""
MODEL = Need(_load, lambda *_: Trained())
"""A trained model."""
USUAL_MODEL = Need(_load, lambda *_: Devices())
"""A trained model, without a choice of its average."""
