"""Into how many strips of rows a TPU's packed maps are cut.

The table holds what ``python -m benchmarks.tpu_strips`` found: the numbers for which libtpu 0.0.42
estimates the least time of MIMO-UNet's stacks on v5e. What is not in it goes by a rule.
"""

import jax.numpy as jnp
import jax.typing

SUBLANES = 8
"""Of a register: the batch, of which strips are a part, lies over them."""

BEST: dict[tuple[tuple[int, int, int], str], int] = {
    ((1, 64, 64), "bfloat16"): 8,
    ((2, 64, 64), "bfloat16"): 8,
    ((4, 64, 64), "bfloat16"): 8,
    ((8, 64, 64), "bfloat16"): 1,
    ((16, 64, 64), "bfloat16"): 1,
    ((32, 64, 64), "bfloat16"): 1,
    ((1, 180, 320), "float32"): 8,
    ((1, 272, 480), "float32"): 8,
}
"""By images, height and width of a network's smallest map, and the dtype."""


def strips_of(smallest: tuple[int, int, int], dtype: jax.typing.DTypeLike) -> int:
    """The strips of each image: by the table, else by the rule.

    The rule is 1 where there are 8 images or a multiple of that, else 8. Two strips of each of 4
    images fill the registers too, but by the estimate they take 1.4 times as long as 8.

    Args:
        smallest: images, height and width of the smallest map that a network makes of them. The
            maps of all its sizes are cut at the same places.
        dtype: of the maps.
    """
    rule = 1 if smallest[0] % SUBLANES == 0 else SUBLANES
    return BEST.get((smallest, jnp.dtype(dtype).name), rule)
