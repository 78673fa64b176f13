"""The trained model in a run folder."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.data import Dataset
from jaxdiff.denoisers.network import NetworkDenoiser
from jaxdiff.errors import InputError
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.parallel.processes import broadcast_int, first_then_others, is_first
from jaxdiff.runs.folder import CHECKPOINTS, check_record, read_config
from jaxdiff.runs.generate import check_request, generate
from jaxdiff.runs.post_hoc_ema import CLOSE, average_of, stored_lengths
from jaxdiff.storage import compilation_cache
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.ema import gamma_of
from jaxdiff.training.experiment import DataInfo, Experiment, Sampling
from jaxdiff.training.initialize import build_model, placed, with_network
from jaxdiff.training.model import Model
from jaxdiff.typing import AnySchedule, Network, Params


@dataclass(frozen=True)
class Run:
    """A trained model, as `load` returns it.

    Attributes:
        experiment: its configuration.
        info: shape and classes of its data.
        model: network, schedule and prediction.
        params: a moving average of the network's parameters.
        step: number of training steps.
        parallel: layout of devices on which images are drawn.
    """

    experiment: Experiment
    info: DataInfo
    model: Model
    params: Params
    step: int
    parallel: Parallel = field(default_factory=Pmap)

    @property
    def network(self) -> Network:
        """The Flax network."""
        return self.model.network

    @property
    def schedule(self) -> AnySchedule:
        """The noise schedule."""
        return self.model.schedule

    def denoiser(self, labels: Any = None) -> NetworkDenoiser:
        """Returns the network bound to its averaged parameters and to labels."""
        return self.model.denoiser(self.params, labels)

    def check_request(
        self,
        labels: np.ndarray | None,
        num: int,
        seed: int,
        sampling: Sampling | None = None,
    ) -> None:
        """Checks the arguments of `generate`, and the run's options with them."""
        sampling = sampling or self.experiment.sampling
        check_request(self.model, sampling, labels, num, seed)
        experiment = replace(self.experiment, sampling=sampling)
        experiment.check(self.schedule)
        experiment.check_guidance(self.info)

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
        """Draws images on all devices; see `runs.generate.generate`.

        Args:
            labels: integer classes [num], or shares of the classes, float
                [num, classes]; None for any class.
            num: number of images.
            seed: image i depends on (seed, indices[i]) and its label alone.
            sampling: sampler, guidance and clipping; the experiment's by default.
            indices: integers [num]; 0, 1, ... by default.
            every: return the trajectories instead of the images.
            on_chunk: called with the number of images done after each chunk.

        Returns:
            float32 [num, height, width, channels], in [-1, 1] except for rounding; with
            `every`, [num, states, height, width, channels].

        Raises:
            InputError: an argument does not fit.
        """
        sampling = sampling or self.experiment.sampling
        self.check_request(labels, num, seed, sampling)
        return generate(
            self.model, self.params, sampling, labels, seed, num=num,
            parallel=self.parallel, indices=indices, every=every, on_chunk=on_chunk,
        )  # fmt: skip


def load(
    workdir: str | os.PathLike[str],
    step: int | None = None,
    parallel: Parallel | None = None,
    ema: float | None = None,
    network: Network | None = None,
) -> Run:
    """Loads the trained model of a run folder: averaged parameters and nothing else.

    Args:
        workdir: the folder that `train` wrote.
        step: another checkpoint than the newest.
        parallel: layout of devices that share the model. By default it lies on one of
            them, and `generate` uses all of this process.
        ema: relative length of another average, in (0, 0.288), made from those of
            `Training.ema_lengths`; by default the average of constant decay.
        network: the network that `train` was given, if it was given one.

    Raises:
        InputError: there is no run, no such checkpoint, or no average to make `ema` of;
            or the network is not the run's.

    Warns:
        UserWarning: the averages in the run folder are far from that of `ema`.
    """
    compilation_cache.enable()
    workdir = Path(workdir)
    experiment, info = read_config(workdir)
    if network is None and info.network is not None:
        raise InputError(
            f"the run in '{workdir}' has a network of its own, {info.network}. Load it "
            "from Python: jaxdiff.load(workdir, network=...)"
        )
    info = with_network(info, network)
    model = build_model(experiment, info, network)
    params = model.param_shapes()
    wanted: Any = {"ema": params}
    if ema is not None:
        gamma_of(ema)
        wanted = {"tracks": (params,) * len(stored_lengths(experiment))}
    if parallel is not None:
        wanted = placed(wanted, parallel.shardings(wanted))
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:
        step = newest_step(checkpoints) if step is None else step
        if step is not None:
            check_record(checkpoints.record(step), workdir, experiment, info)
        found = checkpoints.restore(wanted, step, partial=True)
    assert step is not None, "there is a checkpoint"
    if ema is None:
        params = found["ema"]
    else:
        tracks = found["tracks"]
        params, error = average_of(workdir, experiment, tracks, step, ema)
        if error > CLOSE:
            lengths = " ".join(f"{one:g}" for one in experiment.training.ema_lengths)
            warnings.warn(
                f"the average of length {ema:g} is off by {error:.0%} of its profile: "
                f"the run kept those of lengths {lengths}",
                stacklevel=2,
            )
    return Run(experiment, info, model, params, step, parallel or Pmap())


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
