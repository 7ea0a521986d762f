"""What training does to a pair: the same to both pictures."""

import numpy as np

from deblur_jax.data.folder import PairError


def random_patch(
    pair: dict[str, np.ndarray], rng: np.random.Generator, size: int
) -> dict[str, np.ndarray]:
    """Cuts a random ``size`` x ``size`` patch and mirrors it, left to right, half of the time.

    Args:
        pair: ``blurred`` and ``sharp``, each (h, w, 3).

    Raises:
        PairError: if the pictures are smaller than the patch.
    """
    height, width = pair["sharp"].shape[:2]
    if min(height, width) < size:
        raise PairError(
            f"a training picture is {width}x{height}, smaller than the patch: "
            f"set data.patch_size to at most {min(height, width)}"
        )
    top = rng.integers(0, height - size + 1)
    left = rng.integers(0, width - size + 1)
    step = -1 if rng.random() < 0.5 else 1
    return {
        key: picture[top : top + size, left : left + size][:, ::step]
        for key, picture in pair.items()
    }
