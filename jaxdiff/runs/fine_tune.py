"""Fine-tuning: a run that starts from the model of another run (`Experiment.init`)."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxdiff.errors import InputError, first_few
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.folder import read_diffusion
from jaxdiff.runs.identity import identity
from jaxdiff.runs.load import load
from jaxdiff.runs.parts import Parts, read_parts
from jaxdiff.serialization import differences, to_dict
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.adapter import LowRank
from jaxdiff.training.experiment import Experiment
from jaxdiff.typing import Array, Params

MODEL = ("network", "schedule", "prediction", "objective", "sampling")
"""Parts of an experiment that belong to the model."""
FREE = (
    "dropout", "label_dropout", "dtype", "remat", "attention_by", "attention_chunk"
)  # fmt: skip
"""Network options that may differ without a warning."""


def with_model_of(experiment: Experiment, workdir: Path) -> Experiment:
    """Returns the experiment with the parts `MODEL` of the run in a folder.

    Raises:
        InputError: there is no run, or its config.json cannot be read.
    """
    there, _ = read_diffusion(workdir)
    return replace(experiment, **{part: getattr(there, part) for part in MODEL})


def base_of(experiment: Experiment) -> str | None:
    """Returns the identity of the model that an adapter changes; None without one."""
    if not isinstance(experiment.adapter, LowRank) or experiment.init is None:
        return None
    return identity(Path(experiment.init))


def check_start(
    experiment: Experiment, parts: Parts | None, shape: tuple[int, ...]
) -> None:
    """Checks that the data are of the kind that the model of `init` has learned.

    Args:
        experiment: the experiment of the run.
        parts: autoencoder and text encoders that made the latents; None for images.
        shape: shape of one image or of its latents.

    Raises:
        InputError: images are given for a model of latents, or latents of another
            autoencoder or other text encoders.
    """
    if experiment.init is None:
        return
    of_model = read_parts(Path(experiment.init))
    if of_model is None:
        return
    if parts is None:
        raise InputError(
            f"data must be latents for the model in '{experiment.init}', got images of "
            f"{'x'.join(map(str, shape))}. Encode them: jaxdiff encode --model "
            f"{experiment.init}."
        )
    if of_model.without_network != parts.without_network:
        raise InputError(
            "data must be latents by the autoencoder and the text encoders of the "
            f"model in '{experiment.init}', got latents by others (SHA-256). Encode "
            "the images with this model."
        )


def start_of(experiment: Experiment, wanted: Params) -> dict[str, Array]:
    """Returns the initial parameters of a run, by name; none without `init`.

    Args:
        experiment: the experiment of the run. Its layout places the parameters.
        wanted: the parameters of its network, or their shapes.

    Returns:
        The averaged parameters of the other run that agree in name and shape.

    Raises:
        InputError: there is no such run, or it covers less than half of the network.

    Warns:
        UserWarning: it lists the parameters that do not match and are reinitialized,
            and the options in which the two models differ.
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
    if misfits and isinstance(experiment.adapter, LowRank):
        raise InputError(
            "init must name a run with the same network for the adapter lora, got "
            f"another in '{experiment.init}' ({first_few(misfits)}). Leave the options "
            "of the network out."
        )
    size, total = _size(fits), _size(here)
    if 2 * size < total:
        raise InputError(
            "init must name a run with at least half of the network's parameters, got "
            f"{size / total:.0%} in '{experiment.init}' ({first_few(misfits)}). Use "
            "its network, or remove init."
        )
    changed = differences(_options(run.experiment), _options(experiment))
    for what, parts in (
        (
            f"these parameters of '{experiment.init}' do not match and are "
            "reinitialized",
            misfits,
        ),
        (f"the model of '{experiment.init}' was trained with other options", changed),
    ):
        if parts and is_first():
            warnings.warn(f"{what}: {'; '.join(parts)}", stacklevel=2)
    return fits


def _shapes(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(leaf.shape) for name, leaf in params.items()}


def _size(params: Mapping[str, Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in params.values())


def _options(experiment: Experiment) -> dict[str, Any]:
    """Returns the options that must be equal for two models to compute the same."""
    plain = to_dict(experiment)
    network = {k: v for k, v in plain["network"].items() if k not in FREE}
    return {
        "network": network, "schedule": plain["schedule"],
        "prediction": plain["prediction"],
    }  # fmt: skip
