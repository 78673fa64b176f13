"""Fine-tuning: a run that starts from the model of another (`Experiment.init`)."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxdiff.errors import InputError, first_few
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.folder import read_config
from jaxdiff.runs.load import load
from jaxdiff.serialization import differences, to_dict
from jaxdiff.storage.checkpoints import by_name
from jaxdiff.training.experiment import Experiment
from jaxdiff.typing import Array, Params

MODEL = ("network", "schedule", "prediction", "objective", "sampling")
"""The parts of an experiment that belong to the model."""
FREE = ("dropout", "label_dropout", "dtype", "remat")
"""The options of a network that may change without a word."""


def with_model_of(experiment: Experiment, workdir: Path) -> Experiment:
    """The experiment with the network, schedule and so on of a run folder.

    Raises:
        InputError: there is no run, or its config.json cannot be read.
    """
    there, _ = read_config(workdir)
    return replace(experiment, **{part: getattr(there, part) for part in MODEL})


def start_of(experiment: Experiment, wanted: Params) -> dict[str, Array]:
    """The parameters that a run starts from, by their names; none without `init`.

    Args:
        experiment: the run's; the parameters lie on the devices as its layout says.
        wanted: the parameters of its network, or their shapes.

    Returns:
        The average of the other run's parameters, where name and shape are the same.

    Raises:
        InputError: there is no such run, or it fits less than half of the network.

    Warns:
        UserWarning: it names what does not fit, and starts anew, and the options in
            which the other model was trained otherwise.
    """
    if experiment.init is None:
        return {}
    run = load(experiment.init, parallel=experiment.parallel)
    there, here = by_name(run.params), by_name(wanted)
    fits = {
        name: leaf
        for name, leaf in there.items()
        if name in here and leaf.shape == here[name].shape
    }
    misfits = differences(_shapes(there), _shapes(here))
    size, total = _size(fits), _size(here)
    if 2 * size < total:
        raise InputError(
            f"init: only {size / total:.0%} of the network is in '{experiment.init}' "
            f"({first_few(misfits)}): take its network, or leave init out"
        )
    changed = differences(_options(run.experiment), _options(experiment))
    for told, parts in (
        (f"of '{experiment.init}' this does not fit, and starts anew", misfits),
        (f"the model of '{experiment.init}' was trained otherwise", changed),
    ):
        if parts and is_first():
            warnings.warn(f"{told}: {'; '.join(parts)}", stacklevel=2)
    return fits


def _shapes(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(leaf.shape) for name, leaf in params.items()}


def _size(params: Mapping[str, Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in params.values())


def _options(experiment: Experiment) -> dict[str, Any]:
    """The options in which two models must agree to compute the same."""
    plain = to_dict(experiment)
    network = {k: v for k, v in plain["network"].items() if k not in FREE}
    return {
        "network": network, "schedule": plain["schedule"],
        "prediction": plain["prediction"],
    }  # fmt: skip
