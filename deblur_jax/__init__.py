"""Image deblurring in JAX and Flax: MIMO-UNet, MIMO-UNet+ and SVRNN.

``Restorer.load(weights)(picture)`` restores a picture; ``build_model`` makes a network of your own.
"""

from deblur_jax.inference import Restorer
from deblur_jax.models import build_model

__all__ = ["Restorer", "build_model"]
