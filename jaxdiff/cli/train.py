"""The commands `train` and `run`; `run` also draws samples and pictures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdiff import plots
from jaxdiff.cli.command import Judge
from jaxdiff.cli.progress import bar
from jaxdiff.data import Buckets, Dataset, to_uint8
from jaxdiff.errors import InputError, printable
from jaxdiff.parallel import cpu_devices
from jaxdiff.parallel.processes import is_first
from jaxdiff.progress_bar import is_shown
from jaxdiff.report import page, run_pictures
from jaxdiff.runs.data_of_run import load_data
from jaxdiff.runs.enlarge import is_low_resolution
from jaxdiff.runs.folder import read_config
from jaxdiff.runs.load import load
from jaxdiff.runs.log import last_start
from jaxdiff.runs.previews import grids_of
from jaxdiff.runs.train import run_training
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.files import write_atomic
from jaxdiff.training.experiment import AnyExperiment, Experiment
from jaxdiff.training.model import num_parameters
from jaxdiff.training.recipe import state_shapes

PER_CLASS = 20
"""Number of samples per class that `run` draws."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of the commands `train` and `run`."""

    workdir: Path
    """Run folder. An existing run resumes from its newest checkpoint with its own
    options. Flags may change its number of steps and its optimizer from there on."""


def train(options: TrainOptions, experiment: Experiment) -> None:
    """Trains a run and writes its page."""
    cpu_devices.use(train_devices(experiment))
    _train(experiment, options.workdir)
    if is_first():
        page.refresh(options.workdir)


def run(options: TrainOptions, experiment: Experiment, judge: Judge | None) -> None:
    """Trains a run, draws samples and pictures, and prints the label agreement."""
    cpu_devices.use(train_devices(experiment))
    plots.check_installed()
    trainer = _train(experiment, options.workdir)
    _draw(trainer, options.workdir, judge)
    if is_first():
        page.refresh(options.workdir)


