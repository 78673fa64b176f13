"""Checkpoints of a training state, and the small JSON files beside them.

Only this file uses Orbax, which it loads when the first `Checkpoints` is made.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any, Self

import jax

from jaxdiff.errors import InputError


class Checkpoints:
    """The newest checkpoints of one run, a directory `<directory>/<step>` for each.

    Reading changes nothing on the disk: others may read while one process trains.

    Args:
        directory: where the checkpoints lie; the first `save` creates it.
        keep: how many of the newest ones remain.

    Raises:
        InputError: `keep` is not positive, or Orbax is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str], *, keep: int = 3):
        if keep < 1:
            raise InputError(f"keep={keep} checkpoints is too few: give at least 1")
        self._ocp = _orbax()
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._writer: Any = None

    def save(self, step: int, state: Any) -> None:
        """Start to write `state`, once the previous save is done.

        The values are taken before this returns, so the next step may be given the
        state's buffers (`donate_argnums`). The files have another name until all are
        there: a kill leaves the previous checkpoint as the newest.

        Args:
            step: a number above the newest checkpoint's.
            state: a pytree of jax arrays (of a PRNG key, its `jax.random.key_data`).

        Raises:
            InputError: there is already a checkpoint of this step or a later one.
        """
        self.wait()
        if max(self._steps(), default=-1) >= step:
            raise InputError(
                f"cannot save step {step} in '{self._directory}', which holds step "
                f"{self.latest()}: continue from it or choose another directory"
            )
        if self._writer is None:
            policies = self._ocp.training.preservation_policies
            self._writer = self._ocp.training.Checkpointer(
                self._directory,
                preservation_policy=policies.LatestN(self._keep),
                cleanup_tmp_directories=True,  # what a killed run left half-written
            )
        self._writer.save_async(step, state, force=True)

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None when there is none."""
        return max(self._steps(), default=None)

    def restore(self, template: Any, step: int | None = None) -> Any:
        """The state that was saved, bit for bit, on whichever devices there are now.

        Args:
            template: the state's structure, whose leaves have a `shape`, a `dtype` and
                perhaps a `sharding`, else they go to the first local device. Arrays
                do, but shapes (`jax.eval_shape`) leave the device's memory free.
            step: which checkpoint, the newest when None.

        Raises:
            InputError: there is no such checkpoint, or it holds a different state.
        """
        self.wait()
        steps = self._steps()
        step = max(steps, default=None) if step is None else step
        if step not in steps:
            which = "" if step is None else f" of step {step}"
            raise InputError(
                f"there is no checkpoint{which} in '{self._directory}', which holds "
                f"{sorted(steps) or 'none'}: train first, or choose another"
            )
        path = self._directory / str(step)
        there = self._ocp.metadata(path).metadata
        self._check(path, there, template)
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
            sharding = getattr(leaf, "sharding", None) or first
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        # Leaves go by their names. Orbax would also compare the empty parts of the
        # trees, of which another version may have more, or fewer.
        wanted = {_name(p): abstract(x) for p, x in jax.tree.leaves_with_path(template)}
        asked = jax.tree.map_with_path(lambda p, _: wanted[_name(p)], there)
        loaded = jax.tree.leaves_with_path(self._ocp.load(path, asked))
        found = {_name(p): leaf for p, leaf in loaded}
        return jax.tree.map_with_path(lambda p, _: found[_name(p)], template)

    def wait(self) -> None:
        """Return when the last save is on the disk; raise what made it fail."""
        if self._writer is not None:
            self._writer.wait()

    def close(self) -> None:
        """Wait, and release the threads that write."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _steps(self) -> set[int]:
        found = self._ocp.path.step.standard_name_format().find_all(self._directory)
        return {c.step for c in found if c.commit_timestamp_nsecs is not None}

    def _check(self, path: Path, metadata: Any, template: Any) -> None:
        """Refuse another state: Orbax would cast other dtypes and say nothing."""
        there, here = _leaves(metadata), _leaves(template)
        differing = [
            f"{name} is {there.get(name, 'not')} there, {here.get(name, 'not')} here"
            for name in sorted({name for name, _ in there.items() ^ here.items()})
        ]
        if differing:
            more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise InputError(
                f"the checkpoint '{path}' holds a different state: "
                f"{'; '.join(differing[:3])}{more}; use the configuration it is from"
            )


def write_json_atomic(path: str | os.PathLike[str], data: dict[str, Any]) -> None:
    """Write `data`; a reader, or a crash, meets the old file or the new one."""
    path = Path(path)
    text = json.dumps(data, indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write '{path}': {error.strerror}") from error


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dictionary in a JSON file; `InputError` where there is none."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(f"'{path}' is not a JSON file: {error}") from error
    except RecursionError as error:
        raise InputError(f"'{path}' is nested too deep to be read") from error
    if not isinstance(data, dict):
        raise InputError(f"'{path}' holds a {type(data).__name__}, not a JSON object")
    return data


def ensure_writable(directory: str | os.PathLike[str], flag: str = "--workdir") -> None:
    """Create the workdir and prove that a file can be written, or `InputError`."""
    # Another host may have a process of the same number.
    name = f".writable.{jax.process_index()}.{os.getpid()}"
    probe = Path(directory) / name
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        reason = f"cannot write to the folder '{directory}': {error.strerror}"
        raise InputError(f"{reason}; choose another with {flag}") from error


def _orbax() -> Any:
    try:
        from orbax.checkpoint import v1
    except ImportError as error:
        remedy = "pip install 'jaxdiff[experiments]'"
        raise InputError(f"checkpoints need Orbax: {remedy}") from error
    logging.getLogger("absl").addFilter(_is_worth_saying)
    return v1


def _is_worth_saying(record: logging.LogRecord) -> bool:
    """An error, or not Orbax's."""
    return record.levelno >= logging.ERROR or "orbax" not in record.pathname


def _leaves(tree: Any) -> dict[str, str]:
    """Each leaf's path and type, such as "params/dense/kernel": "float32[3, 4]"."""
    leaves = jax.tree.leaves_with_path(tree)
    return {_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
