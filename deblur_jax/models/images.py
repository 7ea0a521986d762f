"""What every network asks of its input."""

import jax

IMAGE_CHANNELS = 3


def check_images(images: jax.Array, size_multiple: int) -> None:
    """Checks a batch for (b, h, w, 3) with sides that are multiples of ``size_multiple``.

    Raises:
        ValueError: saying what it is instead.
    """
    if images.ndim != 4 or images.shape[-1] != IMAGE_CHANNELS:
        raise ValueError(f"expected images of shape (b, h, w, 3), got {images.shape}")
    _, h, w, _ = images.shape
    if h % size_multiple or w % size_multiple:
        raise ValueError(
            f"height and width must be multiples of {size_multiple}, got {h}x{w}: "
            "deblur_jax.Restorer pads pictures of any size"
        )
