"""Numbers that are not finite: in parameters, and in a training step."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.errors import InputError, NonFiniteError, first_few
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.folder import NONFINITE
from jaxdiff.storage.files import write_json_atomic
from jaxdiff.storage.json_lines import History
from jaxdiff.storage.read_state import by_name
from jaxdiff.streams import tolerant
from jaxdiff.training.experiment import AnyExperiment
from jaxdiff.typing import Array, Params


def check_params(params: Params) -> None:
    """Checks that all parameters are finite.

    Raises:
        InputError: an array has NaN or infinity; the message names it.
    """
    leaves = by_name(params)
    finite = _finite(list(leaves.values()))
    bad = [name for name, good in zip(leaves, finite, strict=True) if not good]
    if bad:
        raise InputError(
            f"parameters must be finite, got NaN or infinity in {len(bad)} of "
            f"{len(leaves)} arrays ({first_few(bad)}). Use an earlier checkpoint, or "
            "download the weights again."
        )


@jax.jit
def _finite(arrays: list[Array]) -> list[Array]:
    return [jnp.isfinite(array).all() for array in arrays]


class NonFinitePolicy:
    """Policy of `Training.nonfinite` for a step: stop, skip or go on.

    Args:
        workdir: the run folder, for `nonfinite.json`.
        experiment: the experiment of the run.
        history: gets one event per step; None if another process writes it.
        bar: a progress bar, for warnings.
        skipped: number of steps skipped before.
    """

    def __init__(
        self,
        workdir: Path,
        experiment: AnyExperiment,
        history: History | None,
        bar: Any,
        skipped: int,
    ):
        self._workdir, self._experiment = workdir, experiment
        self._history, self._bar = history, bar
        self.skipped = skipped

    def __call__(self, step: int, loss: float, norm: float) -> None:
        """Logs a step that is not finite, and warns or stops.

        Raises:
            NonFiniteError: the policy is to stop, or too many steps were skipped.
        """
        training = self._experiment.training
        what = f"the loss of step {step} is {loss:g}, its gradient norm {norm:g}"
        if self._history is not None:
            self._history.write(
                "nonfinite", step=step, loss=str(loss), grad_norm=str(norm)
            )
        if training.nonfinite == "go-on":
            self._warn(f"{what}: the update was applied")
            return
        if training.nonfinite == "skip":
            self.skipped += 1
            count = f"{self.skipped} of at most {training.max_skips}"
            if self.skipped <= training.max_skips:
                self._warn(f"{what}: the step was skipped ({count})")
                return
            what += f", and {training.max_skips} steps were skipped before"
        self._stop(step, loss, norm, what)

    def _warn(self, text: str) -> None:
        self._bar.write(f"warning: {text}", file=tolerant(sys.stdout))

    def _stop(self, step: int, loss: float, norm: float, what: str) -> None:
        path = self._workdir / NONFINITE
        if is_first():
            write_json_atomic(
                path,
                {
                    "step": step,
                    "seed": self._experiment.seed,
                    "loss": str(loss),
                    "grad_norm": str(norm),
                    "replay": f"replay --workdir {self._workdir} --step {step}",
                },
            )
        raise NonFiniteError(
            f"{what}: training stopped, and the checkpoints before this step remain. "
            f"Inspect the step with replay --workdir {self._workdir} --step {step} (as "
            f"in '{path.name}'), resume with --training.nonfinite skip, or start again "
            "with a lower --optimizer.learning-rate.",
            step,
        )
