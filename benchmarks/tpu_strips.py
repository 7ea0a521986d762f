"""How many strips of an image suit a TPU: ``python -m benchmarks.tpu_strips``.

Compiles a network's stacks of eight residual blocks, at its three sizes and for one chip of v5e,
with the images cut into several numbers of strips, and prints the compiler's estimates. The best
numbers are the table in ``deblur_jax/ops/tpu/strips.py``. It needs libtpu and no TPU.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import SingleDeviceSharding

from deblur_jax.models import ComputeConfig
from deblur_jax.models.mimo_unet import EncoderBlock
from deblur_jax.ops.tpu.packed import pack, unpack
from deblur_jax.ops.tpu.strips import SUBLANES
from deblur_jax.planning.chips import CHIPS, topology_devices
from deblur_jax.planning.estimate import estimate_time
from deblur_jax.planning.program_text import parse_program

_BLOCKS, _CHANNELS, _SIZES = 8, 32, 3
_PROGRAMS = [
    *[("bfloat16", images, 256, 256) for images in (1, 2, 4, 8, 16, 32)],
    *[("float32", 1, 720, 1280), ("float32", 1, 1088, 1920)],
]
"""Patches in training, with the gradient, and photographs in restoration, without."""
_COUNTS = (1, 2, 4, 8, 16, 32)


def main() -> None:
    """Prints a line for each program, and its entry of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    for dtype, images, height, width in _PROGRAMS:
        counts = [count for count in _COUNTS if images * count % SUBLANES == 0]
        seconds = {c: estimated_seconds(dtype, images, height, width, c) for c in counts}
        best = min(seconds, key=seconds.__getitem__)
        smallest = images, height >> (_SIZES - 1), width >> (_SIZES - 1)
        print(f"{dtype}, {images} of {height}x{width}, milliseconds by strips: ", end="")
        print(", ".join(f"{c}: {1e3 * s:.2f}" for c, s in seconds.items()))
        print(f'    ({smallest}, "{dtype}"): {best},', flush=True)


def estimated_seconds(dtype: str, images: int, height: int, width: int, strips: int) -> float:
    """Of the stacks of all sizes; with their gradient in bfloat16, as in training."""
    return sum(
        _seconds_of_a_stack(
            jax.ShapeDtypeStruct(
                (images, height >> size, width >> size, _CHANNELS << size), dtype, sharding=_chip()
            ),
            functools.partial(
                pack, channels=_CHANNELS << size, halvings=_SIZES - 1 - size, strips=strips
            ),
        )
        for size in range(_SIZES)
    )


def _seconds_of_a_stack(maps: jax.ShapeDtypeStruct, packing: Callable) -> float:
    compute = ComputeConfig(dtype=str(maps.dtype), precision="default", backend="tpu")
    channels, resolved = maps.shape[-1], compute.resolve("tpu")
    stack = nnx.eval_shape(
        lambda: EncoderBlock(channels, _BLOCKS, rngs=nnx.Rngs(0), compute=resolved)
    )
    graphdef, params = nnx.split(stack)
    placed = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=_chip()), params
    )

    def outputs(params: nnx.State, maps: jax.Array) -> jax.Array:
        return unpack(nnx.merge(graphdef, params)(packing(maps)))

    def loss(params: nnx.State, maps: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(outputs(params, maps).astype(jnp.float32)))

    trains = maps.dtype == jnp.bfloat16
    program = jax.jit(jax.grad(loss, argnums=(0, 1)) if trains else outputs)
    text = program.lower(placed, maps).compile().as_text()
    estimate = estimate_time(parse_program(text), CHIPS["v5e"])
    if estimate is None:
        raise SystemExit("this libtpu writes no estimate into its programs")
    return estimate.seconds


@functools.cache
def _chip() -> SingleDeviceSharding:
    return SingleDeviceSharding(topology_devices("v5e:2x2")[0])


if __name__ == "__main__":
    main()
