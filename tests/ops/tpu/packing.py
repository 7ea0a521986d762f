"""What tests of packed feature maps share."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.ops.operations import PLAIN, Operations
from deblur_jax.ops.tpu import TPU_INTERPRETED
from deblur_jax.ops.tpu.packed import Packed, unpack


def random_arrays(*shapes: Sequence[int]) -> list[jax.Array]:
    """Of standard normal values, the same ones each time."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in shapes]


def random_kernel(size: int, i: int, o: int) -> jax.Array:
    """(size, size, i, o), of a scale that keeps values near 1."""
    (kernel,) = random_arrays((size, size, i, o))
    return kernel / np.sqrt(size * size * i)


def assert_same(
    compute: Callable[..., Any],
    maps: Sequence[jax.Array],
    forms: Sequence[dict[str, int]],
    parameters: Sequence[jax.Array] = (),
) -> None:
    """The packed form computes what the plain one does: outputs, all gradients, zeros beyond.

    Args:
        compute: ``(operations, maps, parameters) -> a feature map``.
        maps: NHWC arrays.
        forms: of each, as ``Operations.enter`` takes them.
        parameters: to differentiate by as well.
    """

    def of(operations: Operations) -> Any:
        def entered(maps: Sequence[jax.Array], parameters: Sequence[jax.Array]) -> Any:
            inputs = [operations.enter(a, **form) for a, form in zip(maps, forms, strict=True)]
            return compute(operations, inputs, parameters)

        def loss(maps: Sequence[jax.Array], parameters: Sequence[jax.Array]) -> jax.Array:
            output = operations.leave(entered(maps, parameters))
            (seeds,) = random_arrays(output.shape)
            return jnp.sum(seeds * jnp.sin(output))

        @jax.jit
        def both(maps: Sequence[jax.Array], parameters: Sequence[jax.Array]) -> Any:
            return entered(maps, parameters), jax.grad(loss, argnums=(0, 1))(maps, parameters)

        return both(list(maps), list(parameters))

    (packed, actual), (expected, expected_gradients) = of(TPU_INTERPRETED), of(PLAIN)
    assert isinstance(packed, Packed)
    assert_close(unpack(packed), expected)
    assert_zero_beyond(packed)
    for gradient, other in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected_gradients), strict=True
    ):
        assert_close(gradient, other)


def assert_close(actual: jax.Array, expected: jax.Array) -> None:
    """To 1e-5 of the largest value."""
    atol = 1e-5 * float(jnp.abs(expected).max())
    np.testing.assert_allclose(actual, expected, atol=atol, rtol=0)


def assert_zero_beyond(packed: Packed) -> None:
    """All the values that ``unpack`` leaves out."""
    inside = jnp.sum(jnp.square(unpack(packed)))
    np.testing.assert_allclose(jnp.sum(jnp.square(packed.array)), inside, rtol=1e-5)
