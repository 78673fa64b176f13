"""Checkpoints of a training state; at any time, the newest complete one is on disk.

A checkpoint is a folder `<step>`. It gets this name after all files are written, read
back and listed with their checksums in its manifest (see `write_manifest`). Folders of
other names are leftovers of a killed run: `<step>.writing...` and `<step>.removed`.

Orbax is loaded when the first `Checkpoints` is created.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

import jax

from jaxdiff.errors import InputError, first_few
from jaxdiff.storage.files import (
    cannot_write,
    error_number,
    flush_folder,
    remove_matching,
)
from jaxdiff.storage.manifest import Damaged, read_manifest, verify, write_manifest
from jaxdiff.storage.orbax_paths import literal_path, orbax, read_back
from jaxdiff.storage.read_state import read_state
from jaxdiff.storage.retention import Retention

FORMAT = 1
"""Version of the checkpoint format; this code reads no other version."""
LEFTOVERS = ("*.writing*", "*.removed")
ATTEMPTS = 10
"""Number of attempts to read the newest checkpoint while another process trains."""
LARGE = 2**20
"""Smallest part of an array that one of several devices writes, in bytes."""
Read = TypeVar("Read")


class Checkpoints:
    """Checkpoints of one run, with retention.

    Reading changes nothing on disk: other processes may read while one process trains.
    The training process may remove a checkpoint meanwhile; see `read_newest`.

    Args:
        directory: Folder of the checkpoints; the first `save` creates it.
        keep: Number of newest checkpoints to retain.
        keep_every: Also retains steps that are multiples of this number.
        keep_best: Also retains the checkpoint with the smallest value of this name in
            the "metrics" of its manifest.

    Raises:
        InputError: If `keep` or `keep_every` is not positive, or Orbax is not
            installed.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 3,
        keep_every: int | None = None,
        keep_best: str | None = None,
    ):
        self._retention = Retention(keep, keep_every, keep_best)
        self._ocp = orbax()
        self._directory = Path(directory).absolute()
        self._literal = literal_path(self._directory, self)
        self._damaged: dict[int, str] = {}
        self._proven: int | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._saving: Future[None] | None = None

    def save(
        self, step: int, state: Any, record: Mapping[str, Any] | None = None
    ) -> None:
        """Starts to write `state` after the previous save has finished.

        The values are copied to the host before this method returns. The next step may
        then donate the state's buffers (`donate_argnums`), and no device holds a second
        copy. The folder gets its final name once it is verified, and only then are
        older ones removed. After a kill, the previous checkpoint is still the newest.

        Args:
            step: Step of the state, above the step of every undamaged checkpoint.
            state: Pytree of JAX arrays; a PRNG key is given as its
                `jax.random.key_data`.
            record: JSON data to store in the manifest; the method `record` returns it.

        Raises:
            InputError: If a checkpoint of this step or a later one exists, or if this
                save or the previous one cannot be written.
        """
        self.wait()
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, "checkpoint")
            remove_matching(self._directory, LEFTOVERS)
        newest = max(self._steps() - self._damaged.keys(), default=-1)
        if newest >= step and jax.process_index() == 0:
            raise InputError(
                f"step must be above {newest}, the newest in '{self._directory}', got "
                f"{step}. Continue from the newest step, or choose another directory."
            )
        writing = self._literal / f"{step}.writing"
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            # Orbax measures timeouts by a clock that may jump: this disables them.
            patient = self._ocp.options.AsyncOptions(
                timeout_secs=2**31 - 1, create_directories_asynchronously=False
            )
            # Devices that hold the same array write a part each only if the array is
            # large: cutting out a part compiles a program per shape.
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
        self._saving = self._writer.submit(self._finish, saved, step, shapes, record)

    def check(self) -> None:
        """Raises the error of a failed save, if that save has already finished."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save is on disk; raises its error if the save failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()

    def latest(self, below: int | None = None) -> int | None:
        """Returns the step of the newest undamaged checkpoint, or None if none exists.

        Every byte of this checkpoint is verified. A warning names newer damaged
        checkpoints.

        Args:
            below: Upper bound of the steps, exclusive; None for no bound.

        Raises:
            InputError: If checkpoints exist, and all are damaged, or each is removed
                while it is verified.
        """
        for _ in range(ATTEMPTS):
            found, removed = self._steps(), False
            steps = sorted(s for s in found if below is None or s < below)[::-1]
            for step in steps:
                try:
                    verify(self._directory / str(step))
                except Damaged as reason:
                    if step in self._steps():
                        self._damaged[step] = str(reason)
                    else:
                        removed = True
                    continue
                for damaged in sorted(self._damaged):
                    if damaged > step:
                        warnings.warn(
                            f"skipped '{self._directory / str(damaged)}', which is "
                            f"damaged ({self._damaged[damaged]}), and used step {step}",
                            stacklevel=2,
                        )
                self._proven = step
                return step
            if not removed:
                break
        else:
            raise self._too_fast()
        if not steps:
            return None
        reasons = first_few([f"{step}: {self._damaged[step]}" for step in steps])
        raise InputError(
            f"all checkpoints in '{self._directory}' are damaged ({reasons}). "
            "Restore one from a copy, or move the folder away to start again."
        )

    def read_newest(
        self,
        read: Callable[[int | None], Read],
        latest: Callable[[], int | None] | None = None,
    ) -> Read:
        """Returns `read(step)` for the newest undamaged checkpoint, or `read(None)`.

        If the training process removes the checkpoint meanwhile, `read` is called again
        with the next one. With several processes, there is one attempt.

        Args:
            read: Function of a step, or of None if no checkpoint exists.
            latest: Function that returns the newest step; the method `latest` by
                default.

        Raises:
            InputError: If each checkpoint is removed while it is read; or see `latest`.
        """
        for _ in range(ATTEMPTS if jax.process_count() == 1 else 1):
            step = (latest or self.latest)()
            try:
                return read(step)
            except Exception:  # Orbax and TensorStore raise many types
                if step is None or step in self._steps():
                    raise
        raise self._too_fast()

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints in order; some may be damaged."""
        return sorted(self._steps())

    def record(self, step: int) -> dict[str, Any]:
        """Returns a checkpoint's manifest: the data given to `save`, step and files.

        Raises:
            InputError: If the checkpoint does not exist, is damaged or has another
                format.
        """
        path = self._path(step)
        try:
            record = read_manifest(path)
        except Damaged as reason:
            raise _damaged(path, reason) from reason
        if record.get("format") != FORMAT:
            raise InputError(
                f"format of the checkpoint '{path}' must be {FORMAT}, got "
                f"{record.get('format')!r}. Install the jaxdiff version that wrote it."
            )
        return record

    def status(self) -> dict[int, tuple[int, str | None]]:
        """Returns each checkpoint's size in bytes, and its damage or None, by step."""
        found = {}
        for step in sorted(self._steps()):
            path, reason = self._directory / str(step), None
            try:
                files = [p.lstat().st_size for p in path.rglob("*") if not p.is_dir()]
                verify(path)
            except FileNotFoundError:  # removed by the run in between
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
        """Restores a saved state, bit for bit, on the present devices.

        Args:
            template: Structure of the state. Its leaves have a `shape`, a `dtype` and
                optionally a `sharding`, by default on the first local device. Arrays
                work, but shapes (`jax.eval_shape`) use no device memory.
            step: Step of the checkpoint; None restores the newest undamaged one, as
                `read_newest` does.
            partial: If True, reads the template's leaves only.

        Raises:
            InputError: If the checkpoint does not exist, is damaged, or holds a
                different state.
        """
        self.wait()
        if step is None:
            return self.read_newest(
                lambda newest: self._restore(self._path(newest), template, partial)
            )
        path = self._path(step)
        try:
            return self._restore(path, template, partial)
        except Exception as error:
            if path.is_dir():
                raise
            raise InputError(
                f"the checkpoint '{path}' was removed while it was read: a process "
                "trains this run. Choose a newer one."
            ) from error

    def _restore(self, path: Path, template: Any, partial: bool) -> Any:
        self.record(step := int(path.name))
        # Process 0 verifies all bytes for all processes.
        if step != self._proven and jax.process_index() == 0:
            try:
                verify(path)
            except Damaged as reason:
                raise _damaged(path, reason) from reason
        literal = self._literal / path.name
        state = read_state(self._ocp, literal, path, template, partial)
        if not path.is_dir():  # TensorStore reads zeros where a file is missing
            raise FileNotFoundError(path)
        return state

    def close(self) -> None:
        """Waits for the last save, and stops the writing thread."""
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

    def _finish(
        self, saved: Any, step: int, shapes: Any, record: dict[str, Any]
    ) -> None:
        """Verifies a checkpoint, gives it its final name, and removes older ones.

        Runs in a thread; process 0 does this for all processes.
        """
        try:
            saved.result()
            if jax.process_index() != 0:
                return
            writing = self._directory / f"{step}.writing"
            read_back(self._literal / writing.name, shapes)
            write_manifest(writing, record)
            target = self._directory / str(step)
            if target.exists():  # a damaged one, from which the run did not go on
                self._remove(step)
            writing.rename(target)
            flush_folder(self._directory)
            self._damaged.pop(step, None)
            steps = self._steps()
            # Damaged checkpoints above `step` are retained as well.
            kept = self._retention.kept(steps - self._damaged.keys(), self._directory)
            for old in steps - kept - {s for s in steps if s > step}:
                self._remove_old(old)
        except (OSError, ValueError) as error:
            remove_matching(self._directory, LEFTOVERS)
            raise self._failed(step, error) from None

    def _remove(self, step: int) -> None:
        """Removes a checkpoint; after a kill, the remains have another name."""
        removed = self._directory / f"{step}.removed"
        shutil.rmtree(removed, ignore_errors=True)
        (self._directory / str(step)).rename(removed)
        # The next run removes files that are still in use on a network disk.
        shutil.rmtree(removed, ignore_errors=True)

    def _remove_old(self, step: int) -> None:
        """Removes a checkpoint that the run no longer needs, or warns."""
        try:
            self._remove(step)
        except OSError as error:
            warnings.warn(
                f"kept the old checkpoint '{self._directory / str(step)}', which "
                f"cannot be removed: {error.strerror}",
                stacklevel=2,
            )

    def _failed(self, step: int, error: Exception) -> Exception:
        """Returns the error to raise: an `InputError` if the disk caused `error`."""
        if error_number(error) is None:
            return error
        newest = max(self._steps() - self._damaged.keys(), default=None)
        reason = cannot_write(self._directory / str(step), error)
        left = "none exists yet" if newest is None else f"step {newest} remains"
        return InputError(f"the checkpoint of step {step} is lost ({left}): {reason}")

    def _too_fast(self) -> InputError:
        return InputError(
            f"each checkpoint in '{self._directory}' was removed while it was read: a "
            "process trains this run. Try again, or train with a larger --upkeep.keep."
        )

    def _path(self, step: int | None) -> Path:
        steps = self._steps()
        if step not in steps:
            which = "" if step is None else f" of step {step}"
            raise InputError(
                f"there is no checkpoint{which} in '{self._directory}', which holds "
                f"{sorted(steps) or 'none'}. Train first, or choose another."
            )
        return self._directory / str(step)

    def _steps(self) -> set[int]:
        """Returns the steps of all finished folders, undamaged or damaged."""
        if not self._directory.is_dir():
            return set()
        names = [path.name for path in self._directory.iterdir() if path.is_dir()]
        return {
            int(n) for n in names if n.isascii() and n.isdigit() and str(int(n)) == n
        }


def _damaged(path: Path, reason: Damaged) -> InputError:
    return InputError(f"the checkpoint '{path}' is damaged ({reason}). Choose another.")
