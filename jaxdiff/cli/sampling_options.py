"""Samplers, time grids and numbers of steps from words on the command line."""

from dataclasses import replace

from jaxdiff.cli.flags import option_name, parse_option
from jaxdiff.errors import InputError
from jaxdiff.runs.run import Run
from jaxdiff.samplers import Sampler, SamplerOptions, Spacing
from jaxdiff.samplers.spacing import Counted, with_steps
from jaxdiff.training.experiment import Sampling


def samplings_of(
    run: Run, samplers: tuple[str, ...], steps: int | None, spacing: str | None
) -> dict[str, Sampling]:
    """Returns the sampling options by sampler name; without names, the run's sampler.

    Raises:
        InputError: a name or an option is unknown, or a number is out of range.
    """
    own = run.experiment.sampling
    chosen: dict[str, Sampler] = {
        text: parse_option(text, SamplerOptions, "sampler") for text in samplers
    } or {option_name(type(own.sampler)): own.sampler}
    if len(chosen) < len(samplers):
        raise InputError(f"samplers must differ, got {', '.join(samplers)}")
    grid = None if spacing is None else parse_option(spacing, Spacing, "spacing")
    if grid is not None and steps is not None and not isinstance(grid, Counted):
        raise InputError(
            f"the spacing {spacing!r} has its own number of steps. Leave steps out."
        )
    found = {}
    for name, sampler in chosen.items():
        sampler = sampler if grid is None else replace(sampler, spacing=grid)
        found[name] = replace(own, sampler=with_steps(sampler, steps))
    return found
