"""unCLIP from nothing, on emoji: DALL-E 2's way in small (Ramesh et al. 2022).

    python experiments/unclip.py
    python experiments/unclip.py --workdir runs/mine --steps 500
    python experiments/unclip.py --direct runs/emoji/model

Each step is a command, which is printed; a script that was stopped goes on where it
was.

    jaxdiff train-towers      images and texts as vectors, in place of CLIP
    jaxdiff train-prior       from a text to the vector of an image
    jaxdiff train unclip      the decoder, from a vector to an image of 32x32
    jaxdiff train             the enlargement to 64x64
    jaxdiff sample            prompts, variations, a blend, and the difference of texts
    jaxdiff evaluate          attributes of samples, and of variations

With --direct, a model that draws images from texts alone is evaluated too.
`jaxdiff train unclip` starts the recipe of the decoder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# The package emoji must not be taken for the script beside this one.
if not __package__:
    sys.path[0] = str(Path(__file__).parent.parent)

from experiments import captions
from jaxdiff import plots
from jaxdiff.data import Emoji
from jaxdiff.recipes.emoji import PROMPTS
from jaxdiff.recipes.unclip import CONFIG as CONFIG  # what every recipe's script has
from jaxdiff.recipes.unclip import __doc__ as about  # noqa: F401

SIZE = 32
"""Side of the decoder's pictures; the enlargement doubles it."""
STEPS = {"towers": 600, "prior": 4000, "decoder": 3000, "enlargement": 1000}
"""Number of steps of each training."""
PICTURES = ("cat face", "frog")
"""Names of the pictures to vary, and to blend."""


def chain(
    workdir: Path, steps: dict[str, int], samples: int, direct: Path | None = None
) -> list[list[str]]:
    """Returns the commands, each as its words.

    Args:
        workdir: folder of all runs, which has the pictures.
        steps: number of steps of each training, by its name.
        samples: number of samples of the evaluation.
        direct: run folder of a model of text to evaluate too; None for none.
    """
    runs = {name: str(workdir / name) for name in STEPS}
    emoji = ["--data", "emoji", "--data.size"]
    counts = {name: ["--training.num-steps", str(steps[name])] for name in STEPS}
    towers = runs["towers"]
    cat, frog = (str(workdir / f"{name}.png") for name in PICTURES)
    sample = ["sample", "--workdir", runs["decoder"], "--prior", runs["prior"],
              "--enlarge", runs["enlargement"], "--columns", "8"]  # fmt: skip
    measure = ["--samples", str(samples)]

    def drawn(name: str, *words: str) -> list[str]:
        return [*sample, *words, "--out", str(workdir / f"{name}.png")]

    found = [
        ["train-towers", *emoji, str(SIZE), "--workdir", towers, *counts["towers"]],
        ["train-prior", *emoji, str(SIZE), "--towers", towers, "--workdir",
         runs["prior"], *counts["prior"]],
        ["train", "unclip", "--condition.towers", towers, "--workdir", runs["decoder"],
         "--optimizer.learning-rate", "5e-4", *counts["decoder"]],
        ["train", *emoji, str(2 * SIZE), "--condition", "low-resolution",
         "--network.patch", "2", "--network.channels", "32",
         "--network.multipliers", "1", "2", "2", "--schedule", "cosine",
         "--prediction", "v", "--training.batch-size", "32",
         "--training.ema-decay", "0.999", "--optimizer.learning-rate", "5e-4",
         "--optimizer.decay", "cosine", "--optimizer.warmup-steps", "100",
         "--sampling.sampler", "dpm-solver", "--workdir", runs["enlargement"],
         *counts["enlargement"]],
        drawn("prompts", "--prompt", *PROMPTS),
        drawn("variations", "--like", cat, "--num", "8"),
        drawn("blend", "--blend", cat, frog),
        drawn("difference", "--like", cat, "--from", PICTURES[0], "--to", PICTURES[1]),
        ["evaluate", "--workdir", runs["decoder"], "--prior", runs["prior"], *measure],
    ]  # fmt: skip
    if direct is not None:
        found.append(["evaluate", "--workdir", str(direct), *measure])
    return found


def write_pictures(workdir: Path) -> None:
    """Writes the pictures to vary; names are those of the training images."""
    workdir.mkdir(parents=True, exist_ok=True)
    dataset = Emoji(size=2 * SIZE).load("train")
    names = [texts[0] for texts in dataset.captions or ()]
    for name in PICTURES:
        image = dataset.images[names.index(name)]
        plots.save_image(workdir / f"{name}.png", image)


def start(args: Sequence[str] | None = None) -> None:
    """Reads the command line, and runs the chain of commands."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--workdir", type=Path, default=Path("runs/unclip"))
    parser.add_argument(
        "--steps", type=int, help="of each training, instead of its own"
    )
    parser.add_argument("--samples", type=int, default=1000, help="to evaluate")
    parser.add_argument("--direct", type=Path, help="run of a model of text to compare")
    options = parser.parse_args(args)
    steps = {name: options.steps or count for name, count in STEPS.items()}
    write_pictures(options.workdir)
    captions.run(chain(options.workdir, steps, options.samples, options.direct))


if __name__ == "__main__":
    start(sys.argv[1:])
