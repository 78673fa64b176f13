"""Metrics, throughput and sample grids of a run for TensorBoard.

All of it is also in other files of the run folder. A resumed run rewrites the event
file from them.
"""

import contextlib
import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import GRIDS, TENSORBOARD
from jaxdiff.storage.event_files import Events, check_installed
from jaxdiff.storage.files import LARGEST, open_regular, picture_kind

MOST = 20
"""Largest number of earlier grids to rewrite; TensorBoard shows 10 by default."""


def open_board(
    workdir: Path,
    lines: Iterable[dict[str, Any]],
    speeds: Iterable[dict[str, Any]],
    step: int,
) -> Events | None:
    """Opens the event file of a run and writes its earlier metrics and grids.

    Args:
        workdir: the run folder.
        lines: lines of its metrics.
        speeds: events "speed" of its history.
        step: number of steps done; later lines and grids are skipped.

    Returns:
        The open event file; None, after a warning, if tensorboardX is not installed.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        check_installed()
    except InputError as error:
        warnings.warn(
            "skipped the event files for TensorBoard (to silence this, set "
            f"--upkeep.no-tensorboard): {error}",
            stacklevel=2,
        )
        return None
    events = Events(workdir / TENSORBOARD)
    known = {speed.get("step"): speed for speed in speeds}  # the last of repeated steps
    for line in lines:
        values = {k: v for k, v in line.items() if k != "step" and _is_number(v)}
        speed, when = known.get(line["step"], {}), None
        if _is_number(speed.get("images_per_s")):
            values["images_per_s"] = speed["images_per_s"]
        with contextlib.suppress(KeyError, TypeError, ValueError):
            when = datetime.fromisoformat(speed["time"]).timestamp()
        if line["step"] <= step:
            events.write(line["step"], values, when)
    for at, path in grids(workdir, MOST, until=step):
        try:
            with open_regular(path, LARGEST) as file:
                content = file.read()
        except OSError:
            continue
        if picture_kind(content) == "png":
            events.picture(at, GRIDS, content, path.stat().st_mtime)
    events.replace_earlier()
    return events


def grid_path(workdir: Path, step: int) -> Path:
    """Returns the path of a step's grid."""
    return workdir / GRIDS / f"step_{step:08d}.png"


def grids(workdir: Path, most: int, until: int | None = None) -> list[tuple[int, Path]]:
    """Returns the grids of a run folder with their steps, in order.

    Args:
        workdir: the run folder.
        most: largest number of grids, evenly chosen; the last is always among them.
        until: largest step; None for no limit.
    """
    found = []
    for path in (workdir / GRIDS).glob("step_*.png"):
        with contextlib.suppress(ValueError):
            found.append((int(path.stem.removeprefix("step_")), path))
    found = [pair for pair in sorted(found) if until is None or pair[0] <= until]
    stride = -(-len(found) // most) or 1
    return found[::-stride][::-1]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
