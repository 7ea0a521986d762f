"""Sharp material for the embedded data set: photographs, textures and shapes.

The photographs are those in scikit-image's wheel. Each scene belongs to one split, so that nothing
seen in training is met again in evaluation; the two views of the motorcycle are one scene.
"""

import functools
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

PHOTOGRAPHS = {
    "train": ("astronaut.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "validation": ("camera.png", "hubble_deep_field.jpg"),
    "test": ("chelsea.png", "coffee.png"),
}
SURFACES = {
    "train": ("brick.png", "gravel.png"),
    "validation": ("coins.png",),
    "test": ("grass.png",),
}
_EDGE_SUPERSAMPLING = 4


@functools.cache
def load_image(name: str) -> Image.Image:
    """An image of scikit-image's wheel, RGB."""
    path = Path(skimage.data.__file__).parent / name
    return Image.open(path).convert("RGB")


def photograph(rng: np.random.Generator, size: int, split: str) -> Image.Image:
    """A random ``size`` x ``size`` view of one of the split's photographs.

    The view is rescaled (never enlarged by more than the size requires), perhaps mirrored, and in
    training its colour channels are permuted, so that few photographs give many scenes.
    """
    image = load_image(rng.choice(PHOTOGRAPHS[split]))
    view = _random_view(rng, image, size)
    if split == "train":
        view = Image.fromarray(np.asarray(view)[..., rng.permutation(3)])
    return view


def texture(rng: np.random.Generator, size: int, split: str) -> Image.Image:
    """A random surface of ``size`` x ``size``: a photographed material, noise, stripes or tiles."""
    kind = rng.choice(["surface", "noise", "stripes", "tiles"])
    if kind == "surface":
        grey = _random_view(rng, load_image(rng.choice(SURFACES[split])), size).convert("L")
        pattern = np.asarray(grey, np.float32) / 255.0
    elif kind == "noise":
        pattern = _fractal_noise(rng, size)
    elif kind == "stripes":
        pattern = _stripes(rng, size)
    else:
        pattern = np.maximum(_stripes(rng, size), _stripes(rng, size))
    dark, bright = rng.uniform(0.05, 0.45, 3), rng.uniform(0.45, 0.95, 3)
    coloured = dark + pattern[..., None] * (bright - dark)
    return Image.fromarray(np.round(coloured * 255.0).astype(np.uint8))


def shape_mask(rng: np.random.Generator, size: int) -> Image.Image:
    """The outline of an object as an antialiased mask, ``size`` x ``size``, mode "L".

    A closed curve about the centre: an ellipse, a polygon or an irregular blob; some have a hole,
    through which the layers behind are seen.
    """
    fine = size * _EDGE_SUPERSAMPLING
    mask = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(mask)
    draw.polygon(_outline(rng, fine / 2, 0.45 * fine), fill=255)
    if rng.random() < 0.3:
        draw.polygon(_outline(rng, fine / 2, 0.2 * fine), fill=0)
    return mask.resize((size, size), Image.Resampling.BOX)


def _random_view(rng: np.random.Generator, image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    extent = min(shorter, size * rng.uniform(1.0, 1.8))
    left = rng.uniform(0.0, image.width - extent)
    top = rng.uniform(0.0, image.height - extent)
    box = (left, top, left + extent, top + extent)
    view = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def _fractal_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise whose amplitude falls with frequency like a photograph's, in [0, 1]."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    amplitude = 1.0 / np.maximum(frequency, 1.0 / size) ** rng.uniform(0.9, 1.5)
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
    pattern = np.fft.irfft2(spectrum, (size, size))
    return (pattern - pattern.min()) / np.ptp(pattern)


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Parallel bars of random width and direction, softened at their edges, in [0, 1]."""
    angle, period = rng.uniform(0.0, np.pi), rng.uniform(6.0, 40.0)
    y, x = np.mgrid[:size, :size]
    phase = (x * np.cos(angle) + y * np.sin(angle)) / period + rng.random()
    distance = np.abs(phase % 1.0 - 0.5) - rng.uniform(0.1, 0.4)
    return np.clip(0.5 - distance * period, 0.0, 1.0)


def _outline(rng: np.random.Generator, centre: float, radius: float) -> list[tuple[float, float]]:
    """A polygon of a few corners, or one of so many that it is a smooth irregular curve."""
    corners = int(rng.choice([3, 4, 5, 6, 120]))
    angles = 2 * np.pi * (np.arange(corners) + rng.random()) / corners
    if corners < 7:
        angles += rng.uniform(-0.3, 0.3, corners) * 2 * np.pi / corners
        radii = rng.uniform(0.6, 1.0, corners)
    else:
        radii = np.ones(corners)
        for wave in range(2, 6):
            phase = rng.uniform(0.0, 2 * np.pi)
            radii += rng.uniform(0.0, 0.5) / wave * np.cos(wave * angles + phase)
    radii *= radius / radii.max()
    squeeze = rng.uniform(0.6, 1.0)
    return [
        (centre + r * np.cos(a), centre + squeeze * r * np.sin(a))
        for r, a in zip(radii, angles, strict=True)
    ]
