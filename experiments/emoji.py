"""Emoji from their names: the recipe `emoji` of the package, in latents or in pixels.

    python experiments/emoji.py                the model of latents, five commands
    python experiments/emoji.py --pixels       the model of pixels, three commands
    python experiments/emoji.py --steps 5000 --prompts "red heart" "cat face"

The commands are those of experiments/captions.py. `jaxdiff run emoji` starts the model
of pixels.
"""

import sys
from pathlib import Path

# This file has the name of the package that the pictures' names come from. Its folder
# is searched first when it runs as a script, and gives way to the folder above.
if not __package__:
    sys.path[0] = str(Path(__file__).parent.parent)

from experiments import captions
from jaxdiff.recipes.emoji import CONFIG as CONFIG  # what every recipe's script has
from jaxdiff.recipes.emoji import PROMPTS
from jaxdiff.recipes.emoji import __doc__ as about  # noqa: F401


def start(args: list[str] | None = None) -> None:
    """Reads the command line, and runs the chain of commands."""
    captions.start(
        args, __doc__, lambda _: "emoji", lambda _: ["--data", "emoji"], PROMPTS,
        folder=False,
        blend=("man astronaut, light skin tone", "man cook, medium-dark skin tone"),
    )  # fmt: skip


if __name__ == "__main__":
    start(sys.argv[1:])
