"""Charts of curves: losses, schedules, bounds and comparisons."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdiff.errors import InputError, require
from jaxdiff.plots.images import INK, PathLike
from jaxdiff.typing import ArrayLike

# Okabe and Ito's colours, which the colour-blind can tell apart; without the yellow.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")


class Diagnosed(Protocol):
    """The parts of a `Diagnosis` that are drawn."""

    @property
    def log_snr(self) -> ArrayLike:
        """Natural logarithm of the SNR [T], least noise first."""
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
        """The most that one step, and that all of them, should lose."""
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
    style = {"color": INK, "linewidth": 2.6, "linestyle": "-", "zorder": 3}
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


def save_diagnosis(path: PathLike, diagnosis: Diagnosed) -> None:
    """Write as a PNG what `jaxdiff.schedules.diagnose` found, three panels over t / T.

    Args:
        path: the file to write.
        diagnosis: what `diagnose` gave.
    """
    ratio = np.asarray(diagnosis.log_snr, np.float64)
    loss = np.asarray(diagnosis.step_loss, np.float64)
    marks, limits = diagnosis.marks, diagnosis.limits
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
