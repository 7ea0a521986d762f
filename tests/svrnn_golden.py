"""What the official SVRNN (Caffe) computes on weights that anyone can regenerate.

The ``.npz`` files in ``goldens/svrnn`` were recorded from the official Caffe code. Parameter k, in
the order of ``CONVOLUTIONS``, weight then bias, is drawn from PCG64(1000 + k), the input from
PCG64(7), the target from PCG64(8). Caffe's kernels are OIHW, and transposed in space: the official
code reads pictures column by column.
"""

import functools
from pathlib import Path

import numpy as np
from flax import nnx

from deblur_jax.convert.caffe import CONVOLUTIONS
from deblur_jax.models.svrnn import SVRNN

FOLDER = Path(__file__).parent / "goldens" / "svrnn"

_GAINS = {"convgd2_2": 1.0, "convd1_1": 1.0, "convd1_2": 0.5} | {
    f"conv_rnn{stage}": 0.7 for stage in range(1, 5)
}


@functools.cache
def recorded(name: str):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


@functools.cache
def network():
    """The graphdef, precise, and the golden parameters."""
    graphdef, params = nnx.split(SVRNN(rngs=nnx.Rngs(0), precision="highest"))
    shapes = {path: leaf.shape for path, leaf in nnx.to_flat_state(params)}
    golden = {}
    for layer, (name, path) in enumerate(CONVOLUTIONS.items()):
        oihw = shapes[*path, "kernel"][::-1]
        gain = _GAINS.get(name, np.sqrt(2))
        kernel = rng(1000 + 2 * layer).standard_normal(oihw, np.float32)
        kernel = kernel * np.float32(gain * np.sqrt(1 / np.prod(oihw[1:])))
        bias = rng(1001 + 2 * layer).standard_normal(oihw[0], np.float32) * np.float32(0.05)
        golden[*path, "kernel"] = nnx.Param(kernel.transpose())
        golden[*path, "bias"] = nnx.Param(bias)
    return graphdef, nnx.from_flat_state(golden)


def by_official_name(params) -> dict[str, np.ndarray]:
    """Parameters, or a tree like them, by the names and in the layout of Caffe."""
    arrays = {path: np.asarray(leaf) for path, leaf in nnx.to_flat_state(nnx.as_pure(params))}
    named = {}
    for name, path in CONVOLUTIONS.items():
        named[f"{name}.weight"] = arrays[*path, "kernel"].transpose()
        named[f"{name}.bias"] = arrays[*path, "bias"]
    return named


def blurred(shape=(1, 64, 96, 3)):
    return rng(7).random(shape, np.float32)


def sharp(shape=(1, 64, 96, 3)):
    return rng(8).random(shape, np.float32)


def rng(seed):
    return np.random.Generator(np.random.PCG64(seed))
