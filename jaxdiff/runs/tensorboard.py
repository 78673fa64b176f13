"""What TensorBoard shows of a run: its metrics, its speed and its grids of samples.

All of it is in other files of the run folder too, from which it is written anew when
the run goes on.
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
from jaxdiff.storage.files import picture_kind

MOST = 20
"""So many of the earlier grids are written anew; TensorBoard shows 10 by default."""


def open_board(
    workdir: Path,
    lines: Iterable[dict[str, Any]],
    speeds: Iterable[dict[str, Any]],
    step: int,
) -> Events | None:
    """Begins the events of a run with what it has done before.

    Args:
        workdir: the run folder.
        lines: of its metrics.
        speeds: of its history, the events "speed".
        step: where it goes on; what is of later steps is left out.

    Returns:
        None, after a warning, where tensorboardX is not installed.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        check_installed()
    except InputError as error:
        warnings.warn(
            f"nothing for TensorBoard: {error}, or set --upkeep.no-tensorboard",
            stacklevel=2,
        )
        return None
    events = Events(workdir / TENSORBOARD)
    known = {speed.get("step"): speed for speed in speeds}  # of those done twice, last
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
        content = path.read_bytes()
        if picture_kind(content) == "png":
            events.picture(at, GRIDS, content, path.stat().st_mtime)
    return events


def grid_path(workdir: Path, step: int) -> Path:
    """Where the grid of a step is."""
    return workdir / GRIDS / f"step_{step:08d}.png"


def grids(workdir: Path, most: int, until: int | None = None) -> list[tuple[int, Path]]:
    """The grids of a run folder with their steps, in order.

    Args:
        workdir: the run folder.
        most: how many at most, evenly chosen; the last is always among them.
        until: none of a later step.
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
