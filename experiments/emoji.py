"""Emoji from their names: the recipe `emoji` of the package, in latents or in pixels.

    python experiments/emoji.py                the model of latents, four commands
    python experiments/emoji.py --pixels       the model of pixels, two commands
    python experiments/emoji.py --steps 5000 --prompts "red heart" "cat face"

The commands are those of experiments/captions.py. `jaxdiff run emoji` starts the model
of pixels.
"""

import importlib
import sys

from jaxdiff.recipes.emoji import CONFIG as CONFIG
from jaxdiff.recipes.emoji import PROMPTS
from jaxdiff.recipes.emoji import __doc__ as about  # noqa: F401

# `CONFIG` and `about` are what every script of a recipe has.
captions = importlib.import_module(
    "experiments.captions" if __package__ else "captions"
)


def start(args: list[str] | None = None) -> None:
    """Reads the command line, and runs the chain of commands."""
    captions.start(
        args, __doc__, lambda _: "emoji", lambda _: ["--data", "emoji"], PROMPTS,
        folder=False,
    )  # fmt: skip


if __name__ == "__main__":
    start(sys.argv[1:])
