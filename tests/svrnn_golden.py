"""What the official SVRNN (Caffe) computes on weights that anyone can regenerate.

The ``.npz`` files in ``goldens/svrnn`` were recorded from the official Caffe code. Parameter k, in
the order of ``CONVOLUTIONS``, weight then bias, is drawn from PCG64(1000 + k), the input from
PCG64(7), the target from PCG64(8). Caffe's kernels are OIHW, and transposed in space: the official
code reads images column by column.
"""

import functools
from pathlib import Path

import numpy as np
from flax import nnx

from deblur_jax.models import ComputeConfig, SVRNNConfig, build_model
from deblur_jax.weights.official import (
    CONVOLUTIONS,
    convolutions_from_params,
    params_from_convolutions,
)
from tests.golden import zeros

FOLDER = Path(__file__).parent / "goldens" / "svrnn"

_GAINS = {"convgd2_2": 1.0, "convd1_1": 1.0, "convd1_2": 0.5} | {
    f"conv_rnn{stage}": 0.7 for stage in range(1, 5)
}


@functools.cache
def recorded(name: str):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


@functools.cache
def network(backend: str = "auto"):
    """The graphdef, precise, and the golden parameters."""
    compute = ComputeConfig(precision="highest", backend=backend)
    graphdef, params = zeros(lambda: build_model(SVRNNConfig(), rngs=nnx.Rngs(0), compute=compute))
    golden = {}
    for layer, (name, (kernel, bias)) in enumerate(convolutions_from_params(params).items()):
        gain = _GAINS.get(name, np.sqrt(2))
        values = rng(1000 + 2 * layer).standard_normal(kernel.shape, np.float32)
        kernel = values * np.float32(gain * np.sqrt(1 / np.prod(kernel.shape[1:])))
        bias = rng(1001 + 2 * layer).standard_normal(bias.shape, np.float32) * np.float32(0.05)
        golden[name] = kernel, bias
    assert list(golden) == list(CONVOLUTIONS)
    return graphdef, params_from_convolutions(golden, SVRNNConfig())


def by_official_name(params) -> dict[str, np.ndarray]:
    """Parameters, or a tree like them, by the names and in the layout of Caffe."""
    named = {}
    for name, (kernel, bias) in convolutions_from_params(params).items():
        named[f"{name}.weight"] = kernel
        named[f"{name}.bias"] = bias
    return named


def blurred(shape=(1, 64, 96, 3)):
    return rng(7).random(shape, np.float32)


def sharp(shape=(1, 64, 96, 3)):
    return rng(8).random(shape, np.float32)


def rng(seed):
    return np.random.Generator(np.random.PCG64(seed))
