"""How a network is computed: what changes speed, memory and rounding, but not the network."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from deblur_jax.config import Section, setting
from deblur_jax.ops.backend import AUTO, BACKENDS, operations_for
from deblur_jax.ops.operations import PLAIN, Operations


@dataclasses.dataclass(frozen=True)
class Compute:
    """What the constructors of networks take.

    Attributes:
        ops: the operations to use.
        dtype: of feature maps; parameters and restored images are float32.
        precision: of products, as ``jax.lax`` names it; "highest" for parity.
        remat: "blocks" has the gradient compute again what is inside residual blocks (MIMO-UNet)
            or stages of recurrences (SVRNN), instead of keeping it.
        unroll: residual blocks per iteration of the loop over a stack; True for all.
    """

    ops: Operations = PLAIN
    dtype: jnp.dtype = jnp.dtype("float32")
    precision: jax.lax.PrecisionLike = None
    remat: str | None = None
    unroll: bool | int = True


@dataclasses.dataclass(frozen=True)
class ComputeConfig(Section):
    """How a network is computed; every network takes these fields."""

    section: ClassVar[str] = "compute"

    dtype: str = setting(
        "float32",
        "of feature maps; parameters, losses and the recurrence's carry are always float32",
        choices=("float32", "bfloat16"),
    )
    precision: str | None = setting(
        None,
        "of float32 products on TPU and GPU; none is the platform's default",
        choices=("default", "high", "highest"),
    )
    remat: str | None = setting(
        None,
        'with "blocks" the gradient computes residual blocks or stages again: less memory',
        choices=("blocks",),
    )
    unroll: int | None = setting(
        None,
        "residual blocks per loop iteration; none: all on the CPU, one on TPU and GPU",
        at_least=1,
    )
    deterministic: bool = setting(
        True, "on GPUs: only operations that give the same bits in every run; false may be faster"
    )
    backend: str = setting(
        AUTO, "whose operations to use; auto: the device's own", choices=(AUTO, *BACKENDS)
    )

    def resolve(self, platform: str) -> Compute:
        """What this means on a platform: "cpu", "gpu" or "tpu"."""
        # On the CPU XLA's gradient of a convolution inside a loop is 10 to 100 times slower.
        # Elsewhere a loop compiles several times faster and needs a third of the memory.
        unroll = platform == "cpu" if self.unroll is None else self.unroll
        return Compute(
            ops=operations_for(self.backend, platform),
            dtype=jnp.dtype(self.dtype),
            precision=self.precision,
            remat=self.remat,
            unroll=unroll or 1,
        )
