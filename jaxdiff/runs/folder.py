"""A run folder: its files, its `config.json`, and the checks before a resume.

The folder holds

    config.json      the experiment, and the shape and fingerprint of its data
    checkpoints/     the newest train states
    parts/           text encoders, autoencoder and network of an imported model; the
                     tokenizer of a network with a text encoder
    snapshots/       averages of the parameters for post-hoc EMA (`ema_lengths`)
    metrics.jsonl    metrics of the steps, one line every `log_every` steps
    history.jsonl    each start with its versions and devices; throughput; events.
                     The training process holds the lock .history.jsonl.lock
    tensorboard/     metrics, throughput and grids for TensorBoard
    grids/           samples during training, always from the same noise
    report.html      all of it on one page
    nonfinite.json   the step that stopped the run with a loss that was not finite
"""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxdiff import serialization
from jaxdiff.checks import with_absolute_paths
from jaxdiff.errors import InputError, shown
from jaxdiff.storage.files import read_json, write_json_atomic
from jaxdiff.training.autoencoder_experiment import AutoencoderExperiment
from jaxdiff.training.experiment import AnyExperiment, DataInfo, Experiment
from jaxdiff.training.prior_experiment import PriorExperiment
from jaxdiff.training.towers_experiment import TowersExperiment
from jaxdiff.typing import PIXELS

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "snapshots"
METRICS = "metrics.jsonl"
HISTORY = "history.jsonl"
NONFINITE = "nonfinite.json"
TENSORBOARD = "tensorboard"
GRIDS = "grids"
PAGE = "report.html"
NOT_TRAINING = (
    "upkeep",
    "sampling",
    "parallel",
    "data.stream",
    "training.accumulate",
    "training.steps_per_dispatch",
    "training.nonfinite",
    "training.max_skips",
    "network.remat",
    "condition.towers",  # data.base is their checksum
    "towers",
)
"""Parts of an experiment that do not change the result of training.

The fingerprint identifies the training images. If it is equal, only `flip` matters of
the experiment's options of the data: the images may lie elsewhere.
"""
CHANGEABLE = ("optimizer", "training.num_steps")
"""Parts that a resume may change for the next steps; see `jaxdiff.runs.stages`."""
KINDS: dict[str, type[AnyExperiment]] = {
    "diffusion": Experiment,
    "autoencoder": AutoencoderExperiment,
    "towers": TowersExperiment,
    "prior": PriorExperiment,
}
"""Class of the experiment of each kind of run; config.json names other kinds than the
first."""
MODELS: dict[type[AnyExperiment], str] = {
    Experiment: "a diffusion model",
    AutoencoderExperiment: "an autoencoder",
    TowersExperiment: "two towers",
    PriorExperiment: "a prior",
}
"""Models in words, by the experiment of their run."""
AnExperiment = TypeVar("AnExperiment", bound=AnyExperiment)
_PLACES = ("data.path: ", "data.data_dir: ")
_LARGEST = 2**20  # most pixels per side, channels and classes


def is_run(workdir: Path) -> bool:
    """Returns True if the folder holds a run, and False for an impossible path."""
    return os.path.exists(workdir / CONFIG)


def read_config(workdir: Path) -> tuple[AnyExperiment, DataInfo]:
    """Returns the experiment and the data description of a run folder.

    Raises:
        InputError: there is no run, or its config.json cannot be read.
    """
    try:
        os.stat(workdir / CONFIG)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"there is no run in '{workdir}'. Train one, or name another folder."
        ) from error
    except (OSError, ValueError) as error:  # no permission, too long, or with a NUL
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read '{workdir}': {reason}") from error
    return read_record(read_json(workdir / CONFIG))


def read_diffusion(workdir: Path) -> tuple[Experiment, DataInfo]:
    """Returns the experiment and the data description of a diffusion model's run.

    Raises:
        InputError: see `read_kind`.
    """
    return read_kind(workdir, Experiment)


def read_kind(workdir: Path, cls: type[AnExperiment]) -> tuple[AnExperiment, DataInfo]:
    """Returns the experiment and the data description of a run of one kind.

    Args:
        workdir: the run folder.
        cls: class of the experiment, one of `KINDS`.

    Raises:
        InputError: there is no run, it is of another kind, or its config.json cannot be
            read.
    """
    experiment, info = read_config(workdir)
    if not isinstance(experiment, cls):
        raise InputError(
            f"'{workdir}' must be the run of {MODELS[cls]}, got one of "
            f"{MODELS[type(experiment)]}. Name another."
        )
    return experiment, info


