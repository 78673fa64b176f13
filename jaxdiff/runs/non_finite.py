"""What follows a loss or a gradient that is not finite: stop, skip or go on."""

from pathlib import Path
from typing import Any

from jaxdiff.errors import NonFiniteError
from jaxdiff.parallel.processes import is_first
from jaxdiff.runs.folder import NONFINITE
from jaxdiff.storage.files import write_json_atomic
from jaxdiff.storage.json_lines import History
from jaxdiff.training.experiment import Experiment


class NonFinitePolicy:
    """Does what `Training.nonfinite` says.

    Args:
        workdir: the run folder, for `nonfinite.json`.
        experiment: the run.
        history: for an event a step; None where another process writes it.
        bar: a progress bar, for warnings.
        skipped: how many steps were left out before.
    """

    def __init__(
        self,
        workdir: Path,
        experiment: Experiment,
        history: History | None,
        bar: Any,
        skipped: int,
    ):
        self._workdir, self._experiment = workdir, experiment
        self._history, self._bar = history, bar
        self.skipped = skipped

    def __call__(self, step: int, loss: float, norm: float) -> None:
        """Takes note of a step, and warns.

        Raises:
            NonFiniteError: the run stops here.
        """
        training = self._experiment.training
        what = f"the loss of step {step} is {loss:g}, the gradient's norm {norm:g}"
        if self._history is not None:
            self._history.write(
                "nonfinite", step=step, loss=str(loss), grad_norm=str(norm)
            )
        if training.nonfinite == "go-on":
            self._bar.write(f"warning: {what}: training goes on with it")
            return
        if training.nonfinite == "skip":
            self.skipped += 1
            count = f"{self.skipped} of at most {training.max_skips}"
            if self.skipped <= training.max_skips:
                self._bar.write(f"warning: {what}: the step is left out ({count})")
                return
            what += f", and {training.max_skips} steps were left out before"
        self._stop(step, loss, norm, what)

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
            f"{what}: training stops, with the checkpoints before it; look at the step "
            f"by the command replay --workdir {self._workdir} --step {step} (as in "
            f"'{path.name}'), go on with --training.nonfinite skip, or start anew with "
            "a lower --optimizer.learning-rate",
            step,
        )
