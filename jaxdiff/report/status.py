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


def facts(workdir: Path) -> dict[str, Any]:
    """Returns the contents of a run folder as JSON data; see `status`."""
    experiment, info = read_config(workdir)
    found = Checkpoints(workdir / CHECKPOINTS).status()
    whole = [step for step, (_, reason) in found.items() if reason is None]
    metrics = json_lines.read(workdir / METRICS, "step")
    starts, speeds, changes = (
        events_of(workdir, kind) for kind in ("start", "speed", "change")
    )
    return {
        "workdir": str(workdir),
        "step": max(whole, default=0),
        "num_steps": experiment.training.num_steps,
        "checkpoints": [
            {"step": step, "bytes": count, "damage": reason}
            for step, (count, reason) in found.items()
        ],
        "metrics": metrics[-1] if metrics else None,
        "skipped": sum(line.get("nonfinite", 0) for line in metrics),
        "nonfinite": (workdir / NONFINITE).exists(),
        "starts": starts,
        "changes": changes,
        "images_per_s": speeds[-1].get("images_per_s") if speeds else None,
        "data": info._asdict(),
        "experiment": serialization.to_dict(experiment),
    }


def status(workdir: Path) -> str:
    """Returns the contents of a run folder as text, after a check of every checkpoint.

    Raises:
        InputError: If the run does not exist, or its configuration cannot be read.
    """
    found = facts(workdir)
    lines = [f"{workdir}: {reached(found['step'], found['num_steps'])}"]
    lines += ["", "checkpoints"]
    for one in found["checkpoints"]:
        word = "whole" if one["damage"] is None else f"damaged: {one['damage']}"
        lines.append(f"  step {one['step']:<10,} {size(one['bytes']):>9}  {word}")
    lines += [] if found["checkpoints"] else ["  none"]

    if last := found["metrics"]:
        lines += ["", f"metrics of step {last.pop('step'):,}, the last line"]
        lines += [f"  {name:<15} {number(value)}" for name, value in last.items()]
        if found["skipped"]:
            lines.append(f"  steps with a loss that was not finite: {found['skipped']}")
    if found["nonfinite"]:
        lines += [
            "",
            f"a loss that was not finite stopped the training once: see {NONFINITE}",
        ]

    starts, speeds = found["starts"], events_of(workdir, "speed")
    lines += ["", "history"]
    lines += [f"  {_start(event)}" for event in starts[-5:]] or ["  none"]
    if len(starts) > 5:
        lines.insert(-5, f"  {len(starts) - 5} earlier starts")
    lines += [
        f"  {event.get('time')}  changed from step {event.get('step')} on: "
        f"{plain(event.get('options'))}"
        for event in found["changes"]
    ]
    if speeds:
        speed, when = speeds[-1].get("images_per_s"), speeds[-1].get("time")
        lines.append(f"  {when}  {number(speed)} images/s, the last throughput")

    lines += ["", "data"]
    lines += [f"  {name:<12} {plain(v)}" for name, v in found["data"].items()]
    lines += ["", "configuration"]
    lines += [
        f"  {name:<12} {plain(value)}" for name, value in found["experiment"].items()
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
