"""PyTorch's ``.bin`` files as NumPy arrays, without torch and without running what is in them.

``torch.save`` writes a pickle of the state dictionary beside the raw bytes of its storages: in a
zip archive since PyTorch 1.6, one after the other in a single file before that. The pickle is read
by an unpickler that knows tensors, parameters and ordered dictionaries, and refuses to look up any
other name; what it hands out for those are inert objects, so a hostile file can do no more
than fail.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from experiments.errors import DamagedDataError, MissingDataError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_BFLOAT16 = "bfloat16"  # NumPy has no such type; the bits are widened to float32.
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class TorchFileError(DamagedDataError):
    """A file is not a PyTorch state dictionary, is damaged, or holds more than tensors."""


def read_torch_bin(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch state dictionary.

    Args:
      path: a file written by ``torch.save(model.state_dict(), path)``, or a training checkpoint
        that holds one under ``state_dict`` or ``model``.

    Returns:
      Name to array; bfloat16 becomes float32. What is no tensor is left out.

    Raises:
      MissingDataError: if there is no such file.
      TorchFileError: if it is damaged, holds no tensors, or asks for anything but tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingDataError(f"there is no file {file}")
    try:
        if zipfile.is_zipfile(file):
            content, storages = _read_zip(file)
        else:
            with file.open("rb") as stream:
                content, storages = _read_legacy(stream)
        return _tensors(content, storages)
    except TorchFileError as error:
        raise TorchFileError(f"{file}: {error}") from None
    except _DAMAGE as error:
        raise TorchFileError(f"{file} is damaged or not PyTorch's ({error!r})") from error


# What the standard library raises on bytes that are not what they should be.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
    """Where the numbers of some tensors lie: a key, NumPy's name of the type, and how many."""

    key: str
    kind: str
    count: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage, in numbers (not bytes)."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _RebuildTensor:
    """Stands for ``torch._utils._rebuild_tensor_v2``; without a ``__dict__`` to tamper with."""

    __slots__ = ()

    def __call__(
        self, storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any
    ) -> _Tensor:
        return _Tensor(storage, int(offset), _ints(shape), _ints(strides))


class _RebuildParameter:
    """Stands for ``torch._utils._rebuild_parameter``."""

    __slots__ = ()

    def __call__(self, tensor: _Tensor, *_: Any) -> _Tensor:
        return tensor


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    ("torch", "Size"): tuple,
    **{("torch", name): kind for name, kind in _STORAGES.items()},
}


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise TorchFileError(
                f"the file asks for {module}.{name}, which is no tensor; it will not be run."
                " Save the state dictionary alone, or as safetensors"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        tag, kind, key, _, count, *view = pid
        if tag != "storage" or kind not in _STORAGES.values() or any(v is not None for v in view):
            raise TorchFileError(f"unknown kind of storage: {pid!r}")
        return _Storage(str(key), kind, int(count))


def _load(stream: BinaryIO) -> Any:
    try:
        return _TensorUnpickler(stream).load()
    except TorchFileError:
        raise
    except Exception as error:  # Damaged pickles raise anything, says the documentation of pickle.
        raise TorchFileError(f"its pickle is damaged or not PyTorch's ({error!r})") from error


def _read_zip(file: Path) -> tuple[Any, Callable[[_Storage], bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise TorchFileError("a zip archive, but not one of PyTorch's")
        root = names[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise TorchFileError("its numbers are big-endian, which is not supported")
        content = _load(io.BytesIO(archive.read(names[0])))

    def storage_bytes(storage: _Storage) -> bytes:
        with zipfile.ZipFile(file) as archive:
            return archive.read(f"{root}data/{storage.key}")

    return content, storage_bytes


def _read_legacy(stream: BinaryIO) -> tuple[Any, Callable[[_Storage], bytes]]:
    if _load(stream) != _LEGACY_MAGIC:
        raise TorchFileError("not a file of PyTorch's")
    _load(stream)  # The protocol's version: only 1001 was ever written.
    if not _load(stream).get("little_endian", True):
        raise TorchFileError("its numbers are big-endian, which is not supported")
    content = _load(stream)
    keys = _load(stream)
    storages = {storage.key: storage for storage in _storages_of(content)}
    raw: dict[str, bytes] = {}
    for key in keys:
        (count,) = struct.unpack("<q", _read_exactly(stream, 8))
        raw[key] = _read_exactly(stream, count * _item_size(storages[key].kind))
    return content, lambda storage: raw[storage.key]


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count) if count >= 0 else b""
    if len(data) != count:
        raise EOFError(f"{count} bytes were announced, {len(data)} are there")
    return data


def _storages_of(value: Any) -> list[_Storage]:
    if isinstance(value, _Tensor):
        return [value.storage]
    if isinstance(value, _Storage):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [storage for item in value for storage in _storages_of(item)]
    return []


def _item_size(kind: str) -> int:
    return 2 if kind == _BFLOAT16 else np.dtype(kind).itemsize


def _tensors(content: Any, storages: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    found = _state_dict(content)
    if not found:
        raise TorchFileError("it holds no tensors")
    arrays = {t.storage.key: _flat(t.storage, storages(t.storage)) for t in found.values()}
    return {name: _view(tensor, arrays[tensor.storage.key]) for name, tensor in found.items()}


def _state_dict(content: Any) -> dict[str, _Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {str(name): value for name, value in content.items() if isinstance(value, _Tensor)}


def _flat(storage: _Storage, raw: bytes) -> np.ndarray:
    if len(raw) < storage.count * _item_size(storage.kind):
        raise TorchFileError(f"storage {storage.key} is shorter than its tensors need")
    if storage.kind == _BFLOAT16:
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, storage.kind)


def _view(tensor: _Tensor, flat: np.ndarray) -> np.ndarray:
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, flat.dtype)
    numbers = (*tensor.shape, *tensor.strides, tensor.offset)
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if min(numbers) < 0 or tensor.offset + last >= flat.size:
        raise TorchFileError(f"a tensor of shape {tensor.shape} reaches beyond its storage")
    steps = tuple(s * flat.itemsize for s in tensor.strides)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, steps).copy()
