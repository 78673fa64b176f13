"""The command `encode`: latents of images and conditions of captions, for training."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from jaxdiff.cli.progress import bar
from jaxdiff.data.latents import LatentsInfo
from jaxdiff.errors import InputError, printable
from jaxdiff.parallel import cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.autoencoder import model_parts
from jaxdiff.runs.encode import encode
from jaxdiff.runs.encoding import Work
from jaxdiff.storage.files import ensure_writable
from jaxdiff.training.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """Options of the command `encode`; the other flags choose the images."""

    model: Path | None = None
    """Run folder of an autoencoder. Or that of a model of latents, whose autoencoder
    and text encoders to use; or vae/ of a published model."""
    out: Path = Path("latents")
    """Folder to write. The command goes on with a folder that it left unfinished."""
    batch: int = 8
    """Number of images that a device encodes at once."""
    flip: bool = False
    """If True, the mirrored images are encoded too; training then may use both."""


def encode_data(options: EncodeOptions, experiment: Experiment) -> None:
    """Encodes the images and captions of an experiment's dataset."""
    if options.model is None:
        raise InputError(
            "model must be the folder of a model of latents, got none. Name one with "
            "--model."
        )
    cpu_devices.use(experiment.parallel.usable(cpu_devices.available()))
    parts = model_parts(options.model)
    ensure_writable(options.out.parent, "--out")
    with ExitStack() as stack:

        def start(work: Work, total: int) -> Callable[[int], None]:
            if is_first():
                print(printable(_about(work)))
            return stack.enter_context(bar(total, "encode", "record"))

        info = encode(
            experiment.data, parts, options.out, batch=options.batch, flip=options.flip,
            start=start,
        )  # fmt: skip
    shape = _shape(info, info.latent_shape)
    spread = " ".join(f"{value:.2f}" for value in info.std)
    print(
        printable(
            f"latents of {shape} are in {options.out}; standard deviation per channel: "
            f"{spread}. Train on them: --data latents --data.path {options.out}"
        )
    )


def _about(work: Work) -> str:
    """Returns a line on the images and captions."""
    counts = " and ".join(f"{size:,} {name}" for name, size in work.info.sizes.items())
    shape = _shape(work.info, work.info.image_shape)
    texts = f"; {work.info.captions - 1:,} different captions" * bool(work.info.text)
    twice = ", each also mirrored" * work.info.mirrored
    return f"data: {counts} images of {shape}{twice}{texts}"


def _shape(info: LatentsInfo, shape: tuple[int, ...]) -> str:
    """Returns a shape in words, or the number of sizes in buckets."""
    if info.buckets is None:
        return "x".join(map(str, shape))
    return f"{len(next(iter(info.buckets.values())))} sizes"
