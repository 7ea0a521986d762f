"""Which table of operations a platform takes: chosen once, when a network is built."""

from deblur_jax.ops.cpu import CPU
from deblur_jax.ops.gpu import GPU, GPU_INTERPRETED
from deblur_jax.ops.operations import PLAIN, Operations
from deblur_jax.ops.tpu import TPU, TPU_INTERPRETED

AUTO = "auto"
BACKENDS = {table.name: table for table in (PLAIN, CPU, GPU, GPU_INTERPRETED, TPU, TPU_INTERPRETED)}
"""Tables of operations by name."""

_PLATFORMS = {"cpu": CPU, "gpu": GPU, "cuda": GPU, "tpu": TPU}


def operations_for(backend: str, platform: str) -> Operations:
    """The operations to build a network of.

    Args:
        backend: a name in ``BACKENDS``, or "auto" for the one of the platform.
        platform: of the device that the network will run on, as JAX names it; one that is not known
            here takes the plain operations.
    """
    if backend == AUTO:
        return _PLATFORMS.get(platform, PLAIN)
    return BACKENDS[backend]
