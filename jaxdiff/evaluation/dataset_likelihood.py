"""Likelihood of a trained model on held-out images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff import rng
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
from jaxdiff.runs.run import Run
from jaxdiff.samplers.ancestral import FixedLarge, FixedSmall, LearnedRange, Variance
from jaxdiff.training.model import Model


class Likelihood(NamedTuple):
    """Bits per dimension of 8-bit images; lower is better.

    Attributes:
        num: number of images.
        bounds: the variational bound, by the name of the reverse step's variance.
        terms: its terms L_0..L_{T-1}, means over the images, [T], by the same names.
            With `num_terms`, the sums of the terms in each part, [parts].
        edges: edges of the parts, see `likelihood.bound_parts`; 0..T if each time is a
            part of its own.
        squared_errors: squared errors of the network's eps, means over images and the
            times of each part, [parts]. The estimates are clipped if the run's samples
            are.
        prior: its term L_T.
        ode: bits per dimension of the dequantised images by the probability-flow ODE;
            None if skipped.
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
    """Checks the arguments of `evaluate_likelihood`.

    Raises:
        InputError: num, ode_steps or num_terms is out of range, the images have another
            shape, or labels are missing.
    """
    if not 1 <= num <= len(dataset):
        raise InputError(f"num must lie in 1..{len(dataset)}, got {num}")
    if ode_steps < 0:
        raise InputError(f"ode_steps must be at least 0, got {ode_steps}")
    if num_terms is not None:
        bound_parts(run.schedule.num_steps, num_terms)
    if dataset.image_shape != run.info.image_shape:
        raise InputError(
            f"images must have the model's shape {run.info.image_shape}, got "
            f"{dataset.image_shape}"
        )
    if run.info.num_classes is not None and dataset.labels is None:
        raise InputError("labels must be given for a class-conditional model, got None")


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
    """Returns the likelihood of a dataset by the bound and by the probability-flow ODE.

    A class-conditional model gets each image's class. The bound clips the estimates of
    x_0 if the run's samples are clipped; the ODE does not clip.

    Args:
        run: the trained model.
        dataset: held-out images of the run's shape.
        num: number of images, from the first; all by default.
        seed: seed of the noise, one draw per image and term.
        ode_steps: steps of the ODE solver, 4 evaluations each; 0 skips the ODE.
        exact_trace: if True, compute the ODE's divergence exactly; for small images.
        num_terms: number of terms of the bound to draw per image; all by default.
        on_chunk: called with the number of finished images. Each image counts once for
            the bound and once for the ODE.

    Raises:
        InputError: num, ode_steps or num_terms is out of range, the images have another
            shape, or labels are missing.
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

    limits = sampling.clip_range, sampling.clip_quantile
    bound = _Bound(run.model, sampling.clip, *limits, variances, num_terms)
    parallel, shared = run.parallel, (run.params, rng.key(seed))
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
    """Bound of images on one device; the fields are compiled in."""

    model: Model
    clip: bool
    clip_range: float | None
    clip_quantile: float | None
    variances: tuple[Variance, ...]
    num_terms: int | None

    def __call__(self, shared: Any, batch: Any) -> Any:
        params, key = shared
        indices, images, labels = batch
        denoiser = self.model.sampling_denoiser(
            params, labels, clip=self.clip, clip_range=self.clip_range,
            clip_quantile=self.clip_quantile,
        )  # fmt: skip
        return variational_bound(
            denoiser, self.model.schedule, images, key, self.variances,
            indices=indices, num_terms=self.num_terms,
        )  # fmt: skip


@dataclass(frozen=True)
class _Density:
    """Log-density of images by the ODE on one device; the fields are compiled in."""

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
