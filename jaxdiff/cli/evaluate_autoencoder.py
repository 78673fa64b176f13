"""The command `evaluate` for an autoencoder: how near its reconstructions are."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.attribute_figures import Readers, values_of
from jaxdiff.cli.figures import Figure, publish
from jaxdiff.cli.progress import bar
from jaxdiff.cli.quality_options import build_features, checked_num, describe_features
from jaxdiff.data import order, to_uint8
from jaxdiff.evaluation.features import Features
from jaxdiff.evaluation.frechet import frechet_distance
from jaxdiff.evaluation.mean import Mean
from jaxdiff.evaluation.reconstruction import psnr, ssim
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.autoencoder import AutoencoderRun
from jaxdiff.runs.reconstructions import COLUMNS, ROWS, save_pairs


def evaluate_autoencoder(
    run: AutoencoderRun,
    workdir: Path,
    data: Any,
    split: str,
    num: int | None,
    features: Features,
    reader_steps: int,
    as_json: bool,
) -> None:
    """Measures reconstructions of a split; prints figures, writes a file and a picture.

    Args:
        run: the autoencoder.
        workdir: its run folder; evaluation.json and reconstructions.png go there.
        data: training images and held-out images.
        split: the split to reconstruct, "test" or "train".
        num: number of images from the start of the split; None takes all, at most
            10,000.
        features: features of the Frechet distance.
        reader_steps: number of training steps of each reader of an attribute; 0 for no
            readers.
        as_json: if True, print JSON alone.

    Raises:
        InputError: there are too few images.
    """
    training, held_out = data
    dataset = training if split == "train" else held_out
    num = checked_num(num, dataset, split)
    plots.check_installed()
    images = np.asarray(dataset.images[:num])
    extractor = build_features(features, training, held_out, run.parallel)
    with bar(num, "reconstruct") as on_chunk:
        found = to_uint8(run.reconstruct(images, on_chunk))
    count = min(num, len(training))
    others = np.asarray(training.images[np.sort(order(0, 0, len(training))[:count])])
    splits = {"train": training, split: dataset}
    values = values_of(reader_steps, run.experiment.data, splits)
    readers = Readers.of(reader_steps, training, values["train"], run.parallel)
    rows = np.arange(num)
    read = list(
        readers.figures(
            values[split], rows, images, rows, found,
            learned=split == "train", by=f"{num} {split} images",
            names=("{} of reconstructions", "{} of the images (baseline)"),
        )
    )  # fmt: skip
    real, near, floor = (extractor.read(x)[0] for x in (images, found, others))
    if not is_first():
        return
    note = f"{num} {split} images"
    alike = f"{note}, {describe_features(extractor)}"
    ratio, likeness = Mean.of(psnr(images, found)), Mean.of(ssim(images, found))
    distance = frechet_distance(near, real)
    baseline = frechet_distance(floor, real)
    figures = [
        Figure("PSNR", ratio.value, ratio.standard_error, "dB", note),
        Figure("SSIM", likeness.value, likeness.standard_error, "", note),
        Figure("Frechet distance of reconstructions", distance, note=alike),
        Figure("Frechet distance, training images (baseline)", baseline, note=alike),
    ]
    settings = {
        "step": run.step, "split": split, "images": num, "features": extractor.name,
        "weights": extractor.weights, "resize": extractor.resize,
        **readers.settings(),
    }  # fmt: skip
    shown = ROWS * COLUMNS
    save_pairs(workdir / "reconstructions.png", images[:shown], found[:shown])
    groups = {f"reconstructions of {alike}": figures}
    if read:
        groups[f"share of {note} whose attribute is read right"] = read
    publish(workdir, groups, settings, as_json, ["reconstructions.png"])
