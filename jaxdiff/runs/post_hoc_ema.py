"""Averages of the parameters kept while a run trains, to make others from afterwards.

EDM2's post-hoc averages: see `ema`. A run with `Training.ema_lengths` keeps its own
some times on the way, in `snapshots/<step>`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdiff.errors import InputError
from jaxdiff.runs.folder import SNAPSHOTS
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.ema import gamma_of, post_hoc_error, post_hoc_weights
from jaxdiff.training.experiment import Experiment
from jaxdiff.typing import Params

CLOSE = 0.05
"""A profile of which the stored ones miss less than this part is as good as reached."""


def stored_lengths(experiment: Experiment) -> tuple[float, ...]:
    """The relative lengths of the averages that a run keeps.

    Raises:
        InputError: it keeps none.
    """
    lengths = experiment.training.ema_lengths
    if not lengths:
        raise InputError(
            "the run kept no averages to make others from: train one with "
            "--training.ema-lengths 0.05 0.1"
        )
    return lengths


def average_of(
    workdir: Path,
    experiment: Experiment,
    tracks: tuple[Params, ...],
    step: int,
    length: float,
) -> tuple[Params, float]:
    """The average of any relative length, made of those that were kept.

    Args:
        workdir: the run folder.
        experiment: its configuration.
        tracks: the averages of a checkpoint. Others are put where these lie.
        step: the checkpoint's step, for which the average is made.
        length: the average's relative length, in (0, 0.288).

    Returns:
        The parameters, and how far the average's profile is from the one asked for, as
        a part of it (root of the squares' sum): 0 for a length that was kept.

    Raises:
        InputError: the length is out of range, the run kept no averages, or a snapshot
            is damaged.
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
    """The sum so far, with weighted averages added."""
    if found is None:
        return _sum(weights, tracks)
    return _sum([1.0, *weights], (found, *tracks))
