"""Gradient of a train step, in a layout of devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.parallel import Parallel
from jaxdiff.training.recipe import Recipe


def gradient_of_step(
    recipe: Recipe, state: Any, parallel: Parallel, batch: Any
) -> tuple[Any, Any]:
    """Returns the gradient that a step hands to its optimizer, and its metrics."""
    task: Any = recipe.task

    def step(state: Any, batch: Any, mean_of: Any) -> Any:
        found = {}

        class Seen(type(task)):  # type: ignore[misc]
            def gradient(self, *arguments: Any) -> Any:
                found["gradient"], metrics = super().gradient(*arguments)
                return found["gradient"], metrics

        fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
        seen = dataclasses.replace(recipe, task=Seen(**fields))
        _, metrics = seen.step(state, batch, mean_of)
        return found["gradient"], metrics

    placed = jax.device_put(jax.tree.map(jnp.copy, state), parallel.shardings(state))
    found = parallel.step(step)(parallel.localize(placed), batch)
    gradient, metrics = jax.device_get(found)
    return gradient, metrics
