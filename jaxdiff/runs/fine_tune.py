"""Fine-tuning: a run that starts from the model of another run (`Experiment.init`)."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from jaxdiff.errors import InputError, first_few
from jaxdiff.losses.few_steps import own_sampler
from jaxdiff.losses.mean_flow import MeanFlow
from jaxdiff.losses.objectives import Objective
from jaxdiff.losses.progressive import Progressive
from jaxdiff.networks.base import SECOND_TIME
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.bucketed import shapes_by_name
from jaxdiff.runs.folder import read_diffusion
from jaxdiff.runs.identity import identity
from jaxdiff.runs.load import load
from jaxdiff.runs.parts import Parts, read_parts
from jaxdiff.runs.vectors import identity_of_towers, is_decoder
from jaxdiff.serialization import differences, option_name, to_dict
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.experiment import AnyExperiment, Experiment
from jaxdiff.training.model import num_parameters
from jaxdiff.typing import Array, Params

MODEL = ("network", "condition", "schedule", "prediction", "objective", "sampling")
"""Parts of an experiment that belong to the model."""
FREE = (
    "dropout", "label_dropout", "dtype", "remat", "attention_by", "attention_chunk",
    "second_time",
)  # fmt: skip
"""Network options that may differ without a warning."""


def with_model_of(experiment: Experiment, workdir: Path) -> Experiment:
    """Returns the experiment with the parts `MODEL` of the run in a folder.

    Raises:
        InputError: there is no run, or its config.json cannot be read.
    """
    there, _ = read_diffusion(workdir)
    return replace(experiment, **{part: getattr(there, part) for part in MODEL})


def with_objective(
    experiment: Experiment, name: str | None, steps: str | None = None
) -> Experiment:
    """Returns an experiment with the defaults of an objective of few steps.

    Args:
        experiment: the experiment without the objective.
        name: name of the objective on the command line, or None.
        steps: number of a student's steps on the command line, or None.
    """
    for kind in get_args(Objective):
        objective = kind()
        if isinstance(objective, Progressive) and steps and steps.isdecimal():
            objective = replace(objective, steps=max(1, int(steps)))
        sampler = own_sampler(objective)
        if name == option_name(kind) and sampler is not None:
            sampling = replace(experiment.sampling, sampler=sampler)
            network: Any = experiment.network
            if isinstance(objective, MeanFlow):
                network = replace(network, second_time=True)
            return replace(
                experiment, objective=objective, sampling=sampling, network=network
            )
    return experiment


def base_of(experiment: AnyExperiment) -> str | None:
    """Returns the identity of the model that a run is based on; None without one.

    It is an adapter's model, a teacher, or the towers of unCLIP.
    """
    if not isinstance(experiment, Experiment) or is_decoder(experiment):
        return identity_of_towers(experiment)
    used = experiment.low_rank is not None or experiment.objective.has_teacher
    if not used or experiment.init is None:
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
    shapes = shapes_by_name(wanted)
    if experiment.network.second_time:  # it starts at zero
        new = {name for name in shapes if name.startswith(SECOND_TIME)} - there.keys()
        shapes = {name: shape for name, shape in shapes.items() if name not in new}
    misfits = differences(shapes_by_name(run.params), shapes)
    for use, needed in (
        ("adapter lora", experiment.low_rank is not None),
        ("objective's teacher", experiment.objective.has_teacher),
    ):
        if not misfits or not needed:
            continue
        raise InputError(
            f"init must name a run with the same network for the {use}, got "
            f"another in '{experiment.init}' ({first_few(misfits)}). Leave the options "
            "of the network out."
        )
    size, total = num_parameters(fits), num_parameters(here)
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


def _options(experiment: Experiment) -> dict[str, Any]:
    """Returns the options that must be equal for two models to compute the same."""
    plain = to_dict(experiment)
    network = {k: v for k, v in plain["network"].items() if k not in FREE}
    return {
        "network": network, "condition": plain["condition"],
        "schedule": plain["schedule"], "prediction": plain["prediction"],
    }  # fmt: skip
