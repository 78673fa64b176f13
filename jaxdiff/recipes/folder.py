"""Your own photographs: a model of a folder of images.

    jaxdiff run folder DIR
    jaxdiff train folder DIR --data.size 128 --network.patch 4
    jaxdiff sample folder DIR --num 20

DIR is the default of --data.path. The run is in runs/ under DIR's name.

All .png, .jpg, .jpeg, .jpe, .jfif, .webp, .bmp and .gif files in DIR and its
subfolders are used.
Images are cropped to their central square, resized to 64x64 and prepared once. Two or
more subfolders are classes. A tenth of the images is held out. --data.buckets 16 keeps
most of an image that is no square.

The U-Net of 6.5 million parameters works on 2x2 patches, which diffusers lacks: to
export the model later, train it with --network.patch 1 at four times the cost.

The 100,000 steps of 32 images are for a GPU. On 2 CPU cores it trains on 8 images per
second: --training.num-steps 2000 is a first test of 2 hours.
"""

from dataclasses import replace
from pathlib import Path

from jaxdiff.data import ImageFolder
from jaxdiff.losses.objectives import Simple
from jaxdiff.losses.weightings import MinSNR
from jaxdiff.networks import UNetConfig
from jaxdiff.samplers import DPMSolver, Trailing
from jaxdiff.storage.files import expanded
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


def of_folder(path: str) -> tuple[Experiment, Path]:
    """Returns the recipe for the images of a folder, and the default run folder."""
    name = expanded(path).resolve().name
    data = replace(CONFIG.data, path=path)  # type: ignore[arg-type]
    return replace(CONFIG, data=data), Path("runs") / name
