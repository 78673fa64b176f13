"""Pipelines of classes and latents: DiTPipeline, in diffusers' layout.

    model_index.json                the pipeline, its parts, and the classes' names
    transformer/, scheduler/        class -> latents
    vae/                            latents -> image

The network is read at once, the autoencoder when it is first used.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from jaxdiff.components.component import Component, network_of
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.errors import InputError, shown
from jaxdiff.losses.objectives import Hybrid, Simple
from jaxdiff.networks.dit_options import DiTConfig
from jaxdiff.pretrained.folder_parts import INDEX
from jaxdiff.pretrained.latent_pipelines import (
    check_parts,
    licence_of,
    part_classes,
    part_network,
    read_scheduled,
    say,
    write_latents,
)
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.parts import Parts
from jaxdiff.runs.parts_info import PartsInfo
from jaxdiff.runs.run import Run
from jaxdiff.samplers import DDIM
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import build_model

Numerics: TypeAlias = Literal["diffusers", "original"]
"""Numerics of a published network: diffusers', or those of its training."""
KIND = "DiTPipeline"
"""Class of pipelines that is read."""
STEPS, GUIDANCE, CHUNK = 50, 4.0, 8
"""Number of steps and guidance scale of a call without them; images at a time."""
NETWORK_FOLDER = "transformer"
NETWORKS = {
    NETWORK_FOLDER: ("DiTTransformer2DModel", "Transformer2DModel"),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
}  # fmt: skip
NAMES = "id2label"
"""Entry of model_index.json for the names of the classes."""


def read_class_pipeline(
    path: Path,
    *,
    num_steps: int | None = None,
    variant: str | None = None,
    allow_bin: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    numerics: Numerics = "diffusers",
    base: Experiment | None = None,
) -> Run:
    """Reads a pipeline; arguments and errors are those of `from_diffusers`."""
    index = read_part(path / INDEX)
    classes = part_classes(index)
    check_parts(classes, {NETWORK_FOLDER, "vae", "scheduler"}, NETWORKS, index, path)
    info = PartsInfo(
        pipeline=KIND, encoders=(), autoencoder="vae", network=NETWORK_FOLDER,
        dtype=dtype, variant=variant, allow_bin=allow_bin, licence=licence_of(path),
    )  # fmt: skip
    file = path / NETWORK_FOLDER / NETWORK
    network = network_of(classes[NETWORK_FOLDER], read_part(file), str(file), dtype)
    config: DiTConfig = network.config
    if numerics == "original":
        config = as_trained(config)
    latents = part_network(path, "vae", classes).config.latent_channels
    if network.in_channels != latents or network.out_channels not in (
        latents, 2 * latents
    ):  # fmt: skip
        raise InputError(
            f"'{file}': in_channels must be {latents} and out_channels {latents} or "
            f"{2 * latents} for latents of {latents} channels, got "
            f"{network.in_channels} and {network.out_channels}"
        )
    learns = network.out_channels != latents
    steps = STEPS if num_steps is None else num_steps
    scheduled = read_scheduled(path, classes["scheduler"], steps)
    experiment = replace(
        base or Experiment(),
        network=config,
        schedule=scheduled.options,
        prediction=scheduled.scheduler.prediction(learn_variance=learns),
        objective=Hybrid() if learns else Simple(),
        sampling=replace(scheduled.sampling, guidance=GUIDANCE, chunk=CHUNK),
        conditional=True,
    )
    assert config.sample_size is not None, "every file has a size"
    height, width = config.sample_size
    count = network.num_classes
    names = _names(index, count, path)
    data = DataInfo((height, width, latents), count, names, data_range=None)
    experiment.check(scheduled.schedule)
    model = build_model(experiment, data, schedule=scheduled.schedule)
    say(classes, info.licence, path)
    parts = Parts(info, path)
    params = parts.network().params
    check_params(params)
    return Run(experiment, data, model, params, 0, parts=parts)


def as_trained(config: DiTConfig) -> DiTConfig:
    """Returns the network with the numerics of its training, where diffusers differs.

    The sinusoids of the time have shift 0, the norm before an MLP has epsilon 1e-6.
    """
    plain = DiTConfig()
    return replace(config, embedding=plain.embedding, mlp_epsilon=plain.mlp_epsilon)


def _names(index: Mapping[str, Any], count: int, path: Path) -> tuple[str, ...] | None:
    """Returns the names of the classes in an index; None if it has none.

    Raises:
        InputError: the names are not one string per class.
    """
    given = index.get(NAMES)
    if given is None:
        return None
    fits = isinstance(given, dict) and given.keys() == {str(i) for i in range(count)}
    if not fits or not all(isinstance(name, str) for name in given.values()):
        raise InputError(
            f"'{path / INDEX}': {NAMES} must name the classes 0 to {count - 1}, got "
            f"{shown(given)}"
        )
    return tuple(given[str(i)] for i in range(count))


def write_class_pipeline(run: Run, path: Path) -> dict[str, Any]:
    """Writes a pipeline; arguments and result are those of `to_diffusers`."""
    names = run.info.class_names
    index: dict[str, Any] = {}
    if names is not None:
        index[NAMES] = {str(i): name for i, name in enumerate(names)}
    network = Component("DiTTransformer2DModel", run.network, run.params)
    # Their pipeline drops a learned variance.
    prediction = replace(run.experiment.prediction, learn_variance=False)
    plain = replace(run, experiment=replace(run.experiment, prediction=prediction))
    sampler: Any = run.experiment.sampling.sampler
    if isinstance(sampler, DDIM) and sampler.eta != 0:
        raise InputError(
            f"eta must be 0 for diffusers' {KIND}, got {sampler.eta}. Export with "
            "--sampler ddim."
        )
    call = write_latents(plain, path, "transformer", network, index)
    call.pop("eta", None)
    return call