def train_devices(experiment: AnyExperiment) -> int:
    """Returns the number of CPU devices to train on: as many as divide a batch."""
    training = experiment.training
    rows = max(1, training.batch_size // training.accumulate)
    return experiment.parallel.usable(cpu_devices.available(), rows)


def devices_again(workdir: Path) -> int:
    """Returns the number of CPU devices that the run last used, if one process can.

    Another number of devices would round differently.
    """
    experiment, _ = read_config(workdir)
    found = last_start(workdir).get("devices")
    if isinstance(found, dict) and found.get("backend") == "cpu":
        count = found.get("count")
        possible = range(1, experiment.training.batch_size + 1)
        if found.get("processes") == 1 and type(count) is int and count in possible:
            return count
    return train_devices(experiment)


def _train(experiment: Experiment, workdir: Path) -> Trainer:
    start = time.monotonic()
    trainer = Trainer.of(experiment)
    finish(trainer, workdir, summary, start)
    return trainer


def finish(
    trainer: Trainer,
    workdir: Path,
    summary: Callable[[Trainer], list[str]],
    start: float,
) -> None:
    """Trains a run to its end, and prints how long it took.

    Args:
        trainer: the trainer.
        workdir: run folder.
        summary: returns lines on the training, to print when it starts.
        start: time when the command started, by `time.monotonic`.
    """
    about = "\n".join(summary(trainer)) if is_shown() else ""
    run_training(trainer, workdir, about=about)
    took = time.monotonic() - start
    print(printable(f"done in {took:.0f} s; checkpoints are in {workdir}"))


def steps_line(trainer: Trainer, unit: str) -> str:
    """Returns a line on the steps of a training, with the name of an example."""
    training = trainer.experiment.training
    seen = training.num_steps * training.batch_size / len(trainer.dataset)
    return (
        f"steps: {training.num_steps:,} of {training.batch_size} {unit}s; each {unit} "
        f"is seen {seen:,.1f} times"
    )


def summary(trainer: Trainer) -> list[str]:
    """Returns lines on the data, the network and the steps of a training."""
    experiment, data = trainer.experiment, trainer.dataset
    assert isinstance(experiment, Experiment), "a diffusion model"
    try:
        held_out = f"{len(load_data(experiment, 'test')):,}"
    except InputError:
        held_out = "none"
    shape = "x".join(map(str, data.image_shape))
    kind = "images" if data.moments is None else "latents"
    classes = (
        "no classes" if data.num_classes is None else f"{data.num_classes} classes"
    )
    if data.num_classes is not None and trainer.info.num_classes is None:
        classes += ", not used"
    if data.captions is not None:
        count = sum(text != "" for texts in data.captions for text in texts)
        classes += f"; {count:,} captions{', not used' * (data.texts is None)}"
    if isinstance(data.images, Buckets):
        shape = f"{len(data.buckets)} sizes"
    size = num_parameters(trainer.model.param_shapes())
    if trainer.task.freezes:
        trained = num_parameters(state_shapes(trainer.recipe).params)
        adapter = f"; training changes {trained:,} of an adapter"
    else:
        adapter = ""
    own = trainer.info.network is not None
    patch = 1 if own else getattr(experiment.network, "patch", 1)
    patches = f" on patches of {patch}; diffusers has no such network" * (patch > 1)
    training, warmup = experiment.training, experiment.optimizer.warmup_steps
    lines = [
        f"data: {len(data):,} {kind} of {shape} to train on, {held_out} held out; "
        f"{classes}",
        f"network: {size:,} parameters{patches}{adapter}",
        steps_line(trainer, "image"),
    ]
    if isinstance(data.images, Buckets):
        lines.insert(1, _buckets(data, training.batch_size))
    if warmup >= training.num_steps:
        lines.append(
            f"learning rate: the warm-up of {warmup:,} steps does not end; set fewer "
            "with --optimizer.warmup-steps"
        )
    return lines


def _buckets(dataset: Dataset, batch_size: int) -> str:
    """Returns a line on the buckets of a dataset."""
    counts = {part.image_shape[:2]: len(part) for part in dataset.buckets}
    listed = ", ".join(f"{h}x{w} ({num:,})" for (h, w), num in counts.items())
    small = sum(num < batch_size for num in counts.values())
    repeated = (
        f"; in {small} of them a batch of {batch_size} repeats images" if small else ""
    )
    height, width, _ = dataset.image_shape
    return (
        f"buckets: {listed}{repeated}; a program is compiled for each; samples and "
        f"evaluation are {height}x{width}"
    )


def _draw(trainer: Trainer, workdir: Path, judge: Judge | None) -> None:
    """Draws samples and pictures, and prints the label agreement."""
    run = load(workdir, parallel=trainer.experiment.parallel)
    dataset = trainer.dataset.of_shape(trainer.dataset.image_shape)
    special = dataset.moments is not None or dataset.texts is not None
    if special or is_low_resolution(run.experiment):
        grid = grids_of(trainer).drawn(run.params)
        if is_first():
            write_atomic(workdir / "samples.png", grid)
            run_pictures.save_loss(workdir)
            print(printable(f"pictures are in {workdir}: samples.png, loss.png"))
        return
    classes = run.info.num_classes
    num = PER_CLASS * (classes or 5)
    labels = None if classes is None else np.arange(num) % classes
    with bar(num, "sample") as on_chunk:
        images = run.generate(labels, num, 0, on_chunk=on_chunk)
    frames = run_pictures.reverse_frames(run)
    if not is_first():
        return
    plots.save_samples(
        workdir / "samples.png", to_uint8(images), labels, run.info.class_names, 10
    )
    run_pictures.save_pictures(run, dataset, frames, workdir)
    names = ", ".join(run_pictures.PICTURES)
    print(printable(f"pictures are in {workdir}: {names}"))
    if judge and labels is not None and dataset.labels is not None:
        known = np.asarray(dataset.images)
        share = judge(to_uint8(images), labels, known, dataset.labels)
        print(
            f"label agreement: {share:.1%} of {num} samples are assigned to the "
            "requested class"
        )
