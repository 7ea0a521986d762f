"""Measures of a restored picture against the sharp one."""

import jax
import jax.numpy as jnp


@jax.jit
def psnr(restored: jax.Array, sharp: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, mode ``float``, as MIMO-UNet's authors measure it.

    Pixels in [0, 1], the restored ones clamped and *not* rounded to 8 bits; one mean squared error
    over all pixels and channels of a picture. Averages are of pictures' PSNRs.

    Args:
        restored: (..., h, w, c).
        sharp: the same shape, in [0, 1].

    Returns:
        (...,) float32; infinite for equal pictures.
    """
    error = jnp.clip(restored.astype(jnp.float32), 0.0, 1.0) - sharp.astype(jnp.float32)
    return -10.0 * jnp.log10(jnp.mean(jnp.square(error), (-3, -2, -1)))
