"""Objectives of models that draw in a few steps, and the samplers that fit them."""

from jaxdiff.errors import InputError
from jaxdiff.losses.consistency import Consistency
from jaxdiff.losses.mean_flow import MeanFlow
from jaxdiff.losses.objectives import Objective
from jaxdiff.losses.progressive import Progressive
from jaxdiff.samplers import DDIM, FlowMap, Sampler, SamplerOptions, Trailing
from jaxdiff.samplers import Consistency as ConsistencySampler


def own_sampler(objective: Objective) -> SamplerOptions | None:
    """Returns the sampler of an objective's few steps; None if it is one of many."""
    if isinstance(objective, Consistency):
        return ConsistencySampler()
    if isinstance(objective, Progressive):
        return DDIM(spacing=Trailing(num_steps=objective.steps))
    if isinstance(objective, MeanFlow):
        return FlowMap()
    return None


def check_sampler(objective: Objective, sampler: Sampler) -> None:
    """Checks that a sampler fits what an objective trains.

    Raises:
        InputError: one of them belongs to consistency models or flow maps, and the
            other does not.
    """
    trained = isinstance(objective, Consistency)
    if trained and not isinstance(sampler, ConsistencySampler):
        raise InputError(
            "sampler must be consistency for a model trained by the objective "
            f"consistency, got {type(sampler).__name__}. Choose the sampler "
            "consistency."
        )
    if not trained and type(sampler) is ConsistencySampler:
        raise InputError(
            "sampler must not be consistency for a model of another objective, got "
            f"the objective {type(objective).__name__}. Choose another sampler."
        )
    if isinstance(sampler, FlowMap) and not isinstance(objective, MeanFlow):
        raise InputError(
            "sampler must not be flow-map for a model of another objective than "
            f"mean-flow, got the objective {type(objective).__name__}. Choose another "
            "sampler."
        )
