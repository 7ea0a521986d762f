"""Reads the tensors of a PyTorch weight file: without PyTorch, and without running what is in it.

``torch.save`` writes a pickle, and a pickle may name any function to be called. Here a name outside
a short list of containers and tensor types ends the reading; the names on the list stand for
functions of this module that do nothing but describe a tensor. Both formats are read: the zip of
PyTorch 1.6 and later, and the legacy stream before it.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Sequence
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from etils import epath

from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.errors import WeightFileError, read_weight_file

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: PathLike) -> dict:
    """Reads what ``torch.save`` wrote: nested dicts and lists, tensors as numpy arrays.

    Raises:
        WeightFileError: if the file is no PyTorch file, is truncated, or holds anything but
            tensors, numbers, strings and containers; or if there is no such file.
    """
    path = epath.Path(path)
    content = read_weight_file(path)
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            return _read_zip(content)
        return _read_legacy(content)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise WeightFileError(
            f"{path}: not a readable PyTorch weight file ({type(error).__name__}: {error}); "
            "is the download complete?"
        ) from error


def _read_zip(content: bytes) -> dict:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise WeightFileError("a zip without the data.pkl of a PyTorch file")
        folder = pickles[0].removesuffix("data.pkl")
        order = "little"
        if folder + "byteorder" in names:
            order = archive.read(folder + "byteorder").decode().strip()
        described = _load_description(io.BytesIO(archive.read(pickles[0])))
        storages = {
            s.key: _as_array(archive.read(f"{folder}data/{s.key}"), s, order)
            for s in _storages_in(described)
        }
    return _with_arrays(described, storages)


def _read_legacy(content: bytes) -> dict:
    stream = io.BytesIO(content)
    if _load_description(stream) != _LEGACY_MAGIC:
        raise WeightFileError("not a PyTorch weight file")
    if _load_description(stream) != _LEGACY_PROTOCOL:
        raise WeightFileError("a PyTorch file of an unknown legacy protocol")
    system = _load_description(stream)
    described = _load_description(stream)
    order: Literal["little", "big"] = "little" if system["little_endian"] else "big"
    wanted = {s.key: s for s in _storages_in(described)}
    storages = {}
    for key in _load_description(stream):
        size = int.from_bytes(stream.read(8), order)
        if key not in wanted:
            raise WeightFileError(f"storage {key} belongs to no tensor")
        expected = wanted[key]
        if size != expected.size:
            raise WeightFileError(f"storage {key} has {size} values, expected {expected.size}")
        storages[key] = _as_array(stream.read(size * expected.dtype.itemsize), expected, order)
    return _with_arrays(described, storages)


class _DescribingUnpickler(pickle.Unpickler):
    """Builds containers, and descriptions where the pickle asks for tensors."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _describe_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _describe_parameter
        if module == "torch" and name in _STORAGE_DTYPES:
            return np.dtype(_STORAGE_DTYPES[name])
        raise WeightFileError(
            f"refused: the pickle asks for {module}.{name}, which is neither a tensor nor a "
            "container; nothing of it was run"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, size = pid[:5]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise WeightFileError(f"refused: a persistent object of kind {kind!r}")
        return _Storage(str(key), dtype, int(size))


def _load_description(stream: BinaryIO) -> Any:
    return _DescribingUnpickler(stream).load()


def _describe_tensor(
    storage: _Storage,
    offset: int,
    shape: Sequence[int],
    strides: Sequence[int],
    *_gradient_and_hooks: Any,
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _describe_parameter(tensor: _Tensor, *_gradient_and_hooks: Any) -> _Tensor:
    return tensor


def _storages_in(described: Any) -> list[_Storage]:
    if isinstance(described, _Tensor):
        return [described.storage]
    if isinstance(described, dict):
        described = described.values()
    elif not isinstance(described, (list, tuple)):
        return []
    return [storage for value in described for storage in _storages_in(value)]


def _as_array(raw: bytes, storage: _Storage, order: str) -> np.ndarray:
    if len(raw) != storage.size * storage.dtype.itemsize:
        raise WeightFileError(f"truncated in storage {storage.key}: is the download complete?")
    dtype = storage.dtype.newbyteorder("<" if order == "little" else ">")
    return np.frombuffer(raw, dtype).astype(storage.dtype)


def _with_arrays(described: Any, storages: dict[str, np.ndarray]) -> Any:
    if isinstance(described, _Tensor):
        return _tensor_array(described, storages[described.storage.key])
    if isinstance(described, dict):
        return {key: _with_arrays(value, storages) for key, value in described.items()}
    if isinstance(described, (list, tuple)):
        return [_with_arrays(value, storages) for value in described]
    return described


def _tensor_array(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    sizes_and_strides = list(zip(tensor.shape, tensor.strides, strict=True))
    if any(n < 0 or stride < 0 for n, stride in sizes_and_strides) or tensor.offset < 0:
        raise WeightFileError(f"a tensor with shape {tensor.shape}, strides {tensor.strides}")
    last = tensor.offset + sum((n - 1) * stride for n, stride in sizes_and_strides)
    if math.prod(tensor.shape) and last >= values.size:
        raise WeightFileError(f"a tensor of shape {tensor.shape} reaches beyond its storage")
    strides = [stride * values.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides)
    return view.copy()
