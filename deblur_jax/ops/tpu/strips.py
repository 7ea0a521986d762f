"""Into how many strips of rows a TPU's packed maps are cut.

The table holds what ``python -m benchmarks.tpu_strips`` found to be better than the rule: numbers
by which whole programs take less time on v5e, as libtpu 0.0.42 estimates it.
"""

import jax.numpy as jnp
import jax.typing

SUBLANES = 8
"""Of a register: the batch, of which strips are a part, lies over them."""

BEST: dict[tuple[tuple[int, int, int], str], int] = {
    # --config svrnn_gopro --images 8
    ((8, 16, 16), "bfloat16"): 1,
}
"""By images, height and width of a network's smallest map, and the dtype."""


def strips_of(smallest: tuple[int, int, int], dtype: jax.typing.DTypeLike) -> int:
    """The strips of each image: by the table, else 8, which fill the registers with any batch.

    Networks whose smallest maps have one size share an entry; any number gives the same values.

    Args:
        smallest: images, height and width of the smallest map that a network makes of them. The
            maps of all its sizes are cut at the same places.
        dtype: of the maps.
    """
    return BEST.get((smallest, jnp.dtype(dtype).name), SUBLANES)
