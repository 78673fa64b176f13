"""Pictures: grids of samples, strips, animations, loss curves and schedules.

The only file that imports Matplotlib and Pillow, inside its functions. It leaves
`matplotlib.pyplot` and all other global state alone, so it needs no display and works
from any thread. Images come as uint8 [N, H, W, C] with C = 1 (grey) or 3 (RGB) and are
enlarged by a whole factor, pixel by pixel. Every function writes one file at `path`, in
a folder that is there, or to a file that is open, and raises `InputError` where what it
is given does not fit.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from jaxdiff.errors import InputError, require
from jaxdiff.typing import ArrayLike

PathLike: TypeAlias = str | os.PathLike[str] | BinaryIO
Texts: TypeAlias = Sequence[object] | None
GAP = 6  # pixels between two images and around them all
GAP_COLOUR = 255  # white
TILE = 64  # where no scale is given, images are enlarged to at least this many pixels
_TEXT = 16  # the height of labels and captions, in pixels
_INK = "#333333"
# Okabe and Ito's colours, which the colour-blind can tell apart; without the yellow.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")


def save_grid(
    path: PathLike,
    images: ArrayLike,
    *,
    row_labels: Texts = None,
    columns: int | None = None,
    scale: int | None = None,
) -> None:
    """Write a grid of images as a PNG, one row per label.

    Args:
        path: the file to write.
        images: uint8 [N, H, W, C], row by row. The last row may be incomplete.
        row_labels: one text per row, drawn to its left.
        columns: images per row. By default N / rows where the rows are labelled, else
            what makes the grid about square.
        scale: the whole factor of enlargement, by default to about 64 pixels.
    """
    tiles = _checked("images", images, "N, H, W, C")
    if columns is None and row_labels is not None and len(row_labels):
        columns = -(-len(tiles) // len(row_labels))
    sheet, centres = _sheet(tiles, columns, scale)
    rows = sorted({y for _, y in centres})
    labels, widest = _texts("row_labels", row_labels, "rows", len(rows))
    left = widest + GAP if labels else 0
    texts = [(left, y, label) for y, label in zip(rows, labels, strict=False)]
    _save_png(path, sheet, texts, "rm", room=(left, 0))


def save_strip(path: PathLike, images: ArrayLike, captions: Texts = None) -> None:
    """Write images [N, H, W, C] in one row as a PNG, each with its caption beneath."""
    tiles = _checked("images", images, "N, H, W, C")
    captions, widest = _texts("captions", captions, "images", len(tiles))
    sheet, centres = _sheet(tiles, len(tiles), widest=widest)
    y = len(sheet) + _TEXT / 2
    texts = [(x, y, text) for (x, _), text in zip(centres, captions, strict=False)]
    _save_png(path, sheet, texts, "mm", room=(0, _TEXT + GAP if texts else 0))


def save_gif(
    path: PathLike,
    frames: ArrayLike,
    *,
    columns: int | None = None,
    milliseconds: int = 80,
    hold: int = 1500,
    scale: int | None = None,
) -> None:
    """Write an endless animation as a GIF, each frame a grid of images.

    Few colours keep it small: 16 greys, or 64 colours shared by all frames of RGB.
    Equal frames in succession become one that lasts as long as both.

    Args:
        path: the file to write.
        frames: uint8 [F, N, H, W, C].
        columns: images per row, by default what makes the grid about square.
        milliseconds: how long a frame is shown, in steps of 10.
        hold: how many milliseconds the last frame is shown.
        scale: the whole factor of enlargement, by default to about 64 pixels.
    """
    image = require("PIL.Image")
    stack = _checked("frames", frames, "F, N, H, W, C")
    if min(milliseconds, hold) < 20:
        raise InputError(f"milliseconds, hold: {milliseconds}, {hold}; give 20 or more")
    # The images become indices into a palette, whose last colour is the gaps': white.
    if stack.shape[-1] == 1:
        palette = np.arange(256).repeat(3).tolist()
        stack = np.rint(stack / 17).astype(np.uint8) * 17
    else:
        tall = image.fromarray(stack.reshape(-1, stack.shape[3], 3)).quantize(63)
        palette = (tall.getpalette() or [])[: 3 * 63]
        palette += [GAP_COLOUR] * (3 * 256 - len(palette))
        stack = np.asarray(tall).reshape(*stack.shape[:-1], 1)
    pictures = [image.fromarray(_sheet(f, columns, scale)[0][..., 0]) for f in stack]
    for picture in pictures:
        picture.putpalette(palette)
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    options = {"append_images": pictures[1:], "duration": durations, "loop": 0}
    pictures[0].save(path, "GIF", save_all=True, **options)


def save_curve(
    path: PathLike,
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    *,
    xlabel: str = "training step",
    ylabel: str = "loss",
    log: bool = True,
    narrow: bool = False,
) -> None:
    """Write lines over x [S] as a PNG, by default losses over the steps of training.

    Args:
        path: the file to write.
        x: where the values are.
        series: names, and [S] values each; the first is drawn thicker. Values that are
            not finite are left out, and on a logarithmic axis those not above 0.
        xlabel: what x is.
        ylabel: what the values are.
        log: a logarithmic axis of values.
        narrow: for a page, and for one line: the names are below, and only of several.
    """
    ticker = require("matplotlib.ticker")
    figure, (axes,) = _figure(series, 1, width=4.4 if narrow else 7.5)
    figure.dpi *= 1.4 if narrow else 1  # it may be enlarged
    x = np.asarray(x)
    style = {"color": _INK, "linewidth": 2.6, "linestyle": "-", "zorder": 3}
    for name, values in series.items():
        y = np.asarray(values, np.float64)
        if x.ndim != 1 or y.shape != x.shape:
            shapes = f"{y.shape} for x {x.shape}"
            raise InputError(f"series {name!r}: {shapes}; give one value per x")
        kept = np.isfinite(y) & (y > 0) if log else np.isfinite(y)
        marker = "o" if kept.sum() == 1 else None  # a line of one point shows nothing
        axes.plot(x[kept], y[kept], label=name, marker=marker, **style)
        style = {}
    if log:
        axes.set_yscale("log", subs=[])
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None))
    _save_figure(path, figure, axes, below=narrow)


def save_schedules(path: PathLike, schedules: Mapping[str, ArrayLike]) -> None:
    """Write as a PNG how schedules lose the signal: alphas_bar and log-SNR over t / T.

    Each of the schedules is a name and alphas_bar [T], least noise first: the signal's
    share of the variance. The log-SNR is left out where it is infinite, at 0 or 1.
    """
    figure, (signal, ratio) = _figure(schedules, 2, width=10)
    ratio.axhline(0, color="#888888", linewidth=1, linestyle="--")
    for name, values in schedules.items():
        y = np.asarray(values, np.float64)
        if y.ndim != 1 or not y.size or not ((y >= 0) & (y <= 1)).all():
            got = f"shape {y.shape}, {y.min(initial=1):g} to {y.max(initial=0):g}"
            raise InputError(f"schedule {name!r}: {got}; give [T] values from 0 to 1")
        t, kept = np.arange(len(y)) / len(y), (y > 0) & (y < 1)
        signal.plot(t, y, label=name)
        ratio.plot(t[kept], np.log(y[kept] / (1 - y[kept])), label=name)
    signal.set(title=r"Signal's share, $\bar\alpha_t$", xlabel="t / T", xlim=(0, 1))
    ratio.set(title="Log signal-to-noise ratio", xlabel="t / T", xlim=(0, 1))
    _save_figure(path, figure, ratio)


def save_diagnosis(
    path: PathLike,
    log_snr: ArrayLike,
    step_loss: ArrayLike,
    marks: Mapping[str, float],
    limits: tuple[float, float],
) -> None:
    """Write as a PNG what `jaxdiff.diagnose` found, three panels over t / T.

    Args:
        path: the file to write.
        log_snr: natural logarithm of the SNR, [T], least noise first. It is left out
            where it is infinite.
        step_loss: share of the data's variance that each reverse step loses, [T]; its
            running sum is the third panel.
        marks: log-SNRs to mark in the first panel, by name.
        limits: the most that one step, and that all of them, should lose.
    """
    ratio, loss = np.asarray(log_snr, np.float64), np.asarray(step_loss, np.float64)
    if ratio.ndim != 1 or not ratio.size or loss.shape != ratio.shape:
        got = f"{ratio.shape} and {loss.shape}"
        raise InputError(f"log_snr, step_loss: shapes {got}; give both as [T]")
    panels = (  # a curve, its title, lines across, the least of the y axis
        (ratio, "Log signal-to-noise ratio", marks, -18),
        (loss, "Variance lost by step t", {"": limits[0]}, limits[0] * 1e-8),
        (loss.cumsum(), "Variance lost up to t", {"": limits[1]}, -1),
    )
    figure, all_axes = _figure(panels, len(panels), width=10)
    t, marker = np.arange(len(ratio)) / len(ratio), "." if len(ratio) <= 100 else ""
    for axes, (values, title, lines, least) in zip(all_axes, panels, strict=True):
        kept = np.isfinite(values)
        axes.plot(t[kept], values[kept], marker=marker)
        axes.set_yscale("log" if values is loss else "linear")
        for name, y in lines.items():
            axes.axhline(y, label="limit", color=_COLOURS[3], linewidth=1, ls="--")
            # Where the falling curve is not: left if it is above for long, else right.
            x, side = (0.02, "left") if (values > y).mean() > 0.4 else (0.98, "right")
            axes.text(x, y, name, color=_COLOURS[3], fontsize=9, ha=side, va="bottom")
        axes.margins(y=0.1)
        axes.set(title=title, xlabel="t / T", xlim=(0, 1))
        axes.set_ylim(bottom=max(axes.get_ylim()[0], least))
    _save_figure(path, figure, all_axes[-1])


def save_bound(
    path: PathLike, terms: Mapping[str, ArrayLike], edges: ArrayLike
) -> None:
    """Write as a PNG the variational bound by time: its terms, and their running sum.

    Terms that are not above 0 are left out of the first panel.

    Args:
        path: the file to write.
        terms: bits per dimension by name, [parts], least noise first, each the sum of
            the terms of a part of the times.
        edges: integers [parts + 1], the times at which the parts begin, and T.
    """
    edges = np.asarray(edges)
    middle = np.sqrt((edges[:-1] + 1) * edges[1:])  # of each part, plus 1
    figure, (single, total) = _figure(terms, 2, width=10)
    for name, values in terms.items():
        y = np.asarray(values, np.float64)
        if y.ndim != 1 or not y.size or edges.shape != (len(y) + 1,):
            raise InputError(
                f"terms {name!r}: shape {y.shape}; give [parts] values and edges "
                "[parts + 1]"
            )
        mean, kept = y / np.diff(edges), y > 0
        single.plot(middle[kept], mean[kept], label=name)
        total.plot(edges[1:], np.cumsum(y), label=name)
    single.set(title="Term of the bound", xlabel="t + 1", ylabel="bits per dimension")
    single.set(xscale="log", yscale="log")
    total.set(title="Sum up to t", xlabel="t + 1", xscale="log", ylim=(0, None))
    _save_figure(path, figure, total)


def save_comparison(
    path: PathLike,
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    marks: Mapping[str, Mapping[str, float]],
    xlabel: str,
    ticks: Sequence[float],
    shares: Collection[str] = (),
) -> None:
    """Write as a PNG lines of points (x, y) by name, x on a logarithmic axis.

    So is y, unless all values of a panel are near each other; but shares are shown from
    80% on, or from the lowest best share where that is less.

    Args:
        path: the file to write.
        panels: the lines of each panel, by the panel's title and the line's name.
        marks: values to mark by a line across, by the panel's title and a name.
        xlabel: what x is.
        ticks: the values of x to name.
        shares: the titles of panels whose values are shares, at most 1.
    """
    ticker = require("matplotlib.ticker")
    figure, all_axes = _figure(panels, len(panels), width=5 + 4 * len(panels))
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        for name, points in lines.items():
            x, y = np.array(points, np.float64).T
            axes.plot(x, y, marker="o", markersize=3, label=name)
        for name, y in marks[title].items():
            axes.axhline(y, color=_INK, linewidth=1, linestyle="--")
            style = {"color": _INK, "fontsize": 9, "ha": "right", "va": "bottom"}
            axes.text(max(ticks), y, name, **style)
        axes.set_xscale("log")
        axes.set_xticks(list(ticks), [f"{x:g}" for x in ticks])
        axes.minorticks_off()
        if title in shares:
            tops = [max(y for _, y in points) for points in lines.values()]
            axes.set_ylim(min(0.8, *tops) - 0.01, 1.01)
            axes.yaxis.set_major_locator(ticker.MultipleLocator(0.05))
            axes.yaxis.set_major_formatter("{x:.0%}")
        elif axes.dataLim.y1 > 3 * axes.dataLim.y0:
            axes.set_yscale("log", subs=[])
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
        axes.margins(x=0.03)
        axes.set(title=title, xlabel=xlabel)
    _save_figure(path, figure, all_axes[-1])


def check_installed() -> None:
    """Refuses to begin what could not be drawn in the end."""
    require("matplotlib")
    require("PIL")


def _checked(name: str, values: ArrayLike, axes: str) -> np.ndarray:
    array = np.asarray(values)
    fits = array.dtype == np.uint8 and array.ndim == len(axes.split())
    if not fits or not array.size or array.shape[-1] not in (1, 3):
        expected = f"give uint8 [{axes}] with C = 1 or 3, none empty"
        raise InputError(f"{name}: {array.dtype} {array.shape}; {expected}")
    return array


def _texts(name: str, texts: Texts, of: str, count: int) -> tuple[list[str], int]:
    """The texts, one for each of `count`, and the width of the widest in pixels."""
    if texts is not None and len(texts) != count:
        raise InputError(f"{name}: {len(texts)} texts for {count} {of}; give one each")
    strings = [] if texts is None else [str(text) for text in texts]
    return strings, math.ceil(max(map(_font().getlength, strings), default=0))


def _font() -> Any:
    folder = Path(require("matplotlib").get_data_path(), "fonts", "ttf")
    return require("PIL.ImageFont").truetype(str(folder / "DejaVuSans.ttf"), _TEXT)


def _sheet(
    images: np.ndarray, columns: int | None, scale: int | None = None, widest: int = 0
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Enlarged images on one [h, w, C], apart as texts need; their centres (x, y)."""
    for name, value in (("columns", columns), ("scale", scale)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value}; give a whole number, 1 or more")
    scale = scale or -(-TILE // max(images.shape[1:3]))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = tiles.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    down, right = height + GAP, max(width + GAP, widest + 2 * GAP)
    gap = right - width
    size = GAP - (-count // columns) * down, gap + columns * right, channels
    sheet, centres = np.full(size, GAP_COLOUR, np.uint8), []
    for i, tile in enumerate(tiles):
        y, x = GAP + i // columns * down, gap + i % columns * right
        sheet[y : y + height, x : x + width] = tile
        centres.append((x + width / 2, y + height / 2))
    return sheet, centres


def _save_png(
    path: PathLike, sheet: np.ndarray, texts: list[Any], anchor: str, room: Any
) -> None:
    """Save the sheet with texts (x, y, text) and `room` for them to the left, below."""
    image = require("PIL.Image")
    pads = ((0, room[1]), (room[0], 0), (0, 0))
    padded = np.pad(sheet, pads, constant_values=GAP_COLOUR)
    picture = image.fromarray(padded[..., 0] if padded.shape[-1] == 1 else padded)
    draw = require("PIL.ImageDraw").Draw(picture)
    for x, y, text in texts:
        draw.text((x, y), text, fill=_INK, font=_font(), anchor=anchor)
    picture.save(path, "PNG", optimize=True)


def _figure(lines: Any, panels: int, width: float) -> tuple[Any, list[Any]]:
    if not lines:
        raise InputError("nothing to draw: give at least one name and its values")
    figure = require("matplotlib.figure").Figure(
        (width, 3.6), dpi=120, facecolor="white", layout="constrained"
    )
    panel_axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in panel_axes:
        styles = [style for style in ("-", "--", ":") for _ in range(4)]
        widths = [1.6] * len(styles)
        axes.set_prop_cycle(color=2 * _COLOURS, linestyle=styles, linewidth=widths)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e8e8e8", linewidth=0.8)
        axes.margins(x=0)
    return figure, panel_axes


def _save_figure(path: PathLike, figure: Any, axes: Any, below: bool = False) -> None:
    """Save as a PNG of 128 colours, the legend of `axes` to its right or below."""
    if not below:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    elif len(axes.lines) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    picture = require("PIL.Image").fromarray(pixels)
    picture.quantize(128).save(path, "PNG", optimize=True)
