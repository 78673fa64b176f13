"""Stages of a run: parts of its steps with other numbers of steps or optimizers.

A resume may change `Experiment.optimizer` and `Training.num_steps`. The next steps use
the new options. Each checkpoint records the earlier stages, so `reproduce` and `replay`
compute every step with its own options.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jaxdiff import serialization
from jaxdiff.errors import InputError
from jaxdiff.training.experiment import AnyExperiment
from jaxdiff.training.optimizer import Optimizer


class Stage(NamedTuple):
    """Stage that has ended.

    Attributes:
        until: last step of the stage.
        num_steps: `Training.num_steps` in it.
        optimizer: options of the optimizer in it.
    """

    until: int
    num_steps: int
    optimizer: Optimizer

    def of(self, experiment: AnyExperiment) -> AnyExperiment:
        """Returns the experiment with the options of this stage."""
        training = replace(experiment.training, num_steps=self.num_steps)
        return replace(experiment, training=training, optimizer=self.optimizer)

    def changes(self, experiment: AnyExperiment) -> dict[str, Any]:
        """Returns the options that are new in the experiment, by path."""
        before, now = map(self._plain, (self.of(experiment), experiment))
        return {path: now[path] for path in now if now[path] != before.get(path)}

    def record(self) -> dict[str, Any]:
        """Returns the stage as JSON data."""
        return {
            "until": self.until, "num_steps": self.num_steps,
            "optimizer": serialization.to_dict(self.optimizer),
        }  # fmt: skip

    @staticmethod
    def _plain(experiment: AnyExperiment) -> dict[str, Any]:
        plain = serialization.to_dict(experiment.optimizer)
        found = {f"optimizer.{name}": value for name, value in plain.items()}
        return {"training.num_steps": experiment.training.num_steps, **found}


def stages_before(record: Mapping[str, Any], experiment: AnyExperiment) -> list[Stage]:
    """Returns the stages up to a checkpoint if the experiment goes on from it.

    Args:
        record: manifest of the checkpoint, or {} for step 0.
        experiment: options of the next step.

    Raises:
        InputError: the record cannot be read.
    """
    if not record:
        return []
    try:
        there = record["configuration"]
        own = {
            "until": record["step"], "num_steps": there["training"]["num_steps"],
            "optimizer": there["optimizer"],
        }  # fmt: skip
        *stages, last = [_read(one) for one in (*record.get("stages", ()), own)]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"the checkpoint of step {record.get('step')} has stages that cannot be "
            "read. Choose another."
        ) from error
    return [*stages, last] if last.changes(experiment) else stages


def segments(
    stages: Sequence[Stage], experiment: AnyExperiment, start: int, end: int
) -> Iterator[tuple[AnyExperiment, int, int]]:
    """Yields the options of steps start + 1..end, each with its first and last bound.

    Args:
        stages: stages that have ended.
        experiment: options after them.
        start: number of steps done before.
        end: last step.
    """
    for stage in stages:
        until = min(stage.until, end)
        if start < until:
            yield stage.of(experiment), start, until
            start = until
    if start < end:
        yield experiment, start, end


def _read(data: Any) -> Stage:
    until, num_steps = data["until"], data["num_steps"]
    if type(until) is not int or type(num_steps) is not int or num_steps < 1:
        raise TypeError(data)
    optimizer = serialization.from_dict(Optimizer, data["optimizer"])
    return Stage(until, num_steps, optimizer)
