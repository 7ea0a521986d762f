"""One exposure: what a moving camera sees at each sub-frame, and the average of it.

A scene is a list of layers, background first. Each layer is at another place in each sub-frame; the
sub-frames, each composited back to front, are averaged. So moving edges cover and uncover what is
behind them, as they do in front of a real camera.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from PIL import Image

GAMMA = 2.2
"""Linear light is the stored value to this power."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """An image with transparency, and where it is at each sub-frame.

    ``poses`` map coordinates of the layer to those of the frame: (n, 2, 3) affine maps, or
    (n, 3, 3) homographies. At the middle sub-frame a pose moves by whole pixels, so that the sharp
    image is not resampled.
    """

    image: Image.Image
    poses: np.ndarray


def subframes(layers: list[Layer], size: int) -> Iterator[np.ndarray]:
    """The sub-frames of an exposure, each (size, size, 3) float32 in [0, 1]."""
    for t in range(len(layers[0].poses)):
        yield np.asarray(_composite(layers, t, size), np.float32) / 255.0


def averaged(
    layers: list[Layer], size: int, *, linear: bool, highlights: float = 0.0, middle: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Exposes a scene.

    Args:
        layers: background first.
        size: height and width of the frame, in pixels.
        linear: average in linear light; else the stored values.
        highlights: how much brighter than white the brightest places of the scene are, in linear
            light; what is above 1 is clipped after averaging, as a sensor does.
        middle: how many sub-frames, an odd number, the sharp image is the mean of.

    Returns:
        The mean of all sub-frames, and that of the middle ones; each (size, size, 3) float32.
    """
    total = np.zeros((size, size, 3), np.float32)
    of_middle = np.zeros_like(total)
    count = len(layers[0].poses)
    for t, frame in enumerate(subframes(layers, size)):
        if highlights:
            frame = _brightened(frame, highlights)
        light = frame**GAMMA if linear else frame
        total += light
        if abs(t - count // 2) <= middle // 2:
            of_middle += light
    return _stored(total / count, linear), _stored(of_middle / middle, linear)


def _stored(light: np.ndarray, linear: bool) -> np.ndarray:
    return np.minimum(light ** (1.0 / GAMMA) if linear else light, 1.0)


def _brightened(frame: np.ndarray, highlights: float) -> np.ndarray:
    """Makes what is nearly white brighter than white, in steps too small to be seen."""
    nearly_white = np.clip((frame.max(-1, keepdims=True) - 0.8) / 0.2, 0.0, 1.0) ** 2
    return frame * (1.0 + highlights * nearly_white) ** np.float32(1.0 / GAMMA)


def inverse_affine(pose: np.ndarray) -> np.ndarray:
    """The inverse of an affine map (2, 3)."""
    inverse = np.linalg.inv(pose[:, :2])
    return np.concatenate([inverse, -inverse @ pose[:, 2:]], axis=1)


def _composite(layers: list[Layer], t: int, size: int) -> Image.Image:
    frame = Image.new("RGB", (size, size))
    for position, layer in enumerate(layers):
        seen = _transformed(layer.image, layer.poses[t], size)
        if position == 0:
            frame = seen
        else:
            frame.paste(seen, mask=seen.getchannel("A"))
    return frame


def _transformed(image: Image.Image, pose: np.ndarray, size: int) -> Image.Image:
    if len(pose) == 2:
        kind, coefficients = Image.Transform.AFFINE, inverse_affine(pose).ravel()
    else:
        inverse = np.linalg.inv(pose)
        kind, coefficients = Image.Transform.PERSPECTIVE, (inverse / inverse[2, 2]).ravel()[:8]
    return image.transform((size, size), kind, tuple(coefficients), Image.Resampling.BICUBIC)
