"""Retention of checkpoints: the newest, regular ones, and the best."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from jaxdiff.errors import InputError
from jaxdiff.storage.manifest import Damaged, read_manifest


@dataclass(frozen=True)
class Retention:
    """Rule for the checkpoints to retain; see `Checkpoints` for the fields.

    Raises:
        InputError: If `keep` or `keep_every` is not positive.
    """

    keep: int
    keep_every: int | None
    keep_best: str | None

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise InputError(f"keep must be at least 1, got {self.keep}")
        if self.keep_every is not None and self.keep_every < 1:
            raise InputError(f"keep_every must be at least 1, got {self.keep_every}")

    def kept(self, steps: Set[int], directory: Path) -> set[int]:
        """Returns the steps to retain, of undamaged checkpoints in `directory`."""
        kept = set(sorted(steps)[-self.keep :])
        if self.keep_every is not None:
            kept |= {step for step in steps if step % self.keep_every == 0}
        if self.keep_best is not None:
            values = {}
            for step in steps:
                try:
                    metrics = read_manifest(directory / str(step))["metrics"]
                    values[step] = float(metrics[self.keep_best])
                except (Damaged, KeyError, TypeError, ValueError):
                    continue  # this checkpoint has no such value
            if values:
                kept.add(min(values, key=lambda step: (values[step], -step)))
        return kept
