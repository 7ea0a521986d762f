"""Reads the tensors of a PyTorch weight file: without PyTorch, and without running what is in it.

``torch.save`` writes a pickle, and a pickle may name any function to be called. Here no name is
ever imported. What the pickle calls must be on a short list (tensors, containers, numpy's scalars
and arrays), and is replaced by a function of this module; anything else that it calls ends the
reading. An object of an unknown class, such as a learning-rate schedule, becomes an inert
placeholder. Both formats are read: the zip of PyTorch 1.6 and later, and the legacy stream of
earlier versions.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar, Literal, NamedTuple

import ml_dtypes
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
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_BEGINNINGS = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_SUFFIXES = (".pkl", ".pth", ".pt")
_MOST_DIMENSIONS = 32
_LARGEST_EXPANSION = 4
"""A zip of PyTorch is not compressed; one that grows by more than this is no weight file."""
_ALWAYS_ALLOWED = 2**26
"""Bytes that a compressed member may have in any case."""


class _Name(NamedTuple):
    """A class or function that the pickle names; it is not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Placeholder:
    """An object of a class that is not known here: its name and its state, and no behaviour."""

    def __init__(self, name: str):
        self.name = name
        self.state: Any = None

    def __repr__(self) -> str:
        return f"<{self.name}>"


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _DType:
    """A dtype of numpy in a pickle."""

    def __init__(self, code: str, *_flags: Any):
        self._code = str(code)
        self._order = "<"

    def set_state(self, state: Any) -> None:
        self._order = state[1]

    def to_numpy(self) -> np.dtype:
        """The dtype, if it is one of numbers.

        Raises:
            WeightFileError: for another one.
        """
        dtype = np.dtype(self._code)
        if dtype.kind not in "biufc":
            raise WeightFileError(f"an array of numpy with dtype {self._code}")
        return dtype.newbyteorder(">" if self._order == ">" else "<")


class _Array:
    """An array of numpy in a pickle; its values arrive as its state."""

    def __init__(self, *_empty: Any):
        self.values: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes):
            raise WeightFileError("an array of numpy that holds objects")
        values = np.frombuffer(raw, dtype.to_numpy())
        self.values = values.reshape(shape, order="F" if is_fortran else "C").copy()


def is_torch_file(path: PathLike) -> bool:
    """Whether a file begins as PyTorch's do, as a zip or as a pickle, or is named as theirs are.

    Raises:
        WeightFileError: if it can't be read.
    """
    file = epath.Path(path)
    return read_weight_file(file)[:2] in _BEGINNINGS or file.suffix.lower() in _SUFFIXES


