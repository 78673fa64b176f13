"""Contents of a run folder, as text."""

from pathlib import Path
from typing import Any

from jaxdiff import serialization
from jaxdiff.report.text import number, plain, reached
from jaxdiff.runs.folder import CHECKPOINTS, METRICS, NONFINITE, read_config
from jaxdiff.runs.log import events_of
from jaxdiff.storage import json_lines
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.storage.files import size


def status(workdir: Path) -> str:
    """Returns the contents of a run folder as text, after a check of every checkpoint.

    Raises:
        InputError: If the run does not exist, or its configuration cannot be read.
    """
    experiment, info = read_config(workdir)
    found = Checkpoints(workdir / CHECKPOINTS).status()
    whole = [step for step, (_, reason) in found.items() if reason is None]
    end = experiment.training.num_steps
    lines = [f"{workdir}: {reached(max(whole, default=0), end)}", "", "checkpoints"]
    for step, (count, reason) in found.items():
        word = "whole" if reason is None else f"damaged: {reason}"
        lines.append(f"  step {step:<10,} {size(count):>9}  {word}")
    lines += [] if found else ["  none"]

    metrics = json_lines.read(workdir / METRICS, "step")
    if metrics:
        last = metrics[-1]
        lines += ["", f"metrics of step {last.pop('step'):,}, the last line"]
        lines += [f"  {name:<15} {number(value)}" for name, value in last.items()]
        skipped = sum(line.get("nonfinite", 0) for line in metrics)
        if skipped:
            lines.append(f"  steps with a loss that was not finite: {skipped}")
    if (workdir / NONFINITE).exists():
        lines += [
            "",
            f"a loss that was not finite stopped the training once: see {NONFINITE}",
        ]

    starts, speeds, changes = (
        events_of(workdir, kind) for kind in ("start", "speed", "change")
    )
    lines += ["", "history"]
    lines += [f"  {_start(event)}" for event in starts[-5:]] or ["  none"]
    if len(starts) > 5:
        lines.insert(-5, f"  {len(starts) - 5} earlier starts")
    lines += [
        f"  {event.get('time')}  changed from step {event.get('step')} on: "
        f"{plain(event.get('options'))}"
        for event in changes
    ]
    if speeds:
        speed, when = speeds[-1].get("images_per_s"), speeds[-1].get("time")
        lines.append(f"  {when}  {number(speed)} images/s, the last throughput")

    lines += ["", "data"]
    lines += [f"  {name:<12} {plain(v)}" for name, v in info._asdict().items()]
    lines += ["", "configuration"]
    lines += [
        f"  {name:<12} {plain(value)}"
        for name, value in serialization.to_dict(experiment).items()
    ]
    return "\n".join(lines)


def _start(event: dict[str, Any]) -> str:
    """Returns a start of the run in one line."""
    versions, devices = event.get("versions", {}), event.get("devices", {})
    code = event.get("code", {})
    made = code.get("commit", f"source {code.get('source', 'unknown')}")
    names = ("jaxdiff", "jax", "flax", "optax", "python")
    return (
        f"{event.get('time')}  from step {event.get('step')} on "
        f"{devices.get('count')} x {devices.get('kind')}, processes: "
        f"{devices.get('processes')}; "
        + ", ".join(f"{name} {versions.get(name)}" for name in names)
        + f"; {made}"
    )
