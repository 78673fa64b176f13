"""Text to image from nothing, in latents of an autoencoder of one's own.

    python experiments/captions.py DIR
    python experiments/captions.py DIR --pixels
    python experiments/captions.py DIR --workdir runs/mine --steps 5000 --size 128

DIR holds pictures and their captions: a.txt beside a.png, or metadata.jsonl, or
sub-folders as the captions. Each step is a command, which is printed; a script that was
stopped goes on where it was.

    jaxdiff train-autoencoder    pictures to latents and back
    jaxdiff encode               the latents of all pictures, once
    jaxdiff train                the model of the latents, with its text encoder
    jaxdiff sample               a grid of prompts

With --pixels, the model works on pixels, and the first two commands are left out.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxdiff.cli import program
from jaxdiff.recipes.emoji import CONFIG

AUTOENCODER = "train-autoencoder"
AUTOENCODER_FLAGS = (
    "--autoencoder.latent-channels 16 --autoencoder.multipliers 1 2 4 8 "
    "--autoencoder.kl-weight 1e-3"
)
"""Latents that are 8 times smaller than the pictures. A weak divergence leaves the
deviation of the latents so small that the model's errors become visible."""
NETWORK_FLAGS = (
    "--network.widths 96 192 --network.blocks 1 1 --network.heads 2 3 "
    "--network.layers 1 1 --network.text-only False False "
    "--network.down transformer transformer --network.up transformer transformer"
)
"""U-Net of the latents: two levels, of 8x8 and of 4x4 for pictures of 64x64."""
STEPS = 6900
"""Number of steps of the model of latents."""
AUTOENCODER_STEPS = 1400
"""Number of steps of the autoencoder."""


def chain(
    data: Sequence[str],
    workdir: Path,
    prompts: Sequence[str],
    *,
    size: int,
    pixels: bool,
    steps: int,
    autoencoder_steps: int,
    blend: Sequence[str] = (),
) -> list[list[str]]:
    """Returns the commands, each as its words.

    Args:
        data: flags of the pictures and their captions.
        workdir: folder of all runs.
        prompts: prompts of the grids.
        size: side of the pictures, in pixels.
        pixels: if True, the model works on pixels.
        steps: number of steps of the model.
        autoencoder_steps: number of steps of the autoencoder.
        blend: two prompts whose blends are drawn; none by default.
    """
    pictures = [*data, "--data.size", str(size)]
    model, latents = workdir / "model", workdir / "latents"
    grids = ["--upkeep.sample-prompts", *prompts] if prompts else []
    train = ["--workdir", str(model), "--training.num-steps", str(steps), *grids]
    sample = ["sample", "--workdir", str(model), "--guidance", "2"]
    drawn = [[*sample, "--columns", "4", "--prompt", *(prompts or [""])]]
    if blend:
        row = ["--num", "8", "--columns", "8", "--out", str(model / "blend.png")]
        drawn.append([*sample, "--blend", *blend, *row])
    if pixels:
        return [["train", "emoji", *pictures, *train], *drawn]
    autoencoder = workdir / "autoencoder"
    return [
        [AUTOENCODER, *pictures, "--workdir", str(autoencoder),
         *AUTOENCODER_FLAGS.split(), "--training.num-steps", str(autoencoder_steps)],
        ["encode", *pictures, "--model", str(autoencoder), "--out", str(latents)],
        ["train", "emoji", "--data", "latents", "--data.path", str(latents),
         "--optimizer.learning-rate", "8e-4", *NETWORK_FLAGS.split(), *train],
        *drawn,
    ]  # fmt: skip


def run(commands: Sequence[Sequence[str]]) -> None:
    """Runs commands one after the other; the first that fails ends the script."""
    for words in commands:
        print(f"$ {shlex.join(['jaxdiff', *words])}", flush=True)
        program.jaxdiff(list(words))


def start(
    args: list[str] | None,
    about: str | None,
    name: Callable[[argparse.Namespace], str],
    data: Callable[[argparse.Namespace], list[str]],
    prompts: Sequence[str] = (),
    folder: bool = True,
    blend: Sequence[str] = (),
) -> None:
    """Reads the command line of the script, and runs the chain.

    Args:
        args: words of the command line; None for those of this process.
        about: docstring of the script.
        name: function of the options that returns the name of the default folder.
        data: function of the options that returns the flags of the pictures.
        prompts: prompts of the grids.
        folder: if True, the script takes the folder of the pictures.
        blend: two prompts whose blends are drawn at the end.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=form)
    if folder:
        parser.add_argument("folder", type=Path, help="pictures and their captions")
    parser.add_argument("--workdir", type=Path, help="folder of all runs")
    parser.add_argument("--pixels", action="store_true", help="no autoencoder")
    parser.add_argument("--size", type=int, help="side of the pictures, in pixels")
    parser.add_argument("--prompts", nargs="*", default=prompts, help="of the grids")
    parser.add_argument("--steps", type=int, help="steps of the model")
    parser.add_argument("--autoencoder-steps", type=int, default=AUTOENCODER_STEPS)
    options = parser.parse_args(args)
    pixels = options.pixels
    steps = options.steps or (CONFIG.training.num_steps if pixels else STEPS)
    commands = chain(
        data(options), options.workdir or Path("runs") / name(options),
        options.prompts, size=options.size or (32 if pixels else 64), pixels=pixels,
        steps=steps, autoencoder_steps=options.autoencoder_steps, blend=blend,
    )  # fmt: skip
    run(commands)


def main(args: list[str] | None = None) -> None:
    """Reads the command line, and runs the chain of commands."""
    start(
        args, __doc__, lambda options: str(options.folder.resolve().name),
        lambda options: [
            "--data", "folder", "--data.path", str(options.folder),
            "--data.captions", "auto",
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
