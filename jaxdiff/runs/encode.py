"""Latents of a dataset, made once before training; `data.latents` describes the files.

Each process makes files of its own. A file gets its name after it is complete, so a
command that was stopped goes on with the missing ones. The bytes depend on the images,
the captions, the model and `batch`, not on the number of devices or processes.
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import serialization
from jaxdiff.data import Data
from jaxdiff.data.latents import (
    CAPTIONS,
    EXAMPLES,
    RECORD,
    SHARD,
    STORED,
    LatentsInfo,
    read_info,
    read_records,
)
from jaxdiff.errors import InputError, require
from jaxdiff.parallel.processes import is_first, wait_for_all
from jaxdiff.runs.encoding import Work
from jaxdiff.runs.parts import Parts, write_link
from jaxdiff.runs.parts_info import PARTS
from jaxdiff.storage.files import (
    cannot_write,
    check_new_folder,
    read_json,
    replacing,
    write_json_atomic,
)
from jaxdiff.storage.manifest import checksum

BEGUN = "encoding.json"
"""Description of latents that are not complete."""


def encode(
    data: Data,
    parts: Parts,
    out: Path,
    *,
    batch: int = 8,
    flip: bool = False,
    start: Callable[[Work, int], Callable[[int], None]] = lambda work, total: _ignore,
) -> LatentsInfo:
    """Encodes the images and captions of a dataset, or goes on with it.

    All processes take part. See `data.latents` for the files.

    Args:
        data: the images.
        parts: autoencoder and text encoders of a model.
        out: folder to write; it is new, empty, or one that this function left.
        batch: number of images that a device encodes at once; another number may change
            the latents by rounding.
        flip: if True, the mirrored images are encoded too.
        start: called with the work and the number of records that this process makes;
            returns a function of the number of finished records.

    Raises:
        InputError: the images do not fit the model; `out` holds other files, or cannot
            be written; or latents are too large for float16.
    """
    module = require("array_record.python.array_record_module")
    work = Work.of(data, parts, batch, flip)
    if is_first():
        _check_folder(out, work.info)
        _begin(out, work)
    wait_for_all("folder of latents")
    # A share must not depend on what the others have written by now.
    share = list(work.files())[jax.process_index() :: jax.process_count()]
    mine = [one for one in share if not (out / one[0]).exists()]
    done, on_done = 0, start(work, sum(end - first for *_, first, end in mine))
    for name, kind, split, first, end in mine:
        records = (
            work.text_records(first, end)
            if kind == "texts"
            else work.latent_records(split, first, end, kind == "mirrored")
        )
        with (
            replacing(out / name) as file,
            closing(module.ArrayRecordWriter(file.name, "group_size:1")) as writer,
        ):
            for record in records:
                writer.write(record)
                done += 1
                on_done(done)
    wait_for_all("latents")
    if is_first():
        _finish(out, work)
    wait_for_all("latents are complete")
    return read_info(out)


def _ignore(done: int) -> None:
    """Does nothing."""


def _check_folder(out: Path, info: LatentsInfo) -> None:
    """Raises an error if the folder holds anything but these latents, or a part."""
    for name in (RECORD, BEGUN):
        path = out / name
        if path.is_file():
            there = serialization.from_dict(
                LatentsInfo, read_json(path), f"'{path}' cannot be read"
            )
            found = serialization.differences(_options(there), _options(info))
            if found:
                raise InputError(
                    f"'{out}' holds latents of other options or images "
                    f"({'; '.join(found)}). Name another folder with --out."
                )
            return
    check_new_folder(out)


def _options(info: LatentsInfo) -> dict[str, Any]:
    """Returns what must be equal to go on."""
    known = replace(info, mean=(), std=(), checksums={})
    return serialization.to_dict(known)


def _begin(out: Path, work: Work) -> None:
    """Makes the folder with the link to the parts, and describes what it will hold."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split in work.splits:
            (out / split).mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    write_link(work.parts, out / PARTS)
    if not (out / RECORD).exists():
        write_json_atomic(out / BEGUN, serialization.to_dict(work.info))


def _finish(out: Path, work: Work) -> None:
    """Writes the small files, the statistics and the checksums."""
    if (out / RECORD).exists():
        return
    for leftover in out.rglob(".*.tmp"):  # of processes that were killed
        leftover.unlink(missing_ok=True)
    write_json_atomic(out / CAPTIONS, {"captions": list(work.captions)})
    for split in work.splits:
        write_json_atomic(out / split / EXAMPLES, work.examples(split))
    names = [name for name, *_ in work.files()]
    names += [CAPTIONS, *(f"{split}/{EXAMPLES}" for split in work.splits)]
    info = replace(work.info, checksums={name: checksum(out / name) for name in names})
    if "train" in work.splits:
        mean, std = _statistics(out / "train", info)
        info = replace(info, mean=mean, std=std)
    write_json_atomic(out / RECORD, serialization.to_dict(info))
    (out / BEGUN).unlink(missing_ok=True)


def _statistics(
    folder: Path, info: LatentsInfo
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of the drawn latents."""
    channels = info.latent_shape[-1]
    total, square, count = np.zeros(channels), np.zeros(channels), 0
    for group in info.groups("train"):
        name, shape = f"latents{group.ending}", group.shape
        records = read_records(folder, name, group.num, shape, STORED, stream=True)
        for begin in range(0, group.num, SHARD):
            found = np.asarray(records[begin : begin + SHARD], np.float64)
            mean, deviation = found[..., :channels], found[..., channels:]
            total += mean.sum(axis=(0, 1, 2))
            square += (mean**2).sum(axis=(0, 1, 2))
            if info.deviation:
                square += (deviation**2).sum(axis=(0, 1, 2))
        count += group.num * math.prod(shape[:2])
    mean = total / count
    std = np.sqrt(square / count - mean**2)
    return tuple(mean.tolist()), tuple(std.tolist())
