"""Metrics of the steps since the last line: on the devices, then fetched."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdiff.losses.loss import QUARTERS
from jaxdiff.typing import Array

Metrics = dict[str, np.ndarray]
"""Of one or more steps, each [steps, ...]."""
DTYPES = {"finite": np.bool_}
"""Of the metrics that are not float32."""
NEEDED = {"finite", "loss", "grad_norm", "loss_by_quarter", "share_by_quarter"}
"""The metrics that every step has."""


class MetricsBuffer:
    """The metrics that no line has yet.

    Steps are dispatched without waiting for them: the metrics of an interval are
    fetched when the next one has been dispatched. Every process looks at them.

    Args:
        step: where the run starts.
        pending: what `pending` gave when this step was saved; empty for a new run.
        on_nonfinite: called with the step, the loss and the gradient's norm, where one
            of these is not finite.

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
            raise ValueError("not the metrics of steps")
        self._interval: list[Metrics] = [found] if found else []
        self._dispatched: list[dict[str, Array]] = []
        self._waiting: tuple[int, list[dict[str, Array]]] | None = None
        self._fetched = step
        self._on_nonfinite = on_nonfinite

    def add(self, metrics: dict[str, Array]) -> None:
        """Takes the metrics of one dispatch, which the devices may still compute."""
        self._dispatched.append(metrics)

    def end_interval(self, step: int) -> None:
        """Ends an interval with this step; call `take` first for the one before."""
        self._waiting, self._dispatched = (step, self._dispatched), []

    def take(self) -> tuple[int, Metrics] | None:
        """The last step and the metrics of the interval that ended, if one did.

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
        """Fetches the metrics of all steps so far; raises as `take` does."""
        self._fetch(self._dispatched)
        self._dispatched = []

    def pending(self) -> dict[str, Any]:
        """The metrics that were fetched and are in no line, for a checkpoint."""
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
    """One line of metrics: means over the steps, without those that are not finite.

    Args:
        metrics: of the steps, each [steps, ...].
        clip_norm: above which norm a gradient is clipped.

    Returns:
        The means; of the loss also that of each quarter of the time range, `loss_q1` to
        `loss_q4`, where there was any example; `grad_norm_max`; `clipped`, the share of
        steps whose gradient was clipped; and `nonfinite`, the number of steps that are
        left out here, where there are any.
    """
    finite = metrics["finite"]
    kept = {name: a[finite] for name, a in metrics.items() if name != "finite"}
    values: dict[str, float] = {}
    if finite.any():
        norms = kept["grad_norm"]
        means: dict[str, Any] = {name: a.mean(axis=0) for name, a in kept.items()}
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
    """The metrics of several dispatches as one."""
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
