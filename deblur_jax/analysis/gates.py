"""What the recurrences of SVRNN are told to do, pixel by pixel."""

import jax
import numpy as np
from flax import nnx

from deblur_jax.config import Config
from deblur_jax.models import build_from_config
from deblur_jax.ops.recurrence import DIRECTIONS


def gate_maps(config: Config, params: nnx.State, picture: np.ndarray) -> np.ndarray:
    """The gates of all stages and directions at every pixel.

    Args:
        config: of an SVRNN.
        params: its parameters.
        picture: (h, w, 3) float32 in [0, 1], sides multiples of 8.

    Returns:
        (stages, directions, h/2, w/2, c) in (-1, 1), the directions in the order of
        ``DIRECTIONS``.
    """
    model = nnx.eval_shape(lambda: build_from_config(config.model, rngs=nnx.Rngs(0)))
    graphdef = nnx.graphdef(model)
    gates = jax.jit(lambda p, x: nnx.merge(graphdef, p).gates(x))(params, picture[None])
    stages = [np.split(np.asarray(stage[0]), len(DIRECTIONS), axis=-1) for stage in gates]
    return np.array(stages)
