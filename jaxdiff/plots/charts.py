"""Charts of curves: losses, schedules, bounds and comparisons."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdiff.errors import InputError, require
from jaxdiff.plots.images import INK, PathLike, save_picture
from jaxdiff.typing import ArrayLike

# Okabe and Ito's colours, distinct for colour-blind readers; without the yellow.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")


class Diagnosed(Protocol):
    """Parts of a `Diagnosis` to draw."""

    @property
    def log_snr(self) -> ArrayLike:
        """Natural logarithm of the SNR, least noise first, [T]."""
        ...

    @property
    def step_loss(self) -> ArrayLike:
        """Share of the data's variance that each reverse step loses, [T]."""
        ...

    @property
    def marks(self) -> Mapping[str, float]:
        """Log-SNRs to mark, by name."""
        ...

    @property
    def limits(self) -> tuple[float, float]:
        """Largest loss that is acceptable for one step, and for all steps."""
        ...


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
    """Writes lines over x [S] as a PNG, by default losses over training steps.

    Args:
        path: Path of the file, or an open binary file.
        x: Positions of the values [S].
        series: Values [S] by name; the first line is thicker. Values that are not
            finite are left out, and on a logarithmic axis also values not above 0.
        xlabel: Label of the x axis.
        ylabel: Label of the axis of values.
        log: If True, the axis of values is logarithmic.
        narrow: If True, the chart fits a page: the legend is below, and only for
            several lines.
    """
    ticker = require("matplotlib.ticker")
    figure, (axes,) = _figure(series, 1, width=4.4 if narrow else 7.5)
    figure.dpi *= 1.4 if narrow else 1  # a page may enlarge the chart
    x = np.asarray(x)
    style = {"color": INK, "linewidth": 2.6, "linestyle": "-", "zorder": 3}
    for name, values in series.items():
        y = np.asarray(values, np.float64)
        if x.ndim != 1 or y.shape != x.shape:
            shapes = f"{y.shape} and x {x.shape}"
            raise InputError(f"series {name!r} must have one value per x, got {shapes}")
        kept = np.isfinite(y) & (y > 0) if log else np.isfinite(y)
        marker = "o" if kept.sum() == 1 else None  # a line of one point is invisible
        axes.plot(x[kept], y[kept], label=name, marker=marker, **style)
        style = {}
    if log:
        axes.set_yscale("log", subs=[])
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None))
    _save_figure(path, figure, axes, below=narrow)


def save_schedules(path: PathLike, schedules: Mapping[str, ArrayLike]) -> None:
    """Writes a PNG of alphas_bar and the log-SNR of schedules over t / T.

    Each schedule has a name and alphas_bar [T], least noise first: the signal's share
    of the variance. Infinite log-SNRs are left out, for alphas_bar of 0 or 1.
    """
    figure, (signal, ratio) = _figure(schedules, 2, width=10)
    ratio.axhline(0, color="#888888", linewidth=1, linestyle="--")
    for name, values in schedules.items():
        y = np.asarray(values, np.float64)
        if y.ndim != 1 or not y.size or not ((y >= 0) & (y <= 1)).all():
            got = f"shape {y.shape}, {y.min(initial=1):g} to {y.max(initial=0):g}"
            raise InputError(
                f"schedule {name!r} must be [T] values in [0, 1], got {got}"
            )
        t, kept = np.arange(len(y)) / len(y), (y > 0) & (y < 1)
        signal.plot(t, y, label=name)
        ratio.plot(t[kept], np.log(y[kept] / (1 - y[kept])), label=name)
    signal.set(title=r"Signal's share, $\bar\alpha_t$", xlabel="t / T", xlim=(0, 1))
    ratio.set(title="Log signal-to-noise ratio", xlabel="t / T", xlim=(0, 1))
    _save_figure(path, figure, ratio)


def save_diagnosis(path: PathLike, diagnosis: Diagnosed) -> None:
    """Writes a PNG of a schedule's diagnosis, three panels over t / T.

    Args:
        path: Path of the file, or an open binary file.
        diagnosis: Result of `jaxdiff.schedules.diagnose`.
    """
    ratio = np.asarray(diagnosis.log_snr, np.float64)
    loss = np.asarray(diagnosis.step_loss, np.float64)
    marks, limits = diagnosis.marks, diagnosis.limits
    if ratio.ndim != 1 or not ratio.size or loss.shape != ratio.shape:
        got = f"{ratio.shape} and {loss.shape}"
        raise InputError(f"log_snr and step_loss must both be [T], got shapes {got}")
    panels = (  # curve, title, horizontal lines, lowest y to show
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
            # Away from the falling curve: left if it stays above, otherwise right.
            x, side = (0.02, "left") if (values > y).mean() > 0.4 else (0.98, "right")
            axes.text(x, y, name, color=_COLOURS[3], fontsize=9, ha=side, va="bottom")
        axes.margins(y=0.1)
        axes.set(title=title, xlabel="t / T", xlim=(0, 1))
        axes.set_ylim(bottom=max(axes.get_ylim()[0], least))
    _save_figure(path, figure, all_axes[-1])


def save_bound(
    path: PathLike, terms: Mapping[str, ArrayLike], edges: ArrayLike
) -> None:
    """Writes a PNG of the variational bound by time: its terms, and their running sum.

    The first panel leaves out terms that are not above 0.

    Args:
        path: Path of the file, or an open binary file.
        terms: Bits per dimension by name [parts], least noise first; each value is the
            sum of the terms of one part of the times.
        edges: First time of each part, and T (integers [parts + 1]).
    """
    edges = np.asarray(edges)
    middle = np.sqrt((edges[:-1] + 1) * edges[1:])  # geometric mean of t + 1
    figure, (single, total) = _figure(terms, 2, width=10)
    for name, values in terms.items():
        y = np.asarray(values, np.float64)
        if y.ndim != 1 or not y.size or edges.shape != (len(y) + 1,):
            raise InputError(
                f"terms {name!r} must be [parts] values with edges [parts + 1], "
                f"got shape {y.shape}"
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
    """Writes a PNG of lines of points (x, y) by name, with a logarithmic x axis.

    The y axis is logarithmic as well, unless all values of a panel are close. The y
    axis of shares starts at 80%, or at the lowest best share if that is less.

    Args:
        path: Path of the file, or an open binary file.
        panels: Lines of each panel, by the panel's title and the line's name.
        marks: Values of horizontal lines, by the panel's title and a name.
        xlabel: Label of the x axis.
        ticks: Values of x to label.
        shares: Titles of the panels whose values are shares, at most 1.
    """
    ticker = require("matplotlib.ticker")
    figure, all_axes = _figure(panels, len(panels), width=5 + 4 * len(panels))
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        for name, points in lines.items():
            x, y = np.array(points, np.float64).T
            axes.plot(x, y, marker="o", markersize=3, label=name)
        for name, y in marks[title].items():
            axes.axhline(y, color=INK, linewidth=1, linestyle="--")
            style = {"color": INK, "fontsize": 9, "ha": "right", "va": "bottom"}
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


def _figure(lines: Any, panels: int, width: float) -> tuple[Any, list[Any]]:
    if not lines:
        raise InputError(
            "there is nothing to draw. Give at least one name with its values."
        )
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
    """Saves a PNG of 128 colours, with the legend of `axes` on the right or below."""
    if not below:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    elif len(axes.lines) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    picture = require("PIL.Image").fromarray(pixels)
    save_picture(path, picture.quantize(128), "PNG", optimize=True)
