"""Pictures of a run."""

from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import plots
from jaxdiff.checks import any_last_signal
from jaxdiff.data import Dataset, to_float, to_uint8
from jaxdiff.losses.loss import QUARTERS
from jaxdiff.runs.folder import METRICS
from jaxdiff.runs.run import Run
from jaxdiff.schedules import ScheduleOptions
from jaxdiff.schedules.discrete import Betas, Linear, ZeroTerminalSNR
from jaxdiff.schedules.forward import q_sample
from jaxdiff.storage import json_lines
from jaxdiff.typing import AnySchedule

PICTURES = ("samples.png", "forward.png", "reverse.gif", "loss.png", "schedules.png")
"""Names of the pictures that sampling and `save_pictures` write."""
FRAMES = 40
"""Approximate number of frames in the animation of the reverse process."""


def save_pictures(
    run: Run, dataset: Dataset, frames: np.ndarray, workdir: Path, seed: int = 0
) -> None:
    """Draws all pictures of training and sampling, except the samples.

    Writes `loss.png`, `forward.png`, `reverse.gif` and `schedules.png`. The frames of
    the animation come from `reverse_frames`, in which all processes take part.
    """
    save_loss(workdir)
    save_forward(run, dataset, workdir / "forward.png", seed)
    plots.save_gif(workdir / "reverse.gif", frames, columns=-(-frames.shape[1] // 2))
    save_schedules(run.schedule.num_steps, workdir / "schedules.png")


def save_loss(workdir: Path) -> None:
    """Draws the loss over the steps, as a whole and by quarter of the time range."""
    steps, series = losses(json_lines.read(workdir / METRICS, "step"))
    plots.save_curve(workdir / "loss.png", steps, series)


def losses(lines: list[dict[str, Any]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the steps of lines of metrics, and the losses at these steps by name."""
    names = {"loss": "loss"} | {
        f"loss_q{q + 1}": f"t in {q / QUARTERS:g}..{(q + 1) / QUARTERS:g} T"
        for q in range(QUARTERS)
    }
    series = {
        text: np.array([line.get(name, np.nan) for line in lines])
        for name, text in names.items()
    }
    return np.array([line["step"] for line in lines]), series


def save_forward(run: Run, dataset: Dataset, path: Path, seed: int) -> None:
    """Draws the forward process on one image, with the same noise at each time."""
    last = run.schedule.num_steps - 1
    times = np.unique(np.linspace(0, last, 9).round().astype(np.int32))
    image = to_float(dataset.images[:1])
    noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    noisy = jax.vmap(q_sample, in_axes=(None, None, 0, None))(
        run.schedule, jnp.asarray(image), jnp.asarray(times), jnp.asarray(noise)
    )
    frames = np.concatenate([image, np.asarray(noisy[:, 0])])
    plots.save_strip(path, to_uint8(frames), ["data", *(f"t = {t}" for t in times)])


def reverse_frames(run: Run, seed: int = 0) -> np.ndarray:
    """Returns the frames of the reverse process, from noise to images.

    The frames show one image per class, of at most 20 classes, or 10 images without
    classes.

    Returns:
        Frames (uint8 [frames, images, height, width, channels]).
    """
    classes = run.info.num_classes
    labels = None if classes is None else np.arange(min(classes, 20))
    num = 10 if labels is None else len(labels)
    grid = run.experiment.sampling.sampler.grid(run.schedule)
    stride = max(1, (len(grid.alpha) - 1) // FRAMES)
    trajectories = run.generate(labels, num, seed, every=stride)
    return to_uint8(trajectories).swapaxes(0, 1)


def save_schedules(num_steps: int, path: Path) -> None:
    """Draws all kinds of schedules with `num_steps` steps, for comparison."""
    num_steps = max(num_steps, 2)
    schedules: list[ScheduleOptions] = [
        option(base=Linear(num_steps=num_steps))
        if option is ZeroTerminalSNR
        else option(num_steps=num_steps)
        for option in get_args(ScheduleOptions)
        if option is not Betas  # which has its own number of steps
    ]
    with any_last_signal():  # the schedules are only drawn
        curves = {type(s).__name__: signal_share(s.build()) for s in schedules}
    plots.save_schedules(path, curves)


def signal_share(schedule: AnySchedule) -> np.ndarray:
    """Returns the signal's share of x_t's variance at all times.

    The data has unit variance. The share is alphas_bar if the schedule preserves
    variance.
    """
    level = schedule.level(schedule.times)
    signal = np.asarray(level.alpha, np.float64) ** 2
    return signal / (signal + np.asarray(level.sigma, np.float64) ** 2)
