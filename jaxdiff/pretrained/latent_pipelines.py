"""Pipelines of latents: what those of texts and those of classes share.

model_index.json                the pipeline and its parts
unet/ or transformer/           the network, with its scheduler in scheduler/
vae/                            latents -> image
"""

import re
import warnings
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff.checks import any_last_signal
from jaxdiff.components.component import (
    Component,
    component_class,
    network_of,
    write_component,
)
from jaxdiff.components.files import NETWORK, read_part
from jaxdiff.components.kinds import KINDS
from jaxdiff.components.weights import STEM, TRANSFORMERS
from jaxdiff.errors import InputError, printable, shown
from jaxdiff.pretrained.folder_parts import INDEX, SCHEDULER, VERSION
from jaxdiff.pretrained.scheduler_export import scheduler_of, scheduler_record
from jaxdiff.pretrained.schedulers import Common, read_scheduler
from jaxdiff.pretrained.schedulers_of_times import DDIMScheduler
from jaxdiff.runs.parts import copy_part
from jaxdiff.runs.run import Run
from jaxdiff.storage.files import new_folder, write_json_atomic
from jaxdiff.training.experiment import Sampling

LIBRARIES = {STEM: "diffusers", TRANSFORMERS: "transformers"}
"""Library of a network, by the name of its weight files."""
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that are not read: they do not change the images of a prompt."""


class Scheduled(NamedTuple):
    """Scheduler of a pipeline of latents, as it is read.

    Attributes:
        scheduler: the scheduler.
        options: its schedule's options.
        schedule: its schedule, built.
        sampling: its sampler and clipping.
    """

    scheduler: Common
    options: Any
    schedule: Any
    sampling: Sampling


def read_scheduled(
    path: Path, name: str, steps: int, folder: str = "scheduler"
) -> Scheduled:
    """Reads the scheduler of a pipeline of latents.

    Args:
        path: folder of the pipeline.
        name: class of the scheduler.
        steps: number of steps.
        folder: folder of the scheduler in the pipeline's.

    Raises:
        InputError: an entry is not supported.
    """
    file = path / folder / SCHEDULER
    scheduler = read_scheduler(read_part(file), f"'{file}'", name)
    try:
        options = scheduler.schedule()
        with any_last_signal():
            schedule: Any = options.build()
        sampling = scheduler.sampling(schedule, steps)
    except InputError as error:
        raise InputError(f"'{file}': {error}") from error
    unlimited = sampling.clip_range is None and sampling.clip_quantile is None
    if sampling.clip and unlimited:
        sampling = replace(sampling, clip_range=1.0)  # latents have no range
    return Scheduled(scheduler, options, schedule, sampling)


def part_classes(index: Mapping[str, Any]) -> dict[str, str]:
    """Returns the class of each part of an index, without the parts that are null."""
    return {
        key: value[-1]
        for key, value in index.items()
        if isinstance(value, list) and not key.startswith("_") and any(value)
    }


def check_parts(
    found: Mapping[str, str],
    wanted: Set[str],
    networks: Mapping[str, tuple[str, ...]],
    index: Mapping[str, Any],
    path: Path,
) -> None:
    """Checks the parts of a pipeline.

    Args:
        found: class of each part.
        wanted: names of the parts that it must have.
        networks: classes that a network may have, by its part.
        index: contents of model_index.json.
        path: folder of the pipeline.

    Raises:
        InputError: a part is missing, of another class, or unknown.
    """
    missing = sorted(wanted - found.keys())
    unknown = sorted(found.keys() - wanted - {*LEFT_OUT})
    for names, word in ((missing, "must have"), (unknown, "must not have")):
        if names:
            raise InputError(
                f"'{path / INDEX}' {word} {' and '.join(names)}, for a "
                f"{index['_class_name']}. Choose another folder."
            )
    for part, classes in networks.items():
        if part in found and found[part] not in classes:
            raise InputError(
                f"'{path / INDEX}': {part} must be a {' or '.join(classes)}, got "
                f"{shown(found[part])}"
            )
    for part in sorted(wanted):
        if not (path / part).is_dir():
            raise InputError(
                f"'{path}' must hold the folder {part}, as its {INDEX} says, got none. "
                "Download the whole folder."
            )


def part_network(path: Path, part: str, classes: Mapping[str, str]) -> Any:
    """Returns the network of a part, without parameters."""
    file = path / part / NETWORK
    return network_of(classes[part], read_part(file), str(file))


def licence_of(path: Path) -> str | None:
    """Returns the licence in the head of a folder's README.md, or None."""
    file = path / "README.md"
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", errors="replace") as lines:
        head = lines.read(10_000)
    match = re.search(r"^license(?:_name)?:\s*(\S+)\s*$", head, re.MULTILINE)
    return match and match[1].strip("'\"")


def say(classes: Mapping[str, str], licence: str | None, path: Path) -> None:
    """Warns about parts that are left out, and names the licence."""
    left = [f"{part} ({classes[part]})" for part in LEFT_OUT if part in classes]
    if left:
        warnings.warn(
            printable(f"left out {', '.join(left)}, which no prompt needs"),
            stacklevel=5,
        )
    if licence is not None:
        warnings.warn(
            printable(f"the licence of '{path}' is {licence}. Read it first"),
            stacklevel=5,
        )


def write_latents(
    run: Run,
    path: Path,
    place: str,
    network: Component,
    further: Mapping[str, Any],
    schedulers: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Writes a pipeline of latents.

    Args:
        run: the model.
        path: folder to make.
        place: folder of the network in the pipeline's.
        network: network with the parameters to write.
        further: further entries of model_index.json; null for parts that the run may
            lack.
        schedulers: contents of further schedulers, by their folder.

    Returns:
        Arguments for calling the pipeline like the run's own sampling.
    """
    parts, sampling = run.parts, run.experiment.sampling
    assert parts is not None, "the caller has checked it"
    info = parts.info
    scheduler, steps = scheduler_of(
        run.experiment.schedule, run.schedule, run.experiment.prediction, sampling
    )
    version = {"_diffusers_version": VERSION}
    index = {"_class_name": info.pipeline, **version, **further}
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    index[place] = [LIBRARIES[KINDS[network.kind].stem], network.kind]
    with new_folder(path) as writing:
        writing.mkdir(parents=True)
        write_component(network, writing / place)
        for name, has_weights in info.folders():
            if name == info.network:
                continue
            library, kind = "transformers", "CLIPTokenizer"
            if has_weights:
                kind = component_class(parts.folder / name)
                library = LIBRARIES[KINDS[kind].stem]
            if not any(index.get(name, ())):
                index[name] = [library, kind]
            copy_part(parts, name, writing / name, has_weights)
        (writing / "scheduler").mkdir()
        record = {**scheduler_record(scheduler), **version}
        write_json_atomic(writing / "scheduler" / SCHEDULER, record)
        for name, other in (schedulers or {}).items():
            (writing / name).mkdir()
            write_json_atomic(writing / name / SCHEDULER, {**other, **version})
        write_json_atomic(writing / INDEX, index)
    call: dict[str, Any] = {
        "num_inference_steps": steps, "guidance_scale": sampling.guidance
    }  # fmt: skip
    if isinstance(scheduler, DDIMScheduler):
        sampler: Any = sampling.sampler
        call["eta"] = float(sampler.eta)
    return call
