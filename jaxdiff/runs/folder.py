"""A run folder: its files, what `config.json` says, and who may go on there.

The folder holds

    config.json      the experiment, and what the model must know of its data
    checkpoints/     the newest train states
    snapshots/       averages of the parameters, to make others of (`ema_lengths`)
    metrics.jsonl    what the steps gave, one line every `log_every` of them
    history.jsonl    when it was started with which versions and devices, and its speed;
                     .history.jsonl.lock is held by the process that trains
    tensorboard/     both of these, and the grids, for TensorBoard
    grids/           samples while it trained, always from the same noise
    report.html      all of it on one page
    nonfinite.json   the step that stopped it, where its loss was not finite
"""

import json
from functools import reduce
from pathlib import Path
from typing import Any

from jaxdiff import serialization
from jaxdiff.errors import InputError, shown
from jaxdiff.storage.files import read_json, write_json_atomic
from jaxdiff.training.experiment import DataInfo, Experiment

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
)
"""The parts of an experiment that do not change what training computes."""
_LARGEST = 2**20  # of an image's sides, channels and classes


def read_config(workdir: Path) -> tuple[Experiment, DataInfo]:
    """The experiment and the data of a run folder.

    Raises:
        InputError: there is no run, or its config.json cannot be read.
    """
    if not (workdir / CONFIG).exists():
        raise InputError(f"there is no run in '{workdir}': train one, or name another")
    return read_record(read_json(workdir / CONFIG))


def write_record(workdir: Path, experiment: Experiment, info: DataInfo) -> None:
    """Records the configuration in the workdir."""
    write_json_atomic(workdir / CONFIG, _record(experiment, info))


def check_workdir(workdir: Path, experiment: Experiment, info: DataInfo) -> None:
    """Refuses a workdir that holds a run of another configuration, or of other data."""
    if (workdir / CONFIG).exists():
        there = training_part(*read_config(workdir))
        _refuse_other(there, experiment, info, f"'{workdir}' holds a run")


def check_record(
    record: dict[str, Any], workdir: Path, experiment: Experiment, info: DataInfo
) -> None:
    """Refuses a checkpoint of another configuration, by what `train` put with it."""
    there = record.get("configuration")
    what = f"the checkpoint of step {record['step']} in '{workdir}' is"
    if not isinstance(there, dict):
        raise InputError(f"{what} not of a training run: choose another")
    _refuse_other(there, experiment, info, what)


def _refuse_other(
    there: dict[str, Any], experiment: Experiment, info: DataInfo, what: str
) -> None:
    here, there = training_part(experiment, info), serialization.with_new_names(there)
    told = there.get("info")
    if isinstance(told, dict) and told.get("fingerprint") is None:
        here["info"]["fingerprint"] = None  # an older run, which did not record it
        told.setdefault("fingerprint", None)
    found = serialization.differences(there, here)
    if not found:
        return
    if len(found) == 1 and found[0].startswith("info.fingerprint: "):
        raise InputError(
            f"{what} of other data (fingerprint {found[0].partition(': ')[2]}): images "
            "or labels have changed: bring them back, or choose another --workdir"
        )
    raise InputError(
        f"{what} of another configuration ({'; '.join(found)}): choose another "
        "--workdir, or the same options"
    )


def read_record(record: dict[str, Any]) -> tuple[Experiment, DataInfo]:
    """The experiment and data of a run folder's config.json."""
    try:
        info = _read_info(record["data"])
        experiment = record["experiment"]
        # At first there was one prediction and one sampler, and no need to name them.
        experiment.get("prediction", {}).setdefault("type", "Eps")
        sampling = experiment.get("sampling", {})
        sampling.get("sampler", {}).setdefault("type", "Ancestral")
        # And blocks were recomputed or not.
        network = experiment.get("network", {})
        if isinstance(network.get("remat"), bool):
            network["remat"] = "blocks" if network["remat"] else "none"
    except KeyError as error:
        raise InputError(f"the run's config.json is incomplete: no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"the run's config.json is incomplete: {error}") from error
    return serialization.from_dict(Experiment, experiment), info


def _read_info(data: dict[str, Any]) -> DataInfo:
    """What a record says of its data."""
    shape, count, names = data["image_shape"], data["num_classes"], data["class_names"]
    fingerprint, network = data.get("fingerprint"), data.get("network")
    are_names = isinstance(names, list | tuple) and {type(n) for n in names} == {str}
    if (
        not (isinstance(shape, list | tuple) and len(shape) == 3)
        or not all(type(size) is int and 1 <= size <= _LARGEST for size in shape)
        or not (count is None or (type(count) is int and 1 <= count <= _LARGEST))
        or not (names is None or (are_names and len(names) == count))
        or not all(a is None or isinstance(a, str) for a in (fingerprint, network))
    ):
        raise InputError(
            f"no data has image_shape {shown(shape)}, num_classes {shown(count)}, "
            f"class_names {shown(names)} and fingerprint {shown(fingerprint)}"
            + (f", with the network {shown(network)}" if network else "")
        )
    names = names and tuple(names)
    return DataInfo(tuple(shape), count, names, fingerprint, network)


def _record(experiment: Experiment, info: DataInfo) -> dict[str, Any]:
    """What config.json holds."""
    return {"experiment": serialization.to_dict(experiment), "data": info._asdict()}


def training_part(experiment: Experiment, info: DataInfo) -> dict[str, Any]:
    """What two runs must share for one to go on where the other stopped."""
    plain = json.loads(json.dumps(_record(experiment, info)))
    # The record's "data" is the shape and the classes, the experiment's the options.
    kept = plain["experiment"]
    for path in NOT_TRAINING:
        *parents, name = path.split(".")
        reduce(dict.__getitem__, parents, kept).pop(name, None)
    return {**kept, "info": plain["data"]}
