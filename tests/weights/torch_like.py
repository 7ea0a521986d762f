"""Writes what ``torch.save`` writes, without PyTorch: names are written as they are."""

import io
import pickle
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
}


class Global:
    """A name that a pickle asks for."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """A function that a pickle calls, or an object that it builds, by name."""

    def __init__(self, name, *arguments, state=None, new=False):
        self.name, self.arguments, self.state, self.new = name, arguments, state, new


class Tensor:
    """An array that is stored as a tensor, of another dtype or with other strides if asked for."""

    def __init__(self, values, dtype=None, shape=None, strides=None, parameter=False):
        self.values = np.asarray(values)
        self.dtype = dtype or self.values.dtype.name
        self.shape = self.values.shape if shape is None else shape
        own = tuple(s // self.values.itemsize for s in self.values.strides)
        self.strides = own if strides is None else strides
        self.parameter = parameter

    def raw(self):
        kind = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype
        return self.values.astype(kind).tobytes()


class _Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def __init__(self, stream):
        super().__init__(stream, 2)
        self.storages = []

    def persistent_id(self, value):
        if isinstance(value, tuple) and value and value[0] == "storage of":
            tensor = value[1]
            self.storages.append(tensor)
            of_type = Global("torch", STORAGES[tensor.dtype])
            key = str(len(self.storages) - 1)
            return ("storage", of_type, key, "cuda:0", tensor.values.size)
        return None

    def save_global_name(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())

    dispatch[Global] = save_global_name

    def save_call(self, value):
        module, _, name = value.name.rpartition(".")
        self.save_global_name(Global(module, name))
        self.save(value.arguments)
        self.write(pickle.NEWOBJ if value.new else pickle.REDUCE)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[Call] = save_call

    def save_tensor(self, value):
        call = Call(
            "torch._utils._rebuild_tensor_v2",
            ("storage of", value),
            0,
            value.shape,
            value.strides,
            False,
            Call("collections.OrderedDict"),
        )
        if value.parameter:
            call = Call("torch._utils._rebuild_parameter", call, True, None)
        self.save(call)

    dispatch[Tensor] = save_tensor


def save(content, path, pickled=None):
    """Writes a zip as PyTorch 1.6 and later do; ``pickled`` replaces the pickle."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue() if pickled is None else pickled)
        for key, tensor in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{key}", tensor.raw())
        archive.writestr("archive/version", "3\n")
    return path
