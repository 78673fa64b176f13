"""Sections of a run's page, each made from the contents of the run folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff import serialization
from jaxdiff.report import run_pictures
from jaxdiff.report.elements import (
    Part,
    Table,
    cell,
    curve,
    figures_of,
    number,
    numbers,
    picture_of,
    pictures_of,
    record_of,
    settings_of,
)
from jaxdiff.report.text import plain
from jaxdiff.runs import tensorboard
from jaxdiff.runs.folder import NONFINITE
from jaxdiff.training.experiment import AnyExperiment, DataInfo, Experiment

MOST = 24
"""Largest number of sample grids to show."""


@dataclass(frozen=True)
class Seen:
    """Contents of a run folder, for all sections.

    Attributes:
        workdir: Path of the run folder.
        experiment: Configuration of the run.
        info: Description of the data.
        lines: Lines of metrics, each with an integer step.
        history: Events of the run.
    """

    workdir: Path
    experiment: AnyExperiment
    info: DataInfo
    lines: list[dict[str, Any]]
    history: list[dict[str, Any]]

    @property
    def is_diffusion(self) -> bool:
        """True for a diffusion model, which the commands sample and compare draw."""
        return isinstance(self.experiment, Experiment)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Returns the events of a kind."""
        return [event for event in self.history if event["event"] == kind]


def training(run: Seen) -> Part:
    """Returns the section of training curves, and the last line of metrics."""
    part = Part("Training")
    if (run.workdir / NONFINITE).exists():
        part.warnings.append(
            f"A loss that was not finite stopped the training once: see {NONFINITE}."
        )
    if not run.lines:
        part.missing.append("No metrics yet: the command train writes them.")
        return part
    values = [{name: number(v) for name, v in line.items()} for line in run.lines]
    steps, losses = run_pictures.losses(values)

    def over_steps(name: str) -> np.ndarray:
        return np.array([line.get(name, np.nan) for line in values])

    known = {
        event["step"]: number(event.get("images_per_s"))
        for event in run.events("speed")
        if type(event.get("step")) is int
    }
    speeds = np.array([known.get(line["step"], np.nan) for line in run.lines])
    norms = {"mean": over_steps("grad_norm"), "largest": over_steps("grad_norm_max")}
    rates = {"learning rate": over_steps("learning_rate")}
    part.pictures += [
        *curve("Loss, in total and by quarter of the time range", steps, losses),
        *curve("Gradient norm", steps, norms),
        *curve("Learning rate", steps, rates, log=False),
        *curve("Images per second", steps, {"images/s": speeds}, log=False),
    ]
    last = dict(run.lines[-1])
    part.options = {f"metrics of step {last.pop('step'):,}, the last line": last}
    return part


def samples(run: Seen) -> Part:
    """Returns the section of samples, and of the forward and reverse processes."""
    part = Part("Samples")
    part.pictures = pictures_of(run.workdir, "samples.png", "reverse.gif")
    if not part.pictures and run.is_diffusion:
        part.missing.append("No samples yet: the commands run and sample draw them.")
    part.pictures += pictures_of(run.workdir, "forward.png")
    return part


def grids(run: Seen) -> Part:
    """Returns the section of samples, or reconstructions, during training."""
    name = "Samples" if run.is_diffusion else "Reconstructions"
    part = Part(f"{name} during training")
    prompts = run.experiment.upkeep.sample_prompts
    of = f" of the prompts {'; '.join(prompts)}" * bool(prompts)
    for step, path in tensorboard.grids(run.workdir, MOST):
        about = f"{name} at step {step:,}{of}"
        part.strip += picture_of(path, f"Step {step:,}", about)
    if not part.strip:
        every = run.experiment.upkeep.sample_every
        same = "noise" if run.is_diffusion else "images"
        how = (
            f"--upkeep.sample-every draws them, always from the same {same}"
            if every is None
            else f"the first comes at step {every:,}"
        )
        part.missing.append(f"No grids: {how}.")
    return part


