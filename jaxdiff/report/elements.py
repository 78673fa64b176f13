"""Elements of a page: pictures, tables and numbers, from any run folder."""

import base64
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import plots
from jaxdiff.checks import is_finite
from jaxdiff.errors import InputError
from jaxdiff.report.text import plain
from jaxdiff.storage.files import LARGEST, open_regular, picture_kind, read_json


class Picture(NamedTuple):
    """Picture in the page.

    Attributes:
        title: Caption below the picture.
        alt: Description for readers who do not see the picture.
        uri: The file itself, as a data URI.
        kind: "chart", or "pixels" for images. On a narrow screen, a picture that is
            also "wide" scrolls in its box; others shrink.
        width: Width in pixels.
        height: Height in pixels.
    """

    title: str
    alt: str
    uri: str
    kind: str
    width: int
    height: int


class Table(NamedTuple):
    """Table of texts."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass
class Part:
    """Section of the page; empty lists are not shown."""

    title: str
    missing: list[str] = field(default_factory=list)
    """Missing results, with the commands that create them."""
    warnings: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    strip: list[Picture] = field(default_factory=list)
    """Pictures of which one is shown at a time."""
    options: dict[str, Any] = field(default_factory=dict)
    """Names and values, in groups."""

    def __bool__(self) -> bool:
        """Returns True if there is anything to show."""
        return any(value for name, value in vars(self).items() if name != "title")


NAMED = {
    "samples.png": ("Samples", "pixels"),
    "forward.png": ("The forward process: from an image to noise", "wide pixels"),
    "reverse.gif": ("The reverse process: from noise to images", "pixels"),
    "schedules.png": ("Noise schedules, one of which is the run's", "wide chart"),
    "bound.png": ("The variational bound by time", "wide chart"),
    "nearest.png": ("Samples, with their nearest training images", "wide pixels"),
    "compare.png": ("Samplers by number of network evaluations", "wide chart"),
    "samplers.png": ("Images of each sampler from the same noise", "wide pixels"),
    "ema.png": ("Averages of the parameters", "wide chart"),
}
"""Pictures that the commands draw, with their titles and layouts."""


def curve(
    title: str,
    x: np.ndarray,
    series: dict[str, np.ndarray],
    log: bool = True,
    xlabel: str = "training step",
) -> list[Picture]:
    """Returns a chart of the finite values of series, or an empty list without any."""
    series = {name: y for name, y in series.items() if np.isfinite(y).any()}
    if not series:
        return []
    png = BytesIO()
    label = title.partition(",")[0].lower()
    plots.save_curve(png, x, series, xlabel=xlabel, ylabel=label, log=log, narrow=True)
    first = next(iter(series.values()))
    last = first[np.isfinite(first)][-1]
    alt = f"{title}: {xlabel} {x[0]:,} to {x[-1]:,}, in the end {last:.4g}"
    return _picture(png.getvalue(), title, alt, "chart")


def pictures_of(folder: Path, *names: str) -> list[Picture]:
    """Returns the pictures of these names that exist in the folder."""
    found = [picture_of(folder / name) for name in names]
    return [picture for one in found for picture in one]


def picture_of(path: Path, title: str = "", alt: str = "") -> list[Picture]:
    """Returns a picture; an empty list for a link and a file that cannot be read."""
    if path.is_symlink():
        return []
    try:
        with open_regular(path, LARGEST) as file:
            content = file.read()
    except OSError:
        return []
    known, kind = NAMED.get(path.name, (path.name, "pixels"))
    title = title or known
    return _picture(content, title, alt or title, kind)


def _picture(content: bytes, title: str, alt: str, kind: str) -> list[Picture]:
    form = picture_kind(content)
    if form == "png" and len(content) > 24:
        width, height = struct.unpack(">II", content[16:24])
    elif form == "gif" and len(content) > 10:
        width, height = struct.unpack("<HH", content[6:10])
    else:
        return []
    uri = f"data:image/{form};base64,{base64.b64encode(content).decode()}"
    return [Picture(title, alt, uri, kind, width, height)]


def record_of(path: Path) -> dict[str, Any] | None:
    """Returns the contents of a JSON file, or None if it is missing or invalid."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return read_json(path)
    except InputError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def number(value: Any) -> float:
    """Returns a number from a file as a float to draw, or nan for other values."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and is_finite(value) else np.nan


def numbers(values: Any) -> np.ndarray:
    """Returns a list of numbers as an array [S], which is empty for other values."""
    return np.array([number(v) for v in values] if isinstance(values, list) else [])


def cell(value: Any) -> str:
    """Returns a value as the text of a table's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.4g}"
    return f"{value:,}" if type(value) is int else plain(value)


def figures_of(record: Mapping[str, Any]) -> list[Table]:
    """Returns the metrics in an evaluation.json, of this version or an earlier one."""
    figures = record.get("figures")
    found = list(figures) if isinstance(figures, list) else []
    bits = record.get("bits_per_dim")
    if isinstance(bits, Mapping) and not found:
        unit = {"unit": "bits per dimension"}
        found = [
            {"name": name, **mean, **unit}
            for name, mean in bits.items()
            if isinstance(mean, Mapping)
        ]
    rows = []
    for figure in found:
        if isinstance(figure, Mapping):
            value, error = (cell(figure.get(k)) for k in ("value", "standard_error"))
            shown = f"{value} ± {error}" if error else value
            rest = (cell(figure.get(name)) for name in ("unit", "note"))
            rows.append((cell(figure.get("name")), shown, *rest))
    header = ("metric", "value ± standard error", "unit", "note")
    kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
    cells = [tuple(row[i] for i in kept) for row in rows]
    names = tuple(header[i] for i in kept)
    return [Table("Metrics on held-out images", names, cells)] if rows else []


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of an evaluation.json."""
    settings = record.get("settings")
    single = {k: v for k, v in record.items() if not isinstance(v, dict | list)}
    return single | (settings if isinstance(settings, dict) else {})
