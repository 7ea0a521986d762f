"""The geometric self-ensemble: rotated and mirrored copies are restored and averaged.

MIMO-UNet++ is MIMO-UNet+ with it. The official code takes the four rotations (``rot4``); the work
that the paper cites for it (EDSR) takes all eight rotations and reflections (``dihedral8``).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ENSEMBLES = {
    "rot4": tuple((quarters, False) for quarters in range(4)),
    "dihedral8": tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4)),
}
"""The copies by name: how many quarter turns, and whether mirrored before."""

_PIXELS_AT_ONCE = 2**21
"""Copies are restored as one batch up to so many pixels: two images of 1280x720."""

RestoreFn = Callable[[Any, jax.Array], jax.Array]


def with_ensemble(restore: RestoreFn, name: str) -> RestoreFn:
    """A restoring function that averages over an ensemble.

    Copies of one shape, upright or lying, share a batch as far as memory allows.

    Args:
        restore: ``(params, blurred) -> restored``, (b, h, w, 3) each.
        name: of ``ENSEMBLES``.

    Returns:
        A function like ``restore``; b times as many copies pass through ``restore``.
    """

    def restore_copies(params: Any, blurred: jax.Array) -> jax.Array:
        b, h, w, _ = blurred.shape
        at_once = max(1, _PIXELS_AT_ONCE // (b * h * w))
        total = jnp.zeros_like(blurred)
        for lying in (False, True):
            copies = [copy for copy in ENSEMBLES[name] if copy[0] % 2 == lying]
            for start in range(0, len(copies), at_once):
                some = copies[start : start + at_once]
                batch = jnp.concatenate([_transformed(blurred, *copy) for copy in some])
                restored = jnp.split(restore(params, batch), len(some))
                for copy, result in zip(some, restored, strict=True):
                    total += _inverse(result, *copy)
        return total / len(ENSEMBLES[name])

    return restore_copies


def _transformed(images: jax.Array, quarters: int, mirrored: bool) -> jax.Array:
    images = images[:, :, ::-1] if mirrored else images
    return jnp.rot90(images, quarters, axes=(1, 2))


def _inverse(images: jax.Array, quarters: int, mirrored: bool) -> jax.Array:
    images = jnp.rot90(images, -quarters, axes=(1, 2))
    return images[:, :, ::-1] if mirrored else images
