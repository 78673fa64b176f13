"""The trained model of a run folder."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.checks import any_last_signal
from jaxdiff.data import Arrays, Dataset
from jaxdiff.data.dataset import EmptySplit
from jaxdiff.denoisers.network import NetworkDenoiser
from jaxdiff.errors import InputError
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.parallel.processes import broadcast_int, first_then_others, is_first
from jaxdiff.runs.folder import CHECKPOINTS, check_record, read_config
from jaxdiff.runs.generate import check_request, generate
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.post_hoc_ema import CLOSE, average_of, stored_lengths
from jaxdiff.storage import compilation_cache
from jaxdiff.storage.checkpoints import Checkpoints
from jaxdiff.training.ema import gamma_of
from jaxdiff.training.experiment import DataInfo, Experiment, Sampling
from jaxdiff.training.initialize import build_model, placed, with_network
from jaxdiff.training.model import Model
from jaxdiff.typing import AnySchedule, Condition, Network, Params


@dataclass(frozen=True)
class Run:
    """A trained model, as `load` returns it.

    Attributes:
        experiment: the run's configuration.
        info: shape and classes of the data.
        model: network, schedule and prediction.
        params: a moving average of the network's parameters.
        step: number of training steps.
        parallel: layout of devices for sampling.
    """

    experiment: Experiment
    info: DataInfo
    model: Model
    params: Params
    step: int
    parallel: Parallel = field(default_factory=Pmap)

    @property
    def network(self) -> Network:
        """Flax network."""
        return self.model.network

    @property
    def schedule(self) -> AnySchedule:
        """Noise schedule."""
        return self.model.schedule

    def denoiser(self, labels: Any = None) -> NetworkDenoiser:
        """Returns the network bound to its averaged parameters and to labels."""
        return self.model.denoiser(self.params, labels)

    def check_request(
        self,
        labels: Condition | np.ndarray | None,
        num: int,
        seed: int,
        sampling: Sampling | None = None,
    ) -> None:
        """Checks the arguments of `generate` together with the run's options.

        Raises:
            InputError: an argument is out of range, or does not fit the run; or the
                run's parameters are not finite.
        """
        check_params(self.params)
        sampling = sampling or self.experiment.sampling
        check_request(self.model, sampling, labels, num, seed)
        experiment = replace(self.experiment, sampling=sampling)
        experiment.check(self.schedule)
        experiment.check_guidance(self.info)

    def generate(
        self,
        labels: Condition | np.ndarray | None,
        num: int,
        seed: int,
        *,
        sampling: Sampling | None = None,
        indices: np.ndarray | None = None,
        base: Condition | None = None,
        every: int | None = None,
        on_chunk: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Draws images on all devices; see `runs.generate.generate`.

        Args:
            labels: integer classes [num], or weights of the classes, float
                [num, classes]; None for any class. Or a `Condition` of the parts that
                the network takes.
            num: number of images.
            seed: random seed. Image i depends only on (seed, indices[i]) and its label.
            sampling: sampler, guidance and clipping; the experiment's by default.
            indices: integers [num]; 0, 1, ... by default.
            base: condition [num] that guidance leads away from, such as a negative
                prompt.
            every: return trajectories with a state every this many steps, instead of
                images.
            on_chunk: called with the number of finished images after each chunk.

        Returns:
            float32 [num, height, width, channels], in [-1, 1] up to rounding if
            clipped; with `every`, [num, states, height, width, channels].

        Raises:
            InputError: see `check_request` and `runs.generate.generate`.
        """
        sampling = sampling or self.experiment.sampling
        self.check_request(labels, num, seed, sampling)
        return generate(
            self.model, self.params, sampling, labels, seed, num=num,
            parallel=self.parallel, indices=indices, base=base, every=every,
            on_chunk=on_chunk,
        )  # fmt: skip


