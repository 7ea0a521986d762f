"""Random patches of a pair: the same place and changes for both images."""

import numpy as np
from PIL import Image

from deblur_jax.data.layouts import PairError

_RESCALED = (0.9, 1.1)


def random_patch(
    pair: dict[str, np.ndarray], rng: np.random.Generator, size: int
) -> dict[str, np.ndarray]:
    """Cuts a random ``size`` x ``size`` patch and mirrors it, left to right, half of the time.

    Args:
        pair: ``blurred`` and ``sharp``, each (h, w, 3).

    Raises:
        PairError: if the images are smaller than the patch.
    """
    patch = _random_crop(pair, rng, size)
    step = -1 if rng.random() < 0.5 else 1
    return {key: image[:, ::step] for key, image in patch.items()}


def augmented_patch(
    pair: dict[str, np.ndarray], rng: np.random.Generator, size: int
) -> dict[str, np.ndarray]:
    """Cuts a random patch as SVRNN's training patches were made.

    It is rescaled by 0.9 to 1.1 (bicubic), rotated by quarter turns, mirrored half of the time, and
    its colour channels are permuted.

    Args:
        pair: ``blurred`` and ``sharp``, each (h, w, 3) uint8.
        size: of the patch, in pixels; the images must be larger by 1/0.9.

    Raises:
        PairError: if the images are smaller than that.
    """
    source_size = round(size / rng.uniform(*_RESCALED))
    patch = _random_crop(pair, rng, source_size)
    quarters, step = int(rng.integers(4)), int(rng.choice([-1, 1]))
    colours = rng.permutation(3)

    def changed(image: np.ndarray) -> np.ndarray:
        rescaled = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
        return np.rot90(np.asarray(rescaled), quarters)[:, ::step, colours]

    return {key: changed(image) for key, image in patch.items()}


def _random_crop(
    pair: dict[str, np.ndarray], rng: np.random.Generator, size: int
) -> dict[str, np.ndarray]:
    height, width = pair["sharp"].shape[:2]
    if min(height, width) < size:
        raise PairError(
            f"a training image is {width}x{height}, smaller than {size} pixels: "
            "set a smaller patch_size"
        )
    top = rng.integers(0, height - size + 1)
    left = rng.integers(0, width - size + 1)
    return {key: image[top : top + size, left : left + size] for key, image in pair.items()}