def is_kind(workdir: Path, cls: type[AnyExperiment]) -> bool:
    """Returns True if the folder holds a run of one kind."""
    return is_run(workdir) and isinstance(read_config(workdir)[0], cls)


def kind_of(experiment: AnyExperiment) -> str:
    """Returns the kind of an experiment's run."""
    return next(name for name, cls in KINDS.items() if type(experiment) is cls)


def write_record(workdir: Path, experiment: AnyExperiment, info: DataInfo) -> None:
    """Writes the configuration to the run folder."""
    write_json_atomic(workdir / CONFIG, _record(experiment, info))


def check_workdir(workdir: Path, experiment: AnyExperiment, info: DataInfo) -> None:
    """Raises an InputError if the folder holds a run of other options or data."""
    if is_run(workdir):
        there = training_part(*read_config(workdir))
        remedy = f"start from its model: --init {workdir} and another --workdir"
        _refuse_other(there, experiment, info, f"'{workdir}' holds a run", remedy)


def check_record(
    record: dict[str, Any], workdir: Path, experiment: AnyExperiment, info: DataInfo
) -> None:
    """Raises an InputError for a checkpoint of another configuration.

    Args:
        record: JSON data that `train` stored with the checkpoint.
        workdir: the run folder.
        experiment: the expected experiment.
        info: the expected data.
    """
    there = record.get("configuration")
    what = f"the checkpoint of step {record['step']} in '{workdir}' is"
    if not isinstance(there, dict):
        raise InputError(f"{what} not of a training run. Choose another.")
    _refuse_other(there, experiment, info, what, "choose another --workdir")


def _refuse_other(
    there: dict[str, Any],
    experiment: AnyExperiment,
    info: DataInfo,
    what: str,
    remedy: str,
) -> None:
    kind = there.get("kind", "diffusion")
    if kind != kind_of(experiment):
        raise InputError(
            f"{what} of kind {shown(kind)}, not {kind_of(experiment)}. Choose another "
            "--workdir."
        )
    here = _without(training_part(experiment, info), CHANGEABLE)
    there = _without(_with_new_options(there), (*NOT_TRAINING, *CHANGEABLE))
    told, options = there.get("info"), there.get("data")
    known = told.get("fingerprint") if isinstance(told, dict) else None
    if isinstance(told, dict) and known is None:
        here["info"]["fingerprint"] = None  # older runs did not store it
        told.setdefault("fingerprint", None)
    if known is not None and known == info.fingerprint and isinstance(options, dict):
        there["data"] = {"flip": options.get("flip")}
        here["data"] = {"flip": experiment.data.flip}
    found = serialization.differences(there, here)
    if not found:
        return
    others = [line for line in found if not line.startswith(_PLACES)]
    if len(others) == 1 and others[0].startswith("info.fingerprint: "):
        raise InputError(
            f"{what} of other data (fingerprint {others[0].partition(': ')[2]}): "
            f"images or labels have changed. Restore them, or {remedy}."
        )
    raise InputError(
        f"{what} of another configuration ({'; '.join(found)}). Use the same options, "
        f"or {remedy}."
    )


def read_record(record: dict[str, Any]) -> tuple[AnyExperiment, DataInfo]:
    """Returns the experiment and the data description of a parsed config.json.

    Raises:
        InputError: the configuration is incomplete, or an option is not valid.
    """
    try:
        info = _read_info(record["data"])
        experiment = record["experiment"]
        # The first version had one prediction and one sampler, without a type.
        experiment.get("prediction", {}).setdefault("type", "Eps")
        sampling = experiment.get("sampling", {})
        sampling.get("sampler", {}).setdefault("type", "Ancestral")
        if record.get("kind", "diffusion") == "diffusion":
            experiment = _with_network_type(experiment)
        # Older versions store remat as a bool.
        network = experiment.get("network", {})
        if isinstance(network.get("remat"), bool):
            network["remat"] = "blocks" if network["remat"] else "none"
    except KeyError as error:
        raise InputError(
            f"the run's config.json is incomplete: {error} is missing"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"the run's config.json is incomplete: {error}") from error
    kind = record.get("kind", "diffusion")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(
            f"the run's kind must be one of {', '.join(KINDS)}, got {shown(kind)}"
        )
    return serialization.from_dict(KINDS[kind], experiment), info


