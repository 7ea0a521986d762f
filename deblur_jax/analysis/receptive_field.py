"""How far a network sees: the effective receptive field, by gradients of one output pixel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deblur_jax.inference.restorer import make_restore_fn
from deblur_jax.models import ComputeConfig, NetworkConfig, SVRNNConfig, abstract_model

_SHARES = (0.5, 0.9, 0.99)
_NEGLIGIBLE = 1e-4


def effective_receptive_field(
    model: NetworkConfig, params: nnx.State, image: np.ndarray
) -> np.ndarray:
    """The influence of every input pixel on the output's centre.

    Args:
        model: the config of the network.
        params: its parameters.
        image: (h, w, 3) float32 in [0, 1], sides multiples of the network's ``size_multiple``.

    Returns:
        (h, w): the absolute gradients of the centre's red + green + blue, summed over the input's
        channels, with a sum of 1.
    """
    restore = make_restore_fn(
        nnx.graphdef(abstract_model(model, compute=ComputeConfig(precision="highest")))
    )
    row, column = image.shape[0] // 2, image.shape[1] // 2

    @jax.jit
    def influence(params: nnx.State, image: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda x: restore(params, x[None])[0, row, column].sum())(image)
        magnitude = jnp.abs(gradient).sum(-1)
        return magnitude / magnitude.sum()

    return np.asarray(influence(params, jnp.asarray(image, jnp.float32)))


def without_recurrences(model: SVRNNConfig) -> SVRNNConfig:
    """The same SVRNN with recurrences that return their input."""
    return dataclasses.replace(model, gate_limit=0.0)


def extent(influence: np.ndarray) -> dict[str, float]:
    """Numbers for a receptive field.

    Returns:
        ``radius_50``, ``radius_90``, ``radius_99``: of the smallest squares around the centre that
        hold these percentages of the influence, in pixels; ``reach``: the greatest distance, along
        an axis, of a pixel with at least 1e-4 of the largest influence.
    """
    rows, columns = np.indices(influence.shape)
    centre = influence.shape[0] // 2, influence.shape[1] // 2
    distance = np.maximum(np.abs(rows - centre[0]), np.abs(columns - centre[1]))
    by_distance = np.bincount(distance.ravel(), weights=influence.ravel()).cumsum()
    by_distance /= by_distance[-1]
    numbers = {
        f"radius_{round(100 * share)}": int(np.searchsorted(by_distance, share))
        for share in _SHARES
    }
    reach = distance[influence >= _NEGLIGIBLE * influence.max()].max()
    return {**numbers, "reach": int(reach)}