def read_torch_file(path: PathLike) -> Any:
    """Reads what ``torch.save`` wrote: nested dicts and lists, tensors as numpy arrays.

    Raises:
        WeightFileError: if the file is no PyTorch file, is truncated, claims more than it holds, or
            asks for anything to be called but tensors and containers; or if there is no such file.
    """
    file = epath.Path(path)
    content = read_weight_file(file)
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            return _read_zip(content)
        return _read_legacy(content)
    except WeightFileError as error:
        raise WeightFileError(f"{file}: {error}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        text = " ".join(str(error).split())[:200]
        raise WeightFileError(
            f"{file}: not a readable PyTorch weight file ({type(error).__name__}: {text}); "
            "is the download complete?"
        ) from error


def _read_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if len(pickles) != 1:
            raise WeightFileError("a zip without the data.pkl of a PyTorch file")
        claimed = sum(member.file_size for member in archive.infolist())
        if claimed > max(_ALWAYS_ALLOWED, _LARGEST_EXPANSION * len(content)):
            raise WeightFileError(f"{len(content):,} bytes that claim to hold {claimed:,}")
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


def _read_legacy(content: bytes) -> Any:
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


# ------------------------------------------------------------------------------- what may be called


def _describe_tensor(
    storage: _Storage, offset: int, shape: Any, strides: Any, *_gradient_and_hooks: Any
) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise WeightFileError("a tensor without a storage")
    return _Tensor(storage, int(offset), _integers(shape), _integers(strides))


def _describe_inner(inner: Any, *_rest: Any) -> Any:
    """A parameter is the tensor in it."""
    return inner


def _describe_from_type(function: _Name, _type: Any, arguments: tuple, _state: Any) -> Any:
    return _called(function, arguments)


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _dict(*arguments: Any) -> collections.OrderedDict:
    """An OrderedDict or a Counter, from nothing, a dict, or a list of pairs."""
    made: collections.OrderedDict = collections.OrderedDict()
    for argument in arguments[:1]:
        pairs = argument.items() if isinstance(argument, dict) else argument
        for key, value in pairs:
            made[_checked_key(key)] = value
    return made


def _defaultdict(*_factory: Any) -> dict:
    return {}


def _set(values: Any = ()) -> set:
    return {_checked_key(value) for value in values}


def _bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding != "latin1":
        raise WeightFileError(f"refused: text in {encoding!r}")
    return text.encode("latin1")


def _scalar(dtype: _DType, raw: bytes) -> Any:
    return np.frombuffer(raw, dtype.to_numpy())[0]


def _reconstructed(cls: _Name, *_base: Any) -> Placeholder:
    return Placeholder(str(cls))


_CALLABLE: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch._utils", "_rebuild_tensor"): _describe_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _describe_tensor,
    ("torch._utils", "_rebuild_parameter"): _describe_inner,
    ("torch._utils", "_rebuild_parameter_with_state"): _describe_inner,
    ("torch._tensor", "_rebuild_from_type_v2"): _describe_from_type,
    ("torch", "Size"): _integers,
    ("collections", "OrderedDict"): _dict,
    ("collections", "Counter"): _dict,
    ("collections", "defaultdict"): _defaultdict,
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _set,
    ("builtins", "slice"): slice,
    ("_codecs", "encode"): _bytes,
    ("copyreg", "_reconstructor"): _reconstructed,
    ("numpy", "dtype"): _DType,
    **{
        (f"{package}.multiarray", name): function
        for package in ("numpy.core", "numpy._core")
        for name, function in (("scalar", _scalar), ("_reconstruct", _Array))
    },
}
"""Stand-ins for what a pickle of weights calls."""
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Names of Python 2, which old protocols use."""


def _in_words(found: Any) -> str:
    """What a file holds, for a message: in one line, and not too long."""
    text = str(found)
    return text if text.isprintable() and len(text) <= 100 else f"{text[:100]!r}"


def _called(function: Any, arguments: tuple) -> Any:
    stand_in = _CALLABLE.get(function) if isinstance(function, _Name) else None
    if stand_in is None:
        raise WeightFileError(
            f"refused: the pickle asks to call {_in_words(function)}, which is neither a tensor "
            "nor a container; nothing of it was run"
        )
    return stand_in(*arguments)


_SIMPLE = (str, int, float, bool, bytes, type(None), _Name)


def _checked_key(key: Any) -> Any:
    """Nested tuples as keys could take for ever to hash.

    Raises:
        WeightFileError: for a key that is neither simple nor a tuple of simple ones.
    """
    parts = key if type(key) is tuple else (key,)
    if all(isinstance(part, _SIMPLE) or np.isscalar(part) for part in parts):
        return key
    raise WeightFileError(f"refused: a container with keys of type {type(key).__name__}")


_PythonUnpickler: Any = pickle._Unpickler


class _DescribingUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Builds containers, and descriptions where the pickle asks for tensors.

    It is the unpickler in Python, of which every operation that could run something is replaced.
    """

    dispatch: ClassVar[dict[int, Callable]] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> _Name:
        return _Name(_OLD_MODULES.get(module, module), name)

    def get_extension(self, code: int) -> None:
        raise WeightFileError(f"refused: the pickle asks for the extension {code}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, of_type, key, _location, size = pid[:5]
        known = isinstance(of_type, _Name) and of_type.module == "torch"
        if kind != "storage" or not known or of_type.name not in _STORAGE_DTYPES:
            raise WeightFileError(f"refused: a persistent object of kind {kind!r}, {of_type}")
        return _Storage(str(key), np.dtype(_STORAGE_DTYPES[of_type.name]), int(size))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        self.stack.pop()
        self.stack.append(Placeholder(str(self.stack.pop())))

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, cls: Any, arguments: Any) -> None:
        self.append(_called(cls, tuple(arguments)))

    def load_build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, Placeholder):
            built.state = state
        elif isinstance(built, (_DType, _Array)):
            built.set_state(state)
        elif not isinstance(built, (dict, set, _Tensor)):  # the attributes of these are left out
            raise WeightFileError(f"refused: a state for {type(built).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([(key, value)])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_items(list(zip(items[::2], items[1::2], strict=True)))

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(list(zip(items[::2], items[1::2], strict=True)))

    dispatch[pickle.DICT[0]] = load_dict

    def _set_items(self, items: list[tuple[Any, Any]]) -> None:
        target = self.stack[-1]
        for key, value in items:
            if isinstance(target, dict):
                target[_checked_key(key)] = value

    def _append_items(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def load_append(self) -> None:
        self._append_items([self.stack.pop()])

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        self._append_items(self.pop_mark())

    dispatch[pickle.APPENDS[0]] = load_appends

    def load_additems(self) -> None:
        items = self.pop_mark()
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(_checked_key(item) for item in items)

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        self.append(_set(self.pop_mark()))

    dispatch[pickle.FROZENSET[0]] = load_frozenset


def _load_description(stream: BinaryIO) -> Any:
    return _DescribingUnpickler(stream).load()


# -------------------------------------------------------------------------------- tensors to arrays


def _storages_in(described: Any) -> list[_Storage]:
    """Every storage once; an object that is met again is not gone through again."""
    found: dict[str, _Storage] = {}
    seen, waiting = set(), [described]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Tensor):
            known = found.setdefault(value.storage.key, value.storage)
            if known != value.storage:
                raise WeightFileError(f"storage {known.key} is described in two ways")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return list(found.values())


def _as_array(raw: bytes, storage: _Storage, order: str) -> np.ndarray:
    if len(raw) != storage.size * storage.dtype.itemsize:
        raise WeightFileError(f"truncated in storage {storage.key}: is the download complete?")
    dtype = storage.dtype
    if storage.dtype.itemsize > 1 and order != "little":
        raw = np.frombuffer(raw, f"u{dtype.itemsize}").byteswap().tobytes()
    return np.frombuffer(raw, dtype)


def _with_arrays(described: Any, storages: dict[str, np.ndarray]) -> Any:
    """The same containers with arrays in place of tensors; shared parts stay shared."""
    made: dict[int, Any] = {}

    def convert(value: Any) -> Any:
        if isinstance(value, _Tensor):
            return _tensor_array(value, storages[value.storage.key])
        if isinstance(value, _Array):
            return value.values
        if id(value) in made:
            return made[id(value)]
        if isinstance(value, dict):
            converted: Any = made.setdefault(id(value), {})
            converted.update({key: convert(inner) for key, inner in value.items()})
            return converted
        if isinstance(value, (list, tuple)):
            converted = made.setdefault(id(value), [])
            converted.extend(convert(inner) for inner in value)
            return converted
        return value

    return convert(described)


def _tensor_array(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise WeightFileError(f"a tensor with {len(shape)} dimensions and {len(strides)} strides")
    if tensor.offset < 0 or any(n < 0 for n in (*shape, *strides)):
        raise WeightFileError(f"a tensor with shape {shape}, strides {strides}")
    size = math.prod(shape)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size and (last >= values.size or size > values.size):
        raise WeightFileError(f"a tensor of shape {shape} reaches beyond its storage")
    if not size:
        return np.zeros(shape, values.dtype)
    in_bytes = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], shape, in_bytes).copy()
