"""Checkpoints of a training state: the newest whole one is always there.

Each is a folder `<step>`, which gets this name when all of it is written, read back and
listed in its record with the hash of every file (see `sealed`). Under other names lies
what a killed run left: `<step>.writing...` and `<step>.removed`.

Only this file uses Orbax, which it loads when the first `Checkpoints` is made.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax

from jaxdiff.errors import InputError, first_few, require
from jaxdiff.storage.files import cannot_write, error_number, flush_folder
from jaxdiff.storage.manifest import Damaged, read_manifest, verify, write_manifest

FORMAT = 1
"""The version of what a checkpoint holds; this code reads it and none above."""
LARGE = 2**20
"""Bytes that a device writes of an array before another device shares the work."""


class Checkpoints:
    """The checkpoints of one run.

    Reading changes nothing on the disk: others may read while one process trains.

    Args:
        directory: where the checkpoints lie; the first `save` creates it.
        keep: how many of the newest ones remain.
        keep_every: those whose step is a multiple of it remain as well.
        keep_best: and that whose record has the smallest value of this name among its
            "metrics".

    Raises:
        InputError: `keep` or `keep_every` is not positive, or Orbax is not installed.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        keep_every: int | None = None,
        keep_best: str | None = None,
    ):
        if keep < 1:
            raise InputError(f"keep={keep} checkpoints is too few: give at least 1")
        if keep_every is not None and keep_every < 1:
            raise InputError(f"keep_every must be at least 1; got {keep_every}")
        self._ocp = _orbax()
        self._directory = Path(directory).absolute()
        self._keep, self._keep_every, self._keep_best = keep, keep_every, keep_best
        self._damaged: dict[int, str] = {}
        self._proven: int | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None

    def save(
        self, step: int, state: Any, record: Mapping[str, Any] | None = None
    ) -> None:
        """Start to write `state`, once the previous save is done.

        The values are copied to the host's memory before this returns, so the next step
        may be given the state's buffers (`donate_argnums`); no device holds a second
        copy. The folder has another name until it is proven complete, and only then are
        older ones removed: a kill leaves the previous checkpoint as the newest.

        Args:
            step: a number above that of every whole checkpoint.
            state: a pytree of jax arrays (of a PRNG key, its `jax.random.key_data`).
            record: JSON data to keep with it; see `record`.

        Raises:
            InputError: there is already a checkpoint of this step or a later one, or
                it cannot be written; or the save before could not.
        """
        self.wait()
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
            self._clean()
        newest = max(self._steps() - self._damaged.keys(), default=-1)
        if newest >= step and jax.process_index() == 0:
            raise InputError(
                f"cannot save step {step} in '{self._directory}', which holds step "
                f"{newest}: continue from it or choose another directory"
            )
        writing = self._directory / f"{step}.writing"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            # Orbax counts its timeouts by a clock that may jump: it shall have none.
            patient = self._ocp.options.AsyncOptions(
                timeout_secs=2**31 - 1, create_directories_asynchronously=False
            )
            # Devices that hold the same array write a part of it each, if it is large:
            # to cut a part out compiles a program for each shape.
            arrays = self._ocp.options.ArrayOptions(
                saving=self._ocp.options.ArrayOptions.Saving(
                    min_slice_bytes_for_replica_parallel=LARGE
                )
            )
            with self._ocp.Context(async_options=patient, array_options=arrays):
                saved = self._ocp.save_async(writing, state)
        except (OSError, ValueError) as error:
            raise self._failed(step, error) from None
        record = {**(record or {}), "format": FORMAT, "step": step}
        self._saving = self._writer.submit(self._finish, saved, step, record)

    def check(self) -> None:
        """Raise what made a save fail, if it is known already."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last save is on the disk; raise what made it fail."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def latest(self, below: int | None = None) -> int | None:
        """The step of the newest whole checkpoint, or None when there is none at all.

        Every byte of it is read. A newer one that is damaged is named in a warning.

        Args:
            below: of those whose step is below this.

        Raises:
            InputError: there are checkpoints, and all are damaged.
        """
        found = self._steps()
        steps = sorted((s for s in found if below is None or s < below), reverse=True)
        for step in steps:
            try:
                verify(self._directory / str(step))
            except Damaged as reason:
                self._damaged[step] = str(reason)
                continue
            for damaged in sorted(self._damaged):
                if damaged > step:
                    warnings.warn(
                        f"the checkpoint '{self._directory / str(damaged)}' is damaged "
                        f"({self._damaged[damaged]}): that of step {step} is used",
                        stacklevel=2,
                    )
            self._proven = step
            return step
        if not steps:
            return None
        reasons = first_few([f"{step}: {self._damaged[step]}" for step in steps])
        raise InputError(
            f"no checkpoint in '{self._directory}' is as it was written "
            f"({reasons}): put back a whole one, or move the folder away to begin anew"
        )

    def steps(self) -> list[int]:
        """The steps of all checkpoints, from the first; they may be damaged."""
        return sorted(self._steps())

    def record(self, step: int) -> dict[str, Any]:
        """What `save` was given to keep with the state, and its "step" and "files".

        Raises:
            InputError: there is no such checkpoint, it is damaged, or a newer version
                wrote it.
        """
        path = self._path(step)
        try:
            record = read_manifest(path)
        except Damaged as reason:
            raise _damaged(path, reason) from reason
        if record.get("format") != FORMAT:
            raise InputError(
                f"the checkpoint '{path}' has format {record.get('format')!r}, of "
                f"another version of jaxdiff; this one reads {FORMAT}: install that"
            )
        return record

    def status(self) -> dict[int, tuple[int, str | None]]:
        """Of every checkpoint its size in bytes, and what is damaged, if anything."""
        found = {}
        for step in sorted(self._steps()):
            path, reason = self._directory / str(step), None
            try:
                files = [p.lstat().st_size for p in path.rglob("*") if not p.is_dir()]
                verify(path)
            except FileNotFoundError:  # the run has removed it meanwhile
                continue
            except Damaged as damaged:
                if not path.exists():
                    continue
                reason = str(damaged)
            found[step] = sum(files), reason
        return found

    def restore(
        self, template: Any, step: int | None = None, *, partial: bool = False
    ) -> Any:
        """The state that was saved, bit for bit, on whichever devices there are now.

        Args:
            template: the state's structure, whose leaves have a `shape`, a `dtype` and
                perhaps a `sharding`, else they go to the first local device. Arrays
                do, but shapes (`jax.eval_shape`) leave the device's memory free.
            step: which checkpoint, the newest whole one when None.
            partial: read the template's leaves, and leave the others on the disk.

        Raises:
            InputError: there is no such checkpoint, it is damaged, or it holds a
                different state.
        """
        self.wait()
        step = self.latest() if step is None else step
        path = self._path(step)
        self.record(int(path.name))
        # Of several processes one reads it all.
        if step != self._proven and jax.process_index() == 0:
            try:
                verify(path)
            except Damaged as reason:
                raise _damaged(path, reason) from reason
        there = self._ocp.metadata(path).metadata
        self._check(path, there, template, partial)
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
            sharding = getattr(leaf, "sharding", None) or first
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        # Leaves go by their names. Orbax would also compare the empty parts of the
        # trees, of which another version may have more, or fewer.
        wanted = {name: abstract(leaf) for name, leaf in by_name(template).items()}
        skipped = self._ocp.PLACEHOLDER
        asked = jax.tree.map_with_path(
            lambda p, _: wanted.get(leaf_name(p), skipped), there
        )
        found = by_name(self._ocp.load(path, asked))
        return jax.tree.map_with_path(lambda p, _: found[leaf_name(p)], template)

    def close(self) -> None:
        """Wait, and release the thread that writes."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.shutdown()
                self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(self, saved: Any, step: int, record: dict[str, Any]) -> None:
        """Proves a checkpoint complete, gives it its name, and makes room for others.

        In a thread; process 0 does it for all.
        """
        try:
            saved.result()
            if jax.process_index() != 0:
                return
            writing = self._directory / f"{step}.writing"
            write_manifest(writing, record)
            target = self._directory / str(step)
            if target.exists():  # a damaged one, from which the run did not go on
                self._remove(step)
            writing.rename(target)
            flush_folder(self._directory)
            self._damaged.pop(step, None)
            for old in self._steps() - self._kept(step):
                self._remove(old)
        except (OSError, ValueError) as error:
            self._clean()
            raise self._failed(step, error) from None

    def _kept(self, newest: int) -> set[int]:
        """Those that stay once this one is complete; and damaged ones above it."""
        steps = self._steps()
        whole = sorted(steps - self._damaged.keys())
        kept = {step for step in steps if step > newest} | set(whole[-self._keep :])
        if self._keep_every is not None:
            kept |= {step for step in whole if step % self._keep_every == 0}
        if self._keep_best is not None:
            values = {}
            for step in whole:
                try:
                    metrics = read_manifest(self._directory / str(step))["metrics"]
                    values[step] = float(metrics[self._keep_best])
                except (Damaged, KeyError, TypeError, ValueError):
                    continue  # one without such a value
            if values:
                kept.add(min(values, key=lambda step: (values[step], -step)))
        return kept

    def _remove(self, step: int) -> None:
        """Removes a checkpoint; a kill in between leaves none that looks whole."""
        removed = self._directory / f"{step}.removed"
        shutil.rmtree(removed, ignore_errors=True)
        (self._directory / str(step)).rename(removed)
        shutil.rmtree(removed)

    def _clean(self) -> None:
        """Removes what was left half-written or half-removed."""
        if jax.process_index() == 0:
            for pattern in ("*.writing*", "*.removed"):
                for path in self._directory.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)

    def _failed(self, step: int, error: Exception) -> Exception:
        """What to raise: an `InputError` where the disk is to blame."""
        if error_number(error) is None:
            return error
        newest = max(self._steps() - self._damaged.keys(), default=None)
        reason = cannot_write(self._directory / str(step), error)
        left = "none is there yet" if newest is None else f"that of step {newest} stays"
        return InputError(f"the checkpoint of step {step} is lost, {left}: {reason}")

    def _path(self, step: int | None) -> Path:
        steps = self._steps()
        if step not in steps:
            which = "" if step is None else f" of step {step}"
            raise InputError(
                f"there is no checkpoint{which} in '{self._directory}', which holds "
                f"{sorted(steps) or 'none'}: train first, or choose another"
            )
        return self._directory / str(step)

    def _steps(self) -> set[int]:
        """The steps of which there is a finished folder, whole or damaged."""
        if not self._directory.is_dir():
            return set()
        names = [path.name for path in self._directory.iterdir() if path.is_dir()]
        return {
            int(n) for n in names if n.isascii() and n.isdigit() and str(int(n)) == n
        }

    def _check(self, path: Path, metadata: Any, template: Any, partial: bool) -> None:
        """Refuse another state: Orbax would cast other dtypes and say nothing."""
        there, here = _leaves(metadata), _leaves(template)
        if partial:
            there = {name: leaf for name, leaf in there.items() if name in here}
        differing = [
            f"{name} is {there.get(name, 'not')} there, {here.get(name, 'not')} here"
            for name in sorted({name for name, _ in there.items() ^ here.items()})
        ]
        if differing:
            raise InputError(
                f"the checkpoint '{path}' holds a different state: "
                f"{first_few(differing)}; use the configuration it is from"
            )


def _damaged(path: Path, reason: Damaged) -> InputError:
    return InputError(f"the checkpoint '{path}' is damaged ({reason}): choose another")


def _orbax() -> Any:
    v1 = require("orbax.checkpoint").v1
    logging.getLogger("absl").addFilter(_is_worth_saying)
    return v1


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """Not Orbax's, whose errors are raised as well."""
    return "orbax" not in record.pathname


def _leaves(tree: Any) -> dict[str, str]:
    """Each leaf's path and type, such as "params/dense/kernel": "float32[3, 4]"."""
    return {n: f"{leaf.dtype}{list(leaf.shape)}" for n, leaf in by_name(tree).items()}


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree, by their names."""
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def leaf_name(path: Any) -> str:
    """A leaf's path in its tree, such as "params/dense/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
