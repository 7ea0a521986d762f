"""Images of many sizes share few compiled programs, and keep their own results."""

import collections
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deblur_jax.models import ComputeConfig, NetworkConfig, abstract_model
from deblur_jax.ops.masked import masked

Size = tuple[int, int]
"""Height and width, in pixels."""


class Layout(NamedTuple):
    """The array that holds an image: images of equal layouts share a program.

    Attributes:
        is_framed: whether the array says by a fourth channel where the image is; see ``framed``.
        size: of the array.
    """

    is_framed: bool
    size: Size


def plan_sizes(sizes: Iterable[Size], max_sizes: int) -> dict[Size, Size]:
    """Maps each size to one of at most ``max_sizes`` that hold it, wasting few pixels.

    Where there are few enough sizes, each is mapped to itself. Else the two groups whose union
    wastes least are merged, until few enough are left.

    Args:
        sizes: with repetitions: a frequent size weighs more.
    """
    counts = collections.Counter(sizes)
    groups = [({size}, size, counts[size]) for size in sorted(counts)]
    while len(groups) > max_sizes:
        pairs = [(a, b) for i, a in enumerate(groups) for b in groups[:i]]
        a, b = min(pairs, key=lambda pair: _wasted_pixels(*pair))
        groups = [group for group in groups if group is not a and group is not b]
        groups.append((a[0] | b[0], _union(a[1], b[1]), a[2] + b[2]))
    return {size: common for members, common, _ in groups for size in members}


_Group = tuple[set[Size], Size, int]
"""Sizes, the common size that holds them, and how many images have one of them."""


def _wasted_pixels(a: _Group, b: _Group) -> int:
    (_, size_a, count_a), (_, size_b, count_b) = a, b
    height, width = _union(size_a, size_b)
    area_a, area_b = size_a[0] * size_a[1], size_b[0] * size_b[1]
    return height * width * (count_a + count_b) - area_a * count_a - area_b * count_b


def _union(a: Size, b: Size) -> Size:
    return max(a[0], b[0]), max(a[1], b[1])


def make_masked_restore_fn(
    model: NetworkConfig, compute: ComputeConfig, platform: str
) -> Callable[[nnx.State, jax.Array], jax.Array]:
    """A network that restores images inside larger arrays as if they ended at their own borders.

    Args:
        model: a network that ``computes_by_table``.
        compute: how.
        platform: where it will run.

    Returns:
        ``(params, framed) -> restored``, (b, h, w, 4) each: the channels of the image and its mask,
        as of ``framed``.
    """

    def restore(params: nnx.State, framed: jax.Array) -> jax.Array:
        images, mask = framed[..., :-1], framed[..., -1:]
        network = abstract_model(
            model,
            compute=compute,
            platform=platform,
            change_operations=lambda operations: masked(operations, mask),
        )
        restored = nnx.merge(nnx.graphdef(network), params)(images)[0]
        return jnp.concatenate([restored, mask], axis=-1)

    return restore


def framed(image: np.ndarray, size: Size) -> np.ndarray:
    """An image and its mask at the top left of a larger array of zeros.

    Args:
        image: (h, w, 3) float32.
        size: of the larger array.

    Returns:
        (1, H, W, 4) float32; the last channel is 1 inside the image.
    """
    height, width, channels = image.shape
    array: np.ndarray[Any, np.dtype[np.float32]] = np.zeros((1, *size, channels + 1), np.float32)
    array[0, :height, :width, :-1] = image
    array[0, :height, :width, -1] = 1
    return array
