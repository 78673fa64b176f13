"""Your own photographs: a model of a folder of images.

    python experiments/folder.py DIR
    python experiments/folder.py DIR train --data.size 128 --network.patch 4
    python experiments/folder.py DIR sample --num 20

DIR comes first, then a command and its flags. The run is in runs/ under DIR's name.

All .png, .jpg, .jpeg, .webp, .bmp and .gif files in DIR and its subfolders are used.
Images are cropped to their central square, resized to 64x64 and prepared once. Two or
more subfolders are classes. A tenth of the images is held out.

The U-Net of 6.5 million parameters works on 2x2 patches. The 100,000 steps of 32 images
are for a GPU. On 2 CPU cores it trains on 8 images per second, enough for a first test.
"""

import sys
from pathlib import Path

from jaxdiff.cli.program import COMMANDS, main
from jaxdiff.data import ImageFolder
from jaxdiff.losses.objectives import Simple
from jaxdiff.losses.weightings import MinSNR
from jaxdiff.networks import UNetConfig
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.training.experiment import Experiment, Sampling, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

CONFIG = Experiment(
    data=ImageFolder(size=64),
    network=UNetConfig(
        channels=64,
        multipliers=(1, 2, 2),
        blocks=2,
        attention=(8,),
        patch=2,
        label_dropout=0.1,
    ),
    objective=Simple(weighting=MinSNR()),
    optimizer=Optimizer(learning_rate=2e-4, warmup_steps=1000, decay="cosine"),
    training=Training(num_steps=100_000, batch_size=32, ema_decay=0.9995),
    upkeep=Upkeep(
        log_every=50, checkpoint_every=1000, checkpoint_minutes=15, sample_every=500
    ),
    sampling=Sampling(sampler=DPMSolver(spacing=Trailing(num_steps=50)), chunk=64),
)


def arguments(args: list[str]) -> list[str]:
    """Returns the command line with DIR as the flag --data.path.

    Args:
        args: DIR, a command (`run` if left out) and flags; any other command line is
            returned unchanged.
    """
    if not args or args[0].startswith("-") or args[0] in COMMANDS:
        return args
    folder, *rest = args
    command = "run"
    if rest and not rest[0].startswith("-"):
        command, *rest = rest
    more = ["--data.path", folder] if command in ("run", "train") else []
    if not any(arg.partition("=")[0] == "--workdir" for arg in rest):
        name = Path(folder).expanduser().resolve().name
        more += ["--workdir", str(Path("runs") / name)]
    return [command, *more, *rest]


if __name__ == "__main__":
    main(CONFIG, __doc__, args=arguments(sys.argv[1:]))
