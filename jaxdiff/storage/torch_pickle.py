"""Reader of PyTorch's weights, a .pth or .bin file, without PyTorch.

Such a file is a pickle, which may run any code when loaded. This reader creates only
dictionaries and arrays, and rejects a file that names anything else. Both formats are
supported: the zip archive, and the format before PyTorch 1.6.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxdiff.errors import InputError, first_line
from jaxdiff.storage.files import open_regular

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class _Storage(NamedTuple):
    """Block of numbers in a file, identified by its key."""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """View of a storage, whose numbers may follow later in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, numbers: bytes) -> np.ndarray:
        """Returns the tensor's numbers, given the bytes of its storage."""
        _, dtype, size = self.storage
        whole = np.frombuffer(numbers, dtype, size)
        count = int(np.prod(self.shape, dtype=object))
        if min((self.offset, *self.shape, *self.strides)) < 0 or count > size:
            raise ValueError(f"a tensor of shape {self.shape} has {size} numbers")
        if not count:
            return np.zeros(self.shape, dtype)
        steps = zip(self.shape, self.strides, strict=True)
        if self.offset + sum((side - 1) * step for side, step in steps) >= size:
            raise ValueError(f"a tensor of shape {self.shape} lies outside its storage")
        strides = [step * dtype.itemsize for step in self.strides]
        # A view: many tensors of one storage take its memory once.
        return np.lib.stride_tricks.as_strided(
            whole[self.offset :], self.shape, strides, writeable=False
        )


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor has no storage")
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int for n in numbers) or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor has no valid shape")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}
"""All names that a pickle may contain, with their replacements."""


class _Unpickler(pickle.Unpickler):
    """Unpickler of dictionaries, numbers, texts and tensors only."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of an allowed name."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns a storage, of which the pickle holds only the key."""
        kind, dtype, key, _, size, *_ = pid
        if (kind, type(size)) != ("storage", int) or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it contains an unknown object")
        return _Storage(str(key), dtype, size)


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a PyTorch state by name.

    Args:
        path: Path of a file that `torch.save(network.state_dict(), path)` wrote.

    Returns:
        Arrays with the file's dtypes; bfloat16 is the dtype of `ml_dtypes`.

    Raises:
        InputError: If the file does not exist, or holds anything else.
    """
    return _read(
        path,
        lambda state, numbers_of: {
            name: _array(name, x, numbers_of) for name, x in _items(state)
        },
    )


def read_torch_tree(path: Path) -> dict[Any, Any]:
    """Returns nested dictionaries of arrays, numbers and texts.

    Args:
        path: Path of a file that `torch.save` wrote from such a dictionary.

    Raises:
        InputError: If the file does not exist, or holds anything else.
    """

    def plain(value: Any, numbers_of: Callable[[str], bytes]) -> Any:
        if isinstance(value, dict):
            return {key: plain(one, numbers_of) for key, one in value.items()}
        if isinstance(value, _Tensor):
            return value.array(numbers_of(value.storage.key))
        if value is None or isinstance(value, str | int | float):
            return value
        raise ValueError(f"a {type(value).__name__} is neither array nor number")

    return _read(path, lambda state, numbers_of: plain(dict(_items(state)), numbers_of))


def _read(path: Path, convert: Callable[[Any, Callable[[str], bytes]], Any]) -> Any:
    """Reads a file, and converts its state while the file is open."""
    try:
        with open_regular(path) as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_legacy
            file.seek(0)
            return convert(*read(file))
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'. Check the path.") from None
    except (
        OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError,
        OverflowError, MemoryError, RecursionError, NotImplementedError,
        pickle.UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise InputError(
            f"'{path}' holds no PyTorch weights ({first_line(error)}). Give a complete "
            "file that torch.save wrote from a state_dict."
        ) from error


def _items(state: Any) -> list[tuple[str, Any]]:
    if not isinstance(state, dict):
        raise ValueError(f"a {type(state).__name__}, not a state_dict")
    return list(state.items())


def _array(name: Any, value: Any, numbers_of: Callable[[str], bytes]) -> np.ndarray:
    if not isinstance(name, str) or not isinstance(value, _Tensor):
        raise ValueError(f"{name!r} is not a tensor")
    return value.array(numbers_of(value.storage.key))


def _read_zip(file: IO[bytes]) -> tuple[Any, Callable[[str], bytes]]:
    archive = zipfile.ZipFile(file)
    (head,) = (n for n in archive.namelist() if n.endswith("/data.pkl"))
    folder = head.removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
        order = archive.read(f"{folder}byteorder")
        if order != b"little":
            raise ValueError(f"its numbers are {order!r} endian")
    # PyTorch compresses nothing; a few compressed bytes could fill the memory.
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ValueError("its parts are compressed")
    with archive.open(head) as pickled:
        state = _Unpickler(pickled).load()
    return state, cache(lambda key: archive.read(f"{folder}data/{key}"))


def _read_legacy(file: IO[bytes]) -> tuple[Any, Callable[[str], bytes]]:
    def load() -> Any:
        return _Unpickler(file).load()

    if load() != _MAGIC:
        raise ValueError("its first bytes are not of PyTorch")
    load()  # the protocol version
    if not load().get("little_endian"):
        raise ValueError("its numbers are big endian")
    state, keys = load(), load()
    dtypes = {storage.key: storage.dtype for storage in _storages(state)}
    numbers = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        if key not in dtypes:
            raise ValueError(f"no tensor uses the storage {key!r}")
        numbers[key] = file.read(count * dtypes[key].itemsize)
    return state, numbers.__getitem__


def _storages(state: Any) -> Iterator[_Storage]:
    """Yields the storages of all tensors in nested dictionaries."""
    if isinstance(state, _Tensor):
        yield state.storage
    elif isinstance(state, dict):
        for value in state.values():
            yield from _storages(value)
