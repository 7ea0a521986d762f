"""What the official MIMO-UNet computes on weights that anyone can regenerate.

The ``.npz`` files in ``goldens/`` were recorded from the official PyTorch code. Parameter k of its
state dict is drawn from PCG64(1000 + k), the input from PCG64(7), the target from PCG64(8).
"""

import functools
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from deblur_jax.models import ComputeConfig, build_model, model_config
from deblur_jax.weights.official import params_from_state_dict, state_dict_from_params

FOLDER = Path(__file__).parent / "goldens"
MODELS = ("mimo_unet", "mimo_unet_plus")


@functools.cache
def recorded(model_name: str):
    with np.load(FOLDER / f"{model_name}.npz") as arrays:
        return dict(arrays)


@functools.cache
def network(model_name: str, backend: str = "auto"):
    """The graphdef, precise and without dropout as in the recorded runs, and the parameters."""
    config = model_config(model_name, dropout_rate=0.0)
    compute = ComputeConfig(precision="highest", backend=backend)
    graphdef, params = zeros(lambda: build_model(config, rngs=nnx.Rngs(0), compute=compute))
    shapes = {name: array.shape for name, array in state_dict_from_params(params).items()}
    names = recorded(model_name)["param_names"].tolist()
    state_dict = {name: _parameter(1000 + k, name, shapes[name]) for k, name in enumerate(names)}
    return graphdef, params_from_state_dict(state_dict, config)


def zeros(build):
    """The graphdef of a network, and parameters of 0: quicker than random ones."""
    graphdef, shapes = nnx.split(nnx.eval_shape(build))
    return graphdef, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _parameter(seed, name, shape):
    values = _rng(seed).standard_normal(shape, np.float32)
    if len(shape) == 1:
        return np.float32(0.02) * values
    transposed = name.startswith(("feat_extract.3.", "feat_extract.4."))
    fan = shape[0 if transposed else 1] * shape[2] * shape[3]
    return values * np.float32(0.5 * np.sqrt(1 / fan))


def blurred():
    return nhwc(_rng(7).random((1, 3, 64, 96), np.float32))


def sharp():
    return nhwc(_rng(8).random((1, 3, 64, 96), np.float32))


def nhwc(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def relative_error(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def _rng(seed):
    return np.random.Generator(np.random.PCG64(seed))