def load(
    workdir: str | os.PathLike[str],
    step: int | None = None,
    parallel: Parallel | None = None,
    ema: float | None = None,
    network: Network | None = None,
) -> Run:
    """Loads the trained model of a run folder; reads only averaged parameters.

    Args:
        workdir: the folder that `train` wrote.
        step: step of the checkpoint; the newest by default.
        parallel: layout of devices that share the model. By default one device holds
            it, and `generate` uses all devices of this process.
        ema: relative length of a post-hoc average, in (0, 0.288), from the stored
            averages of `Training.ema_lengths`; None for the average of constant decay.
        network: the network passed to `train`, if any.

    Raises:
        InputError: there is no run, no such checkpoint, or no stored average for `ema`;
            the network is not the run's; or the parameters are not finite.

    Warns:
        UserWarning: the stored averages approximate the average of length `ema` badly.
    """
    compilation_cache.enable()
    workdir = Path(workdir)
    experiment, info = read_config(workdir)
    if network is None and info.network is not None:
        raise InputError(
            f"the run in '{workdir}' has a network of its own, {info.network}. Load it "
            "in Python with jaxdiff.load(workdir, network=...)."
        )
    info = with_network(info, network)
    with any_last_signal():
        model = build_model(experiment, info, network)
    params = model.param_shapes()
    wanted: Any = {"ema": params}
    if ema is not None:
        gamma_of(ema)
        wanted = {"tracks": (params,) * len(stored_lengths(experiment))}
    if parallel is not None:
        wanted = placed(wanted, parallel.shardings(wanted))
    with Checkpoints(workdir / CHECKPOINTS) as checkpoints:

        def read(step: int | None) -> tuple[int | None, Any]:
            if step is not None:
                check_record(checkpoints.record(step), workdir, experiment, info)
            return step, checkpoints.restore(wanted, step, partial=True)

        newest = partial(newest_step, checkpoints)
        given = step is not None
        step, found = read(step) if given else checkpoints.read_newest(read, newest)
    assert step is not None, "there is a checkpoint"
    if ema is None:
        params = found["ema"]
    else:
        tracks = found["tracks"]
        params, error = average_of(workdir, experiment, tracks, step, ema)
        if error > CLOSE:
            lengths = " ".join(f"{one:g}" for one in experiment.training.ema_lengths)
            warnings.warn(
                f"approximated the average of length {ema:g} with an error of "
                f"{error:.0%} of its profile: the run stored the lengths {lengths}",
                stacklevel=2,
            )
    check_params(params)
    return Run(experiment, info, model, params, step, parallel or Pmap())


def newest_step(checkpoints: Checkpoints) -> int | None:
    """Returns the step of the newest whole checkpoint that process 0 finds, or None."""
    newest = checkpoints.latest() if is_first() else None
    step = int(broadcast_int(-1 if newest is None else newest))
    return None if step < 0 else step


def load_data(experiment: Experiment, split: str) -> Dataset:
    """Loads a split of the experiment's data; one process prepares it for all."""
    return first_then_others(lambda: experiment.data.load(split))


def load_data_of(run: Run) -> tuple[Dataset, Dataset]:
    """Loads the training data of a run, and its held-out images, possibly none.

    Raises:
        InputError: the data that the experiment names differ from the training data.
    """
    experiment, known = run.experiment, run.info.fingerprint
    wrong = f"data must have the fingerprint of the run's training data, {known}, got "
    if isinstance(experiment.data, Arrays):
        raise InputError(
            f"{wrong}arrays of a Python program. Name the same images on disk with "
            "--data, or pass them in Python (jaxdiff.evaluation)."
        )
    training = load_data(experiment, "train")
    found = training.fingerprint()
    if known not in (None, found):  # None in older and imported runs
        raise InputError(
            f"{wrong}{found}. Restore its images and labels, or name them with "
            "--data or --data.path."
        )
    if training.image_shape != run.info.image_shape:
        raise InputError(
            f"data must have the run's image shape {run.info.image_shape}, got "
            f"{training.image_shape}. Import the model with the experiment of its data."
        )
    try:
        return training, load_data(experiment, "test")
    except EmptySplit:
        return training, replace(training, images=training.images[:0], labels=None)
