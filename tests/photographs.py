"""Photographs for tests: noise whose amplitude falls with the frequency, and edges."""

import numpy as np
from PIL import Image


def write_photograph(path, size=(300, 400), seed=0):
    """Writes a sharp image with detail everywhere; returns it, (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    spectrum = np.exp(2j * np.pi * rng.random(frequency.shape))
    noise = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / width), (height, width))
    image = 128 + 45 * noise[..., None] / noise.std() * rng.uniform(0.7, 1.0, 3)
    for _ in range(6):
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        image[top : top + 20, left : left + 20] = rng.integers(0, 256, 3)
    pixels = np.clip(image, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels
