"""Aligns a restored image to the sharp one, as the RealBlur benchmark does (Rim et al. 2020).

RealBlur's pairs were taken by two cameras through one lens; the misalignment that is
left costs about 2.4 dB unless it is undone before measuring. OpenCV does that, and is needed for
nothing else: ``pip install opencv-python-headless``.
"""

from types import ModuleType
from typing import NamedTuple

import numpy as np

from deblur_jax.errors import UserError

_ITERATIONS = 100
_SMOOTHING = 5
"""Size in pixels of the filter before the images are compared."""


class AlignmentError(UserError, ImportError):
    """OpenCV is missing."""


class Aligned(NamedTuple):
    """Two aligned images, and the mask of the pixels where both are known.

    Attributes:
        restored: warped and its brightness matched, 0 outside the mask; (h, w, 3) float32.
        sharp: 0 outside the mask.
        mask: (h, w, 1) float32, 1 where the warped image covers the sharp one.
        converged: False where no alignment was found: then the image is not warped.
    """

    restored: np.ndarray
    sharp: np.ndarray
    mask: np.ndarray
    converged: bool


def align(restored: np.ndarray, sharp: np.ndarray) -> Aligned:
    """Warps ``restored`` by the homography that correlates best with ``sharp`` (ECC).

    Args:
        restored, sharp: (h, w, 3) float32 in [0, 1].

    Raises:
        AlignmentError: without OpenCV.
    """
    cv2 = opencv()
    height, width = sharp.shape[:2]
    energy = float(np.sum(restored * restored, dtype=np.float64))
    factor = float(np.sum(sharp * restored, dtype=np.float64)) / energy if energy else 1.0
    restored = (factor * restored).astype(np.float32)
    homography = np.eye(3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, 0)
    greys = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (sharp, restored)]
    try:
        _, homography = cv2.findTransformECC(
            *greys, homography, cv2.MOTION_HOMOGRAPHY, stop, None, _SMOOTHING
        )
        converged = bool(np.isfinite(homography).all())
    except cv2.error:
        converged = False
    if not converged:
        return Aligned(restored, sharp, np.ones((height, width, 1), np.float32), False)

    size = (width, height)
    warped = cv2.warpPerspective(
        restored,
        homography,
        size,
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    mask = cv2.warpPerspective(
        np.ones((height, width), np.float32),
        homography,
        size,
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )[..., None]
    return Aligned(warped * mask, sharp * mask, mask, True)


def opencv() -> ModuleType:
    """OpenCV.

    Raises:
        AlignmentError: if it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise AlignmentError(
            "mode realblur aligns images with OpenCV: pip install opencv-python-headless"
        ) from None
    return cv2
