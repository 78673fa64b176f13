"""How good a trained model is: its likelihood on images it did not see."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.data import Dataset, to_float
from jaxdiff.errors import InputError
from jaxdiff.evaluation.likelihood import (
    bits_per_dim,
    bound_parts,
    dequantise,
    ode_log_density,
    variational_bound,
)
from jaxdiff.evaluation.mean import Mean
from jaxdiff.parallel import map_by_value
from jaxdiff.runs.load import Run
from jaxdiff.samplers.ancestral import FixedLarge, FixedSmall, LearnedRange, Variance
from jaxdiff.training.model import Model


class Likelihood(NamedTuple):
    """Bits per dimension of 8-bit images; lower is better.

    Attributes:
        num: how many images.
        bounds: the variational bound, by the name of the reverse step's variance.
        terms: its terms L_0..L_{T-1}, means over the images, [T], by the same names;
            or the sums of those in each part of the times.
        edges: where the parts begin and end, see `likelihood.bound_parts`; 0..T where
            each time is one.
        squared_errors: of the network's eps, means over the images of those in each
            part, [parts]: the loss by time. Clipped where the run's samples are.
        prior: its term L_T.
        ode: by the probability-flow ODE, of the dequantised images; None if left out.
    """

    num: int
    bounds: dict[str, Mean]
    terms: dict[str, np.ndarray]
    edges: np.ndarray
    squared_errors: np.ndarray
    prior: float
    ode: Mean | None


def check_evaluation(
    run: Run, dataset: Dataset, num: int, ode_steps: int, num_terms: int | None
) -> None:
    """Refuses what `evaluate_likelihood` cannot do, before it begins."""
    if not 1 <= num <= len(dataset):
        raise InputError(f"num must lie in 1..{len(dataset)}; got {num}")
    if ode_steps < 0:
        raise InputError(f"ode_steps must be at least 0; got {ode_steps}")
    if num_terms is not None:
        bound_parts(run.schedule.num_steps, num_terms)
    if dataset.image_shape != run.info.image_shape:
        raise InputError(
            f"the model's images have shape {run.info.image_shape}; these have "
            f"{dataset.image_shape}"
        )
    if run.info.num_classes is not None and dataset.labels is None:
        raise InputError("the model is class-conditional, but there are no labels")


def evaluate_likelihood(
    run: Run,
    dataset: Dataset,
    *,
    num: int | None = None,
    seed: int = 0,
    ode_steps: int = 64,
    exact_trace: bool = False,
    num_terms: int | None = None,
    on_chunk: Callable[[int], None] = lambda done: None,
) -> Likelihood:
    """The likelihood of a data set, by the bound and by the probability-flow ODE.

    A class-conditional model is told each image's class. The chain's estimates are
    clipped where the run's samples are; the ODE's are not.

    Args:
        run: the trained model.
        dataset: images of the run's shape, that it did not see.
        num: how many images, the first ones; all by default.
        seed: of the noise, one draw for each image and term.
        ode_steps: steps of the ODE's solver, 4 evaluations each; 0 leaves it out.
        exact_trace: the ODE's divergence exactly; for small images only.
        num_terms: how many of the bound's terms to draw for each image; all by default.
        on_chunk: called with the number of images done, which counts each twice: once
            for the bound, once for the ODE.

    Raises:
        InputError: num, ode_steps or num_terms is out of range, the images are of
            another shape, or labels are missing.
    """
    num = len(dataset) if num is None else num
    check_evaluation(run, dataset, num, ode_steps, num_terms)
    labels = None
    if run.info.num_classes is not None and dataset.labels is not None:
        labels = dataset.labels[:num]
    batch = (np.arange(num), to_float(dataset.images[:num]), labels)
    prediction, sampling = run.experiment.prediction, run.experiment.sampling
    variances: tuple[Variance, ...] = (FixedSmall(), FixedLarge())
    if prediction.learn_variance:
        variances = (*variances, LearnedRange())

    bound = _Bound(run.model, sampling.clip, variances, num_terms)
    parallel, shared = run.parallel, (run.params, jax.random.key(seed))
    found = parallel.chunks(
        map_by_value(parallel, bound), shared, batch, sampling.chunk, on_chunk
    )
    ode = None
    if ode_steps:
        density = _Density(run.model, ode_steps, exact_trace)
        log_density = parallel.chunks(
            map_by_value(parallel, density), shared, batch, sampling.chunk,
            lambda done: on_chunk(num + done),
        )  # fmt: skip
        size = int(np.prod(run.info.image_shape))
        ode = Mean.of(np.asarray(bits_per_dim(log_density, size)))
    names = [type(variance).__name__ for variance in variances]
    bounds = dict(zip(names, found, strict=True))
    steps = run.schedule.num_steps
    return Likelihood(
        num=num,
        bounds={name: Mean.of(b.total) for name, b in bounds.items()},
        terms={name: b.terms.mean(axis=0) for name, b in bounds.items()},
        edges=bound_parts(steps, num_terms) if num_terms else np.arange(steps + 1),
        squared_errors=found[0].squared_errors.mean(axis=0),
        prior=float(found[0].prior.mean()),
        ode=ode,
    )


@dataclass(frozen=True)
class _Bound:
    """The bound of images on one device; the fields are compiled in."""

    model: Model
    clip: bool
    variances: tuple[Variance, ...]
    num_terms: int | None

    def __call__(self, shared: Any, batch: Any) -> Any:
        params, key = shared
        indices, images, labels = batch
        denoiser = self.model.sampling_denoiser(params, labels, clip=self.clip)
        return variational_bound(
            denoiser, self.model.schedule, images, key, self.variances,
            indices=indices, num_terms=self.num_terms,
        )  # fmt: skip


@dataclass(frozen=True)
class _Density:
    """The ODE's log density of images on one device; the fields are compiled in."""

    model: Model
    ode_steps: int
    exact_trace: bool

    def __call__(self, shared: Any, batch: Any) -> jax.Array:
        params, key = shared
        indices, images, labels = batch
        noise, signs = jax.random.split(key)
        images = dequantise(images, noise, indices)
        return ode_log_density(
            self.model.denoiser(params, labels), self.model.schedule, images, signs,
            num_steps=self.ode_steps, exact_trace=self.exact_trace, indices=indices,
        )  # fmt: skip
