"""The commands `import` and `export`: model folders of Hugging Face's diffusers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.components.component import component_class
from jaxdiff.components.lora_export import write_lora
from jaxdiff.errors import InputError, printable
from jaxdiff.pretrained import from_diffusers, to_diffusers, write_run
from jaxdiff.pretrained.class_pipelines import Numerics
from jaxdiff.runs.adapt import networks_of_run
from jaxdiff.runs.autoencoder import is_autoencoder, parts_of_autoencoder
from jaxdiff.runs.load import load
from jaxdiff.runs.parts import copy_part
from jaxdiff.runs.run import Run
from jaxdiff.storage.files import check_new_folder, new_folder
from jaxdiff.training.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of the command `import`."""

    path: Path | None = None
    """Model folder of Hugging Face's diffusers; also the first argument."""
    workdir: Path
    """Run folder to write; also the second argument."""
    steps: int | None = None
    """Number of steps of the sampler. None takes the number of a call in diffusers
    (a DDPMPipeline 1000, a DDIMPipeline 50), and 20 with DPM-Solver++ and UniPC."""
    size: int | None = None
    """Height and width of the images, for a network whose sample_size is null."""
    variant: str | None = None
    """Variant of the weight files, such as fp16.
    None takes the plain files, or the only variant."""
    null_class: bool = False
    """If True, the last class embedding stands for no class; guidance needs it."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the parameters and of the computation, for a model of latents."""
    numerics: Numerics = "diffusers"
    """Numerics of a diffusion transformer: diffusers', or those of its training."""
    link: bool = False
    """If True, the run folder refers to the model folder by path and checksums, for a
    model of latents; if False, it holds a copy."""
    bin: bool = False
    """If True, reads a .bin file if safetensors are missing; no code in it runs."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of the command `export`."""

    workdir: Path
    """Run folder; also the first argument."""
    path: Path | None = None
    """Model folder of Hugging Face's diffusers to write; also the second argument. Or a
    .safetensors file with the adapter alone, of a run that has trained one."""
    sampler: str | None = None
    """Sampler by name, such as ddim or dpm-solver:order=2. None takes the run's."""
    steps: int | None = None
    """Number of steps of the sampler. None takes the default of its time grid."""
    step: int | None = None
    """Step of the checkpoint. None takes the newest."""
    ema: float | None = None
    """Relative length in (0, 0.288) of a post-hoc average from training.ema-lengths.
    None takes the average of constant decay."""


def import_model(options: ImportOptions, config: Experiment) -> None:
    """Writes a run folder from a model folder of diffusers."""
    if options.path is None:
        raise InputError(
            "path must be a model folder, got none. Run import PATH WORKDIR"
        )
    run = from_diffusers(
        options.path, num_steps=options.steps, size=options.size,
        variant=options.variant, null_class=options.null_class, allow_bin=options.bin,
        dtype=options.dtype, numerics=options.numerics, base=config,
    )  # fmt: skip
    write_run(run, options.workdir, link=options.link)
    print(printable(f"the model of '{options.path}' is in {options.workdir}"))


def export_model(options: ExportOptions) -> None:
    """Writes a model folder of diffusers from a run."""
    if options.path is None:
        raise InputError("path must be a new folder, got none. Run export WORKDIR PATH")
    if is_autoencoder(options.workdir):
        _export_autoencoder(options, options.path)
        return
    run = load(options.workdir, options.step, ema=options.ema)
    if options.path.suffix == ".safetensors":
        _export_adapter(run, options.path)
        return
    samplers = () if options.sampler is None else (options.sampler,)
    (sampling,) = samplings_of(run, samplers, options.steps, None).values()
    experiment = replace(run.experiment, sampling=sampling)
    call = to_diffusers(replace(run, experiment=experiment), options.path)
    given = ", ".join(f"{name}={value}" for name, value in call.items())
    print(printable(f"the model is in {options.path}. Call its pipeline with {given}"))


def _export_autoencoder(options: ExportOptions, path: Path) -> None:
    """Writes the newest autoencoder of its run, as a folder of diffusers."""
    for name in ("sampler", "steps", "step", "ema"):
        if getattr(options, name) is not None:
            raise InputError(
                f"{name} must be left out for an autoencoder, got "
                f"{getattr(options, name)}. Its newest average is exported."
            )
    parts = parts_of_autoencoder(options.workdir)
    check_new_folder(path)
    with new_folder(path) as writing:
        copy_part(parts, parts.info.autoencoder, writing, has_weights=True)
    kind = component_class(path)
    print(printable(f"the autoencoder is in {path}. Load it with {kind}"))


def _export_adapter(run: Run, path: Path) -> None:
    """Writes the adapter that a run has trained."""
    if run.lora is None:
        raise InputError(
            f"path must be a new folder for a run without an adapter, got '{path}'"
        )
    write_lora(run.lora, path, networks_of_run(run))
    print(printable(f"the adapter is in {path}. Load it with load_lora_weights"))
