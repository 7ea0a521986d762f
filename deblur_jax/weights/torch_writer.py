"""Writes arrays as ``torch.save`` does, without PyTorch: for the official code.

The file is the zip of PyTorch 1.6 and later: a pickle of what was saved, in which each tensor names
its storage, and the storages as bytes. The pickle is written here code by code, since Python's own
pickler would have to import PyTorch for the names in it.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

_FOLDER = "archive"
_FORMAT_VERSION = b"3\n"
_TWO_BYTES, _FOUR_BYTES = 2**16, 2**31


def torch_file(name: str, state_dict: Mapping[str, np.ndarray]) -> bytes:
    """The file of ``torch.save({name: state_dict})``, with float32 tensors.

    Args:
        name: under which the state dict is found.
        state_dict: arrays by name.
    """
    arrays = {key: np.ascontiguousarray(array, "<f4") for key, array in state_dict.items()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{_FOLDER}/data.pkl", _pickled(name, arrays))
        archive.writestr(f"{_FOLDER}/byteorder", b"little")
        for number, array in enumerate(arrays.values()):
            archive.writestr(f"{_FOLDER}/data/{number}", array.tobytes())
        archive.writestr(f"{_FOLDER}/version", _FORMAT_VERSION)
    return stream.getvalue()


def _pickled(name: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    items = [_text(key) + _tensor(number, a) for number, (key, a) in enumerate(arrays.items())]
    state_dict = _ordered_dict() + pickle.MARK + b"".join(items) + pickle.SETITEMS
    whole = pickle.EMPTY_DICT + _text(name) + state_dict + pickle.SETITEM
    return pickle.PROTO + b"\x02" + whole + pickle.STOP


def _tensor(number: int, array: np.ndarray) -> bytes:
    """``_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)``."""
    storage = _tuple(
        _text("storage"),
        _name("torch", "FloatStorage"),
        _text(str(number)),
        _text("cpu"),
        _number(array.size),
    )
    strides = [stride // array.itemsize for stride in array.strides]
    arguments = _tuple(
        storage + pickle.BINPERSID,
        _number(0),
        _tuple(*map(_number, array.shape)),
        _tuple(*map(_number, strides)),
        pickle.NEWFALSE,
        _ordered_dict(),
    )
    return _name("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _ordered_dict() -> bytes:
    return _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _number(number: int) -> bytes:
    if number < 256:
        return pickle.BININT1 + bytes([number])
    if number < _TWO_BYTES:
        return pickle.BININT2 + struct.pack("<H", number)
    if number < _FOUR_BYTES:
        return pickle.BININT + struct.pack("<i", number)
    encoded = pickle.encode_long(number)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded
