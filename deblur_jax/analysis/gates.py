"""The gates of SVRNN's recurrences, pixel by pixel."""

import jax
import numpy as np
from flax import nnx

from deblur_jax.models import ComputeConfig, SVRNNConfig, abstract_model
from deblur_jax.ops.recurrence import DIRECTIONS


def gate_maps(model: SVRNNConfig, params: nnx.State, image: np.ndarray) -> np.ndarray:
    """The gates of all stages and directions at every pixel.

    Args:
        model: the config of the network.
        params: its parameters.
        image: (h, w, 3) float32 in [0, 1], sides multiples of 8.

    Returns:
        (stages, directions, h/2, w/2, c) in (-1, 1), the directions in the order of
        ``DIRECTIONS``.
    """
    graphdef = nnx.graphdef(abstract_model(model, compute=ComputeConfig(precision="highest")))
    gates = jax.jit(lambda p, x: nnx.merge(graphdef, p).gates(x))(params, image[None])
    stages = [np.split(np.asarray(stage[0]), len(DIRECTIONS), axis=-1) for stage in gates]
    return np.array(stages)
