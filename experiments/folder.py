"""The recipe `folder` of the package, as a script.

    python experiments/folder.py DIR
    python experiments/folder.py DIR train --data.size 128 --network.patch 4
    python experiments/folder.py DIR sample --num 20

DIR comes first, then a command and its flags. `jaxdiff run folder DIR` starts the same.
"""

import difflib
import sys
from pathlib import Path

from jaxdiff.cli import COMMANDS, main
from jaxdiff.recipes.folder import CONFIG, of_folder
from jaxdiff.recipes.folder import __doc__ as about


def start(args: list[str]) -> None:
    """Runs a command line: DIR, a command (`run` if left out) and flags.

    Any other command line goes to the recipe without a folder.
    """
    if not args or args[0][:1] in ("", "-") or _is_command(args[0]):
        main(CONFIG, about, args=args)
        return
    folder, *rest = args
    config, workdir = of_folder(folder)
    main(config, about, args=rest or ["run"], workdir=workdir)


def _is_command(word: str) -> bool:
    """Returns True for a command, or a misspelt one if no folder has this name."""
    close = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.75)
    return word in COMMANDS or (bool(close) and not Path(word).is_dir())


if __name__ == "__main__":
    start(sys.argv[1:])
