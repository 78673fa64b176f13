"""Post-hoc EMA: averages of any length from averages stored during training (EDM2).

A run with `Training.ema_lengths` stores its averages at intervals in
`snapshots/<step>`. `training.ema` has the maths.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import SNAPSHOTS
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.ema import gamma_of, post_hoc_error, post_hoc_weights
from jaxdiff.training.experiment import AnyExperiment
from jaxdiff.typing import Params

CLOSE = 0.05
"""Largest relative error of a profile that raises no warning."""


def stored_lengths(experiment: AnyExperiment) -> tuple[float, ...]:
    """Returns the relative lengths of the averages that a run stores.

    Raises:
        InputError: the run stores none.
    """
    lengths = experiment.training.ema_lengths
    if not lengths:
        raise InputError(
            "the run stored no averages for post-hoc EMA. Train a run with "
            "--training.ema-lengths 0.05 0.1 first."
        )
    return lengths


def average_of(
    workdir: Path,
    experiment: AnyExperiment,
    tracks: tuple[Params, ...],
    step: int,
    length: float,
) -> tuple[Params, float]:
    """Returns the average of any relative length, as a sum of stored averages.

    Args:
        workdir: the run folder.
        experiment: its configuration.
        tracks: the averages of a checkpoint. Restored snapshots get the same layout.
        step: step of that checkpoint, and end of the average.
        length: relative length of the average, in (0, 0.288).

    Returns:
        The parameters, and the relative error of the average's profile: the root of the
        integrated squared difference over the norm of the target's profile. The error
        of a stored length is 0 up to rounding.

    Raises:
        InputError: the length is out of range, the run stored no averages, or a
            snapshot is damaged.
    """
    gamma, lengths = gamma_of(length), stored_lengths(experiment)
    with Checkpoints(workdir / SNAPSHOTS) as kept:
        steps = [s for s in kept.steps() if s < step]
        places = [(s, gamma_of(one)) for s in (*steps, step) for one in lengths]
        times, gammas = zip(*places, strict=True)
        weights = post_hoc_weights(times, gammas, step, gamma)
        found: Any = None
        for place, s in enumerate((*steps, step)):
            those = tracks if s == step else kept.restore(tracks, s)
            share = weights[place * len(lengths) : (place + 1) * len(lengths)]
            found = _added(found, share.tolist(), those)
    return found, post_hoc_error(times, gammas, step, gamma, weights)


@jax.jit
def _sum(weights: Sequence[float], trees: Sequence[Params]) -> Params:
    return jax.tree.map(
        lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)),
        *trees,
    )


def _added(found: Any, weights: list[float], tracks: Sequence[Params]) -> Params:
    """Adds weighted averages to the sum so far."""
    if found is None:
        return _sum(weights, tracks)
    return _sum([1.0, *weights], (found, *tracks))
