"""Reads the layers of a Caffe weight file (``.caffemodel``).

It is a binary protobuf, ``NetParameter``; of Caffe's own definition only the fields that hold
weights are declared here, the others are ignored.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from deblur_jax.weights.errors import WeightFileError, read_weight_file

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "deblur_jax.caffe"
_MOST_DIMENSIONS = 32
# Message: (field, number, repeated, type, packed); a type in quotes is another message.
_MESSAGES = {
    "BlobShape": [("dim", 1, True, _FIELD.TYPE_INT64)],
    "BlobProto": [
        ("num", 1, False, _FIELD.TYPE_INT32),
        ("channels", 2, False, _FIELD.TYPE_INT32),
        ("height", 3, False, _FIELD.TYPE_INT32),
        ("width", 4, False, _FIELD.TYPE_INT32),
        ("data", 5, True, _FIELD.TYPE_FLOAT),
        ("shape", 7, False, "BlobShape"),
        ("double_data", 8, True, _FIELD.TYPE_DOUBLE),
    ],
    "LayerParameter": [
        ("name", 1, False, _FIELD.TYPE_BYTES),
        ("type", 2, False, _FIELD.TYPE_BYTES),
        ("blobs", 7, True, "BlobProto"),
    ],
    "V1LayerParameter": [
        ("name", 4, False, _FIELD.TYPE_BYTES),
        ("type", 5, False, _FIELD.TYPE_INT32),
        ("blobs", 6, True, "BlobProto"),
    ],
    "NetParameter": [
        ("name", 1, False, _FIELD.TYPE_BYTES),
        ("layers", 2, True, "V1LayerParameter"),
        ("layer", 100, True, "LayerParameter"),
    ],
}


Convolution = tuple[np.ndarray, np.ndarray]
"""Caffe's kernel (O, I, h, w) and bias (O,)."""


class Layer(NamedTuple):
    """A layer that holds weights; they are taken out of the file's buffer when asked for."""

    name: str
    type: str
    blobs: Sequence[message.Message]
    path: epath.Path

    @property
    def num_arrays(self) -> int:
        """How many arrays it holds."""
        return len(self.blobs)

    def arrays(self) -> list[np.ndarray]:
        """Its arrays, float32.

        Raises:
            WeightFileError: if one has more or fewer values than its shape.
        """
        return [_array(self.path, self.name, blob) for blob in self.blobs]

    def convolution(self) -> Convolution:
        """Its kernel and bias.

        Raises:
            WeightFileError: if it has other arrays.
        """
        if self.num_arrays != 2:
            raise WeightFileError(f"{self.name} has {self.num_arrays} arrays, expected 2")
        kernel, bias = self.arrays()
        return kernel, bias.reshape(-1)


def read_caffe_file(path: epath.PathLike) -> list[Layer]:
    """The layers with weights, in the order of the file, in Caffe's present or first format.

    Raises:
        WeightFileError: if the file is missing, truncated or no Caffe file.
    """
    path = epath.Path(path)
    net = net_parameter()
    try:
        net.ParseFromString(read_weight_file(path))
    except message.DecodeError as error:
        raise WeightFileError(
            f"{path}: not a Caffe weight file, or truncated ({error}); is the download complete?"
        ) from None
    layers = [
        Layer(_text(layer.name), _text(layer.type), layer.blobs, path)
        for layer in (*net.layer, *net.layers)
        if layer.blobs
    ]
    if not layers:
        raise WeightFileError(f"{path}: holds no layers with weights; is it a Caffe weight file?")
    return layers


def net_parameter() -> message.Message:
    """An empty ``NetParameter``."""
    return message_factory.GetMessageClass(
        _POOL.FindMessageTypeByName(f"{_PACKAGE}.NetParameter")
    )()


def _text(name: bytes | int) -> str:
    """A name as the file has it; bytes that are no text are shown as such."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)


def _array(path: epath.Path, name: str, blob: message.Message) -> np.ndarray:
    if blob.HasField("shape"):
        shape = tuple(blob.shape.dim)
    else:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    if len(shape) > _MOST_DIMENSIONS:
        raise WeightFileError(f"{path}: layer {name} has an array of {len(shape)} dimensions")
    values = np.asarray(blob.data or blob.double_data, np.float32)
    if min(shape, default=1) < 0 or values.size != math.prod(shape):
        raise WeightFileError(
            f"{path}: layer {name} has {values.size} values for a shape of {shape}; is the "
            "download complete?"
        )
    return values.reshape(shape)


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="deblur_jax/caffe.proto", package=_PACKAGE, syntax="proto2"
    )
    for message_name, fields in _MESSAGES.items():
        described = file.message_type.add(name=message_name)
        for name, number, repeated, kind in fields:
            label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = kind
                field.options.packed = repeated
    return file


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_describe())
