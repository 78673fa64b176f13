"""Metrics of the steps since the last line: on the devices, then fetched."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff.losses.loss import QUARTERS
from jaxdiff.typing import Array

Metrics = dict[str, np.ndarray]
"""Metrics of one or more steps, each [steps, ...]."""
DTYPES = {"finite": np.bool_}
"""Data types of the metrics that are not float32."""
NEEDED = {"finite", "loss", "grad_norm"}
"""Metrics that every step has."""


class MetricsBuffer:
    """Metrics that are in no line of `metrics.jsonl` yet.

    Steps are dispatched asynchronously. The metrics of an interval are fetched when the
    next interval has been dispatched. Every process fetches them.

    Args:
        step: number of steps done at the start.
        pending: result of `pending` stored with this step; empty for a new run.
        on_nonfinite: called with the step, its loss and its gradient norm if one of the
            two is not finite.

    Raises:
        AttributeError, OverflowError, TypeError, ValueError: `pending` cannot be read.
    """

    def __init__(
        self,
        step: int,
        pending: Mapping[str, Any],
        on_nonfinite: Callable[[int, float, float], None],
    ):
        found = {
            name: np.array(values, DTYPES.get(name, np.float32))
            for name, values in pending.items()
        }
        lengths = {len(values) for values in found.values()}
        if found and (not found.keys() >= NEEDED or len(lengths) != 1):
            raise ValueError("pending must hold the metrics of whole steps")
        self._interval: list[Metrics] = [found] if found else []
        self._dispatched: list[dict[str, Array]] = []
        self._waiting: tuple[int, list[dict[str, Array]]] | None = None
        self._fetched = step
        self._on_nonfinite = on_nonfinite

    def add(self, metrics: dict[str, Array]) -> None:
        """Adds the metrics of one dispatch; the devices may still compute them."""
        self._dispatched.append(metrics)

    def end_interval(self, step: int) -> None:
        """Ends an interval with this step; call `take` for the previous one first."""
        self._waiting, self._dispatched = (step, self._dispatched), []

    def take(self) -> tuple[int, Metrics] | None:
        """Returns the last step and the metrics of the interval that ended, if one did.

        Raises:
            NonFiniteError: a step had a loss or a gradient that is not finite.
        """
        if self._waiting is None:
            return None
        (step, metrics), self._waiting = self._waiting, None
        self._fetch(metrics)
        interval, self._interval = self._interval, []
        return step, _joined(interval)

    def fetch(self) -> None:
        """Fetches the metrics of all steps so far.

        Raises:
            NonFiniteError: a step had a loss or a gradient that is not finite.
        """
        self._fetch(self._dispatched)
        self._dispatched = []

    def pending(self) -> dict[str, Any]:
        """Returns the fetched metrics that are in no line, for a checkpoint."""
        pending = _joined(self._interval) if self._interval else {}
        return {name: values.tolist() for name, values in pending.items()}

    def _fetch(self, metrics: list[dict[str, Array]]) -> None:
        if not metrics:
            return
        found = _joined(jax.device_get(metrics))
        self._interval.append(found)
        for place in np.flatnonzero(~found["finite"]):
            loss, norm = (float(found[name][place]) for name in ("loss", "grad_norm"))
            self._on_nonfinite(self._fetched + 1 + int(place), loss, norm)
        self._fetched += len(found["finite"])


def summary(metrics: Metrics, clip_norm: float) -> dict[str, float]:
    """Returns one line of metrics: means over the steps with finite loss and gradient.

    Args:
        metrics: metrics of the steps, each [steps, ...].
        clip_norm: gradient norm above which a gradient is clipped.

    Returns:
        The means, and these entries:
        `loss_q1` to `loss_q4`, the mean loss in each quarter of the time range that has
        examples; `grad_norm_max`; `clipped`, the fraction of steps with a clipped
        gradient; `nonfinite`, the number of excluded steps, if there are any.
    """
    finite = metrics["finite"]
    kept = {name: a[finite] for name, a in metrics.items() if name != "finite"}
    values: dict[str, float] = {}
    if finite.any():
        norms = kept["grad_norm"]
        means: dict[str, Any] = {name: a.mean(axis=0) for name, a in kept.items()}
        if "loss_by_quarter" in means:  # of a diffusion model
            part, share = means.pop("loss_by_quarter"), means.pop("share_by_quarter")
            for q in range(QUARTERS):
                if share[q]:
                    means[f"loss_q{q + 1}"] = part[q] / share[q]
        means["grad_norm_max"] = norms.max()
        means["clipped"] = (norms > clip_norm).mean()
        values = {n: float(v) for n, v in means.items() if np.isfinite(v)}
    if not finite.all():
        values["nonfinite"] = int((~finite).sum())
    return values


def _joined(parts: list[Metrics]) -> Metrics:
    """Concatenates the metrics of several dispatches."""
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
