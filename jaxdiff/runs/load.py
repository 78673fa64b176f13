"""The trained model in a run folder."""

from jaxdiff.runs.folder import CHECKPOINTS
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.checks import check_seed
from jaxdiff.data import Dataset
from jaxdiff.denoisers.guidance import classifier_free_guidance
from jaxdiff.denoisers.network import (
    NetworkDenoiser,
    bind,
    check_labels,
    check_null_class,
)
from jaxdiff.denoisers.thresholding import clip_x0
from jaxdiff.errors import InputError
from jaxdiff.networks import UNet
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.parallel.processes import broadcast_int, first_then_others, is_first
from jaxdiff.runs.folder import check_record, read_config
from jaxdiff.samplers import DDIM, sample
from jaxdiff.runs.post_hoc_ema import CLOSE, average_of
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.experiment import DataInfo, Experiment, Sampling
from jaxdiff.training.initialize import build_network, init_state, placed
from jaxdiff.typing import AnySchedule, Denoiser, Params



@dataclass(frozen=True)
class Run:
    """A trained model, as `load` gives it back.

    Attributes:
        experiment: its configuration.
        info: the shape and classes of its data.
        network: the Flax network.
        schedule: the noise schedule.
        params: a moving average of the network's parameters.
        step: how many steps it was trained.
        parallel: how devices share the drawing of images.
    """

    experiment: Experiment
    info: DataInfo
    network: UNet
    schedule: AnySchedule
    params: Params
    step: int
    parallel: Parallel = field(default_factory=Pmap)

    def denoiser(self, labels: Any = None) -> NetworkDenoiser:
        """The network bound to its averaged parameters, and to labels [batch]."""
        return bind(self.network, self.params, labels, self.experiment.prediction)

    def chain_denoiser(
        self,
        params: Params,
        labels: Any,
        guidance: float = 1.0,
        keep_eps: bool = False,
    ) -> Denoiser:
        """What the chain goes by: the network so bound, clipped where samples are."""
        denoiser: Denoiser
        denoiser = bind(self.network, params, labels, self.experiment.prediction)
        if guidance != 1:
            denoiser = classifier_free_guidance(denoiser, guidance)
        if not self.experiment.sampling.clip:
            return denoiser
        return clip_x0(denoiser, keep_eps=keep_eps)

    def check_request(
        self,
        labels: np.ndarray | None,
        num: int,
        seed: int,
        sampling: Sampling | None = None,
    ) -> None:
        """Refuses what `generate` cannot draw."""
        if num < 1:
            raise InputError(f"the number of images must be at least 1; got {num}")
        if num >= 2**31:  # of which an index is a 32-bit integer
            raise InputError(f"the number of images must be below 2^31; got {num}")
        check_seed(seed)
        if labels is not None:
            check_labels(jnp.asarray(labels), self.network.num_classes)
            if len(labels) != num:
                raise InputError(f"{num} images need {num} labels; got {len(labels)}")
        sampling = sampling or self.experiment.sampling
        experiment = replace(self.experiment, sampling=sampling)
        experiment.check(self.schedule)
        experiment.check_guidance(self.info.num_classes)

    def generate(
        self,
        labels: np.ndarray | None,
        num: int,
        seed: int,
        *,
        sampling: Sampling | None = None,
        indices: np.ndarray | None = None,
        every: int | None = None,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Draws images, on all devices, a chunk at a time.

        Args:
            labels: integer classes [num], or shares of the classes, float
                [num, classes]; None for any class.
            num: how many images.
            seed: image i depends on (seed, indices[i]) and its label alone.
            sampling: how; as the experiment says by default.
            indices: integers [num]; 0, 1, ... by default. Images of one index start
                from the same noise.
            every: give back the trajectories (see `sample`) instead of the images.
            on_chunk: called with the number of images done after each chunk.

        Returns:
            float32 [num, height, width, channels], in [-1, 1] but for rounding; with
            `every`, [num, states, height, width, channels].

        Raises:
            InputError: labels do not fit.
        """
        self.check_request(labels, num, seed, sampling)
        if labels is None and self.info.num_classes:
            check_null_class(self.network)
        how = sampling or self.experiment.sampling
        shared = (self.params, jax.random.key(seed))
        indices = np.arange(num) if indices is None else indices
        batch = (indices, None if labels is None else np.asarray(labels))
        return self.parallel.map_chunks(
            self.drawing(how, every), shared, batch, how.chunk, on_chunk
        )

    def drawing(
        self, how: Sampling, every: int | None = None
    ) -> Callable[[tuple[Params, jax.Array], Any], jax.Array]:
        """What a device does for `generate`: from (parameters, key), (indices, labels).

        The parameters are those that it is given, not the run's.
        """

        def draw(shared: tuple[Params, jax.Array], batch: Any) -> jax.Array:
            params, key = shared
            indices, classes = batch
            keep_eps = how.keep_eps and isinstance(how.sampler, DDIM)
            denoiser = self.chain_denoiser(params, classes, how.guidance, keep_eps)
            shape = (len(indices), *self.info.image_shape)
            result = sample(
                denoiser, how.sampler, self.schedule, key, shape,
                indices=indices, every=every,
            )  # fmt: skip
            return result if every is None else result.swapaxes(0, 1)

        return draw


def load(
    workdir: str | os.PathLike[str],
    step: int | None = None,
    parallel: Parallel | None = None,
    ema: float | None = None,
) -> Run:
    """The trained model of a run folder, from its newest checkpoint.

    Args:
        workdir: the folder that `train` wrote.
        step: another checkpoint than the newest.
        parallel: how devices share the model. By default it lies on one of them, and
            `generate` uses all of this process.
        ema: take the parameters' average of this relative length, in (0, 0.288), made
            from those of `Training.ema_lengths`; by default that of constant decay.

    Raises:
        InputError: there is no run, no such checkpoint, or no average to make `ema` of.

    Warns:
        UserWarning: the averages that were kept come not near to that of `ema`.
    """
    workdir = Path(workdir)
    experiment, info = read_config(workdir)
    network = build_network(experiment, info)
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        template = jax.eval_shape(lambda: init_state(experiment, info))
        if parallel is not None:
            template = placed(template, parallel.shardings(template))
        step = newest_step(checkpoints) if step is None else step
        if step is not None:
            check_record(checkpoints.record(step), workdir, experiment, info)
        state = checkpoints.restore(template, step)
    params = state.ema
    if ema is not None:
        params, error = average_of(workdir, experiment, state, ema)
        if error > CLOSE:
            kept = " ".join(f"{one:g}" for one in experiment.training.ema_lengths)
            warnings.warn(
                f"the average of length {ema:g} is off by {error:.0%} of its profile: "
                f"the run kept those of lengths {kept}",
                stacklevel=2,
            )
    return Run(
        experiment,
        info,
        network,
        experiment.schedule.build(),
        params,
        int(state.step),
        parallel or Pmap(),
    )


def newest_step(checkpoints: Checkpoints) -> int | None:
    """The newest whole checkpoint, as process 0 sees it; None where there is none."""
    newest = checkpoints.latest() if is_first() else None
    step = int(broadcast_int(-1 if newest is None else newest))
    return None if step < 0 else step


def load_data(experiment: Experiment, split: str) -> Dataset:
    """A split of the experiment's data, prepared by one process before the others."""
    return first_then_others(lambda: experiment.data.load(split))


def load_data_of(run: Run) -> tuple[Dataset, Dataset]:
    """What a run was trained on, and the images that it did not see.

    Raises:
        InputError: the run was trained on other data than its experiment names.
    """
    training = load_data(run.experiment, "train")
    known, found = run.info.fingerprint, training.fingerprint()
    if known not in (None, found):  # an older run and an imported one do not know
        raise InputError(
            f"the run was trained on data of fingerprint {known}, and what its "
            f"experiment names has {found}: bring its images and labels back, or give "
            "them from Python (jaxdiff.evaluation)"
        )
    if training.image_shape != run.info.image_shape:
        raise InputError(
            f"the run draws images of shape {run.info.image_shape}, and the data that "
            f"its experiment names are of {training.image_shape}: import it with the "
            "experiment of its data"
        )
    return training, load_data(run.experiment, "test")
