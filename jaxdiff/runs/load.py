"""The trained model of a run folder."""

import os
import warnings
from pathlib import Path
from typing import Any

import jax

from jaxdiff import rng
from jaxdiff.adapters import merged
from jaxdiff.checks import any_last_signal
from jaxdiff.errors import InputError
from jaxdiff.parallel import Parallel, Pmap
from jaxdiff.runs.averaged import read_checkpoint
from jaxdiff.runs.folder import read_diffusion
from jaxdiff.runs.identity import identity, is_imported
from jaxdiff.runs.non_finite import check_params
from jaxdiff.runs.own_text import stored_tokenizer
from jaxdiff.runs.parts import read_parts
from jaxdiff.runs.post_hoc_ema import CLOSE, average_of, stored_lengths
from jaxdiff.runs.run import Run
from jaxdiff.storage import compilation_cache
from jaxdiff.training.ema import gamma_of
from jaxdiff.training.experiment import DataInfo, Experiment
from jaxdiff.training.initialize import (
    build_model,
    placed,
    with_network,
)
from jaxdiff.typing import Network, Params


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
    experiment, info = read_diffusion(workdir)
    if network is None and info.network is not None:
        raise InputError(
            f"the run in '{workdir}' has a network of its own, {info.network}. Load it "
            "in Python with jaxdiff.load(workdir, network=...)."
        )
    info = with_network(info, network)
    with any_last_signal():
        model = build_model(experiment, info, network)
    parts = read_parts(workdir)
    if parts is not None and is_imported(workdir, parts):
        if step not in (None, 0) or ema is not None:
            raise InputError(
                f"step must be 0 and ema None for the imported model in '{workdir}', "
                f"got {step} and {ema}"
            )
        layout = parallel or Pmap(num_devices=1)
        found = parts.network(layout.shardings(model.param_shapes())).params
        check_params(found)
        return Run(experiment, info, model, found, 0, parallel or Pmap(), parts)
    tokenizer = stored_tokenizer(workdir, info)
    params = model.param_shapes()
    adapter = experiment.low_rank
    if adapter is not None:
        params = jax.eval_shape(adapter.init, params, rng.key(0))
    wanted: Any = {"ema": params}
    if ema is not None:
        gamma_of(ema)
        wanted = {"tracks": (params,) * len(stored_lengths(experiment))}
    if parallel is not None:
        wanted = placed(wanted, parallel.shardings(wanted))
    step, found = read_checkpoint(workdir, experiment, info, wanted, step)
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
    lora = None
    if adapter is not None:
        lora = adapter.lora(params)
        params = merged(_base(experiment, info, parallel), lora)
    return Run(
        experiment, info, model, params, step, parallel or Pmap(), parts, lora,
        tokenizer,
    )  # fmt: skip


def _base(experiment: Experiment, info: DataInfo, parallel: Parallel | None) -> Params:
    """Returns the parameters that the run's adapter changes."""
    workdir, known = Path(str(experiment.init)), str(info.base)
    step = int(known.split()[0])
    found = identity(workdir, step)
    if found != known:
        raise InputError(
            f"the run in '{workdir}' must be the one whose adapter this is, {known}, "
            f"got {found}. Restore it."
        )
    return load(workdir, step, parallel).params
