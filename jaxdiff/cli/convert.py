"""The commands `import` and `export`: models of Hugging Face's diffusers."""

from dataclasses import dataclass, replace
from pathlib import Path

from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.errors import InputError
from jaxdiff.pretrained import from_diffusers, to_diffusers, write_run
from jaxdiff.runs.load import load
from jaxdiff.training.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What to import, and where to."""

    path: Path | None = None
    """The model's folder, in the layout of Hugging Face's diffusers; also the first
    word after the command."""
    workdir: Path
    """The run folder to make; also the second word."""
    steps: int | None = None
    """Steps of the sampler; by default all times with DDPM, 50 with DDIM, 20 with
    DPM-Solver++ and UniPC."""
    variant: str | None = None
    """Of the weights' files, such as fp16; by default the plain ones, or the only."""
    null_class: bool = False
    """The last of the class embeddings stands for no class: guidance needs it."""
    bin: bool = False
    """Read a .bin file where there is no safetensors file; nothing in it is run."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export, and where to."""

    workdir: Path
    """The run folder; also the first word after the command."""
    path: Path | None = None
    """The folder to make, in the layout of Hugging Face's diffusers; also the second
    word."""
    sampler: str | None = None
    """Another sampler than the run's, such as ddim or dpm-solver:order=2."""
    steps: int | None = None
    """How many steps it takes."""
    ema: float | None = None
    """Take the parameters' average of this relative length, as `sample` does."""


def import_model(options: ImportOptions, config: Experiment) -> None:
    """Makes a run folder of a model of diffusers."""
    if options.path is None:
        raise InputError("import needs the model's folder: import PATH WORKDIR")
    run = from_diffusers(
        options.path, num_steps=options.steps, variant=options.variant,
        null_class=options.null_class, allow_bin=options.bin, base=config,
    )  # fmt: skip
    write_run(run, options.workdir)
    print(f"the model of '{options.path}' is in {options.workdir}")


def export_model(options: ExportOptions) -> None:
    """Makes a model of diffusers of a run."""
    if options.path is None:
        raise InputError("export needs a folder to make: export WORKDIR PATH")
    run = load(options.workdir, ema=options.ema)
    samplers = () if options.sampler is None else (options.sampler,)
    (sampling,) = samplings_of(run, samplers, options.steps, None).values()
    experiment = replace(run.experiment, sampling=sampling)
    call = to_diffusers(replace(run, experiment=experiment), options.path)
    given = ", ".join(f"{name}={value}" for name, value in call.items())
    print(f"the model is in {options.path}; call its pipeline with {given}")