def quality(run: Seen) -> Part:
    """Returns the section of results of the command evaluate."""
    part = Part("Quality")
    record = record_of(run.workdir / "evaluation.json")
    if record is None:
        part.missing.append("No metrics yet: the command evaluate computes them.")
        part.pictures = pictures_of(run.workdir, "ema.png")
        return part
    part.tables += figures_of(record)
    by_time = record.get("loss_by_timestep")
    if isinstance(by_time, Mapping):
        t, loss = (numbers(by_time.get(name)) for name in ("t", "loss"))
        if len(t) and len(t) == len(loss):
            part.pictures += curve("Loss by time", t, {"loss": loss}, xlabel="time t")
    part.pictures += pictures_of(run.workdir, "bound.png", "nearest.png", "ema.png")
    part.options = {"evaluated": settings_of(record)}
    return part


def samplers(run: Seen) -> Part:
    """Returns the section of results of the command compare."""
    part = Part("Samplers compared")
    rows = (record_of(run.workdir / "compare.json") or {}).get("quality")
    if isinstance(rows, list):
        header = ("sampler", "evaluations", "label agreement", "Frechet distance")
        keys = ("sampler", "evaluations", "agreement", "distance")
        cells = [
            tuple(cell(row.get(key)) for key in keys)
            for row in rows
            if isinstance(row, Mapping)
        ]
        part.tables.append(Table("Samplers and held-out images", header, cells))
    part.pictures = pictures_of(run.workdir, "compare.png", "samplers.png")
    if not part.tables and not part.pictures and run.is_diffusion:
        part.missing.append("No comparison yet: the command compare makes it.")
    return part


def others(run: Seen) -> Part:
    """Returns the section of pictures that no other section shows."""
    shown = {
        "samples.png", "reverse.gif", "forward.png", "bound.png", "nearest.png",
        "ema.png", "compare.png", "samplers.png", "loss.png",
    }  # fmt: skip
    names = sorted(p.name for e in ("png", "gif") for p in run.workdir.glob(f"*.{e}"))
    rest = [name for name in names if name not in shown]
    return Part("More pictures", pictures=pictures_of(run.workdir, *rest))


def configuration(run: Seen) -> Part:
    """Returns the section of options, with ungrouped options first."""
    options = serialization.to_dict(run.experiment)
    single = {k: v for k, v in options.items() if not isinstance(v, dict)}
    groups = {k: v for k, v in options.items() if k not in single}
    shown = {name: plain(v) for name, v in run.info._asdict().items() if v is not None}
    return Part("Configuration", options={"run": single, **groups, "images": shown})


def origin(run: Seen) -> Part:
    """Returns the section of the run's origin: times, command, machine and versions."""
    part = Part("Origin")
    starts = run.events("start")
    if not starts:
        part.missing.append("The history has no start.")
        return part
    first, last = starts[0], starts[-1]
    command = last.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else command
    times = {
        "starts": len(starts),
        "first": first.get("time"),
        "last": last.get("time"),
        "command": words,
    }
    groups = {name: last.get(name) for name in ("devices", "machine", "code")}
    known = {"time": times, **groups, "versions": last.get("versions")}
    part.options = {name: value for name, value in known.items() if value}
    return part


PARTS: tuple[Callable[[Seen], Part], ...] = (
    training, samples, grids, quality, samplers, others, configuration, origin
)  # fmt: skip
"""Sections, in the order of the page."""


def took(run: Seen) -> str:
    """Returns the duration of training as text, by the clock of the history."""
    seconds, before = 0.0, None
    for event in run.history:
        try:
            when = datetime.fromisoformat(event["time"]).timestamp()
        except (KeyError, OverflowError, TypeError, ValueError):
            continue
        if event["event"] != "start" and before is not None:
            seconds += max(0.0, when - before)
        before = when
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest else ""