def _with_new_options(part: dict[str, Any]) -> dict[str, Any]:
    """Returns the training part of a record, with the options of newer versions."""
    own = ("info", "kind")
    experiment = {name: value for name, value in part.items() if name not in own}
    try:
        record = {"experiment": copy.deepcopy(experiment), "data": part["info"]}
        record["kind"] = part.get("kind", "diffusion")
        return training_part(*read_record(record))
    except (InputError, KeyError):  # the differences say what is wrong
        return _with_network_type(serialization.with_new_names(part))


def _with_network_type(options: dict[str, Any]) -> dict[str, Any]:
    """Returns an experiment's options with the type and all options of its network.

    Older versions have one network, without a type, and fewer options of it.
    """
    network = options.get("network")
    if not isinstance(network, dict) or "type" in network:
        return options
    unet = serialization.to_dict(Experiment())["network"]
    return {**options, "network": {**unet, **network}}


def _read_info(data: dict[str, Any]) -> DataInfo:
    """Returns the data description of a config.json."""
    shape, count, names = data["image_shape"], data["num_classes"], data["class_names"]
    fingerprint, network = data.get("fingerprint"), data.get("network")
    data_range, base = data.get("data_range", PIXELS), data.get("base")
    tokenizer = data.get("tokenizer")
    are_names = isinstance(names, list | tuple) and {type(n) for n in names} == {str}
    if (
        not (isinstance(shape, list | tuple) and len(shape) == 3)
        or not all(type(size) is int and 1 <= size <= _LARGEST for size in shape)
        or not (count is None or (type(count) is int and 1 <= count <= _LARGEST))
        or not (names is None or (are_names and len(names) == count))
        or not all(
            a is None or isinstance(a, str)
            for a in (fingerprint, network, base, tokenizer)
        )
        or not (data_range is None or _is_range(data_range))
    ):
        raise InputError(
            f"data must have valid entries, got image_shape {shown(shape)}, "
            f"num_classes {shown(count)}, class_names {shown(names)}, "
            f"fingerprint {shown(fingerprint)}"
            + (f", network {shown(network)}" if network else "")
            + (f", data_range {shown(data_range)}" if data_range != PIXELS else "")
        )
    names = names and tuple(names)
    data_range = data_range and tuple(data_range)
    shape = tuple(shape)
    return DataInfo(
        shape, count, names, fingerprint, network, data_range, base, tokenizer
    )


def _is_range(found: Any) -> bool:
    numbers = isinstance(found, list | tuple) and len(found) == 2
    return (
        numbers
        and all(isinstance(n, float | int) for n in found)
        and (found[0] < found[1])
    )


def _record(experiment: AnyExperiment, info: DataInfo) -> dict[str, Any]:
    """Returns the contents of config.json."""
    options = serialization.to_dict(with_absolute_paths(experiment))
    data = info._asdict()
    if info.data_range == PIXELS:
        del data["data_range"]  # as in older runs
    for name in ("base", "tokenizer"):
        if data[name] is None:
            del data[name]
    kind = {} if kind_of(experiment) == "diffusion" else {"kind": kind_of(experiment)}
    return {**kind, "experiment": options, "data": data}


def training_part(experiment: AnyExperiment, info: DataInfo) -> dict[str, Any]:
    """Returns the options and data that must be equal to resume a run."""
    plain = json.loads(json.dumps(_record(experiment, info)))
    # "data" of config.json is the shape and classes; "data" of the experiment is the
    # options of the dataset. The former is called "info" here.
    kind = {name: plain[name] for name in ("kind",) if name in plain}
    return {
        **kind,
        **_without(plain["experiment"], NOT_TRAINING),
        "info": plain["data"],
    }


def _without(part: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Returns options without those at `paths`."""
    part = dict(part)
    for path in paths:
        name, _, rest = path.partition(".")
        if not rest:
            part.pop(name, None)
        elif isinstance(part.get(name), dict):
            part[name] = _without(part[name], [rest])
    return part
