"""What training does to a pair: the same to both pictures."""

import numpy as np
from PIL import Image

from deblur_jax.data.folder import PairError

_RESCALED = (0.9, 1.1)


def random_patch(
    pair: dict[str, np.ndarray], rng: np.random.Generator, size: int
) -> dict[str, np.ndarray]:
    """Cuts a random ``size`` x ``size`` patch and mirrors it, left to right, half of the time.

    Args:
        pair: ``blurred`` and ``sharp``, each (h, w, 3).

    Raises:
        PairError: if the pictures are smaller than the patch.
    """
    patch = _random_crop(pair, rng, size)
    step = -1 if rng.random() < 0.5 else 1
    return {key: picture[:, ::step] for key, picture in patch.items()}


def augmented_patch(
    pair: dict[str, np.ndarray], rng: np.random.Generator, size: int
) -> dict[str, np.ndarray]:
    """Cuts a random patch as SVRNN's training patches were made.

    Rescaled by 0.9 to 1.1 (bicubic), turned by quarters, mirrored half of the time, its colours
    permuted.

    Args:
        pair: ``blurred`` and ``sharp``, each (h, w, 3) uint8.
        size: of the patch, in pixels; of the pictures 1/0.9 as much is needed.

    Raises:
        PairError: if the pictures are smaller than that.
    """
    source_size = round(size / rng.uniform(*_RESCALED))
    patch = _random_crop(pair, rng, source_size)
    turns, step = rng.integers(4), rng.choice([-1, 1])
    colours = rng.permutation(3)

    def changed(picture):
        rescaled = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
        return np.rot90(np.asarray(rescaled), turns)[:, ::step, colours]

    return {key: changed(picture) for key, picture in patch.items()}


def _random_crop(pair, rng, size):
    height, width = pair["sharp"].shape[:2]
    if min(height, width) < size:
        raise PairError(
            f"a training picture is {width}x{height}, smaller than {size} pixels: "
            "set a smaller patch_size"
        )
    top = rng.integers(0, height - size + 1)
    left = rng.integers(0, width - size + 1)
    return {key: picture[top : top + size, left : left + size] for key, picture in pair.items()}
