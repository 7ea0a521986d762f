"""Pairs synthesised from sharp photographs: a camera moves in front of layers cut from them."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from deblur_jax.data import scenes
from deblur_jax.data.exposure import Layer, averaged
from deblur_jax.data.motion import Camera, Motion, Path, Plane, moved, own_poses
from deblur_jax.data.photographs import Photograph, random_view
from deblur_jax.images.files import to_uint8

_SHARE_WITH_OBJECTS = 0.45
_SHARE_LINEAR = 0.5
_SHARE_HIGHLIGHTS = 0.3
_SHARE_SOFT = 0.5
_SOFTNESS = (0.3, 0.9)
"""Standard deviation, in pixels, of the blur by lens and focus that the sharp image has as well:
frames of a camera are softer than photographs reduced until they are sharp at pixel level."""
_SHARE_NOISY = 0.3
_SHARE_JPEG = 0.25
_FEWEST_SUBFRAMES = 9
_SUBFRAMES_A_PIXEL = 1.1
"""So many that no copy of an edge is seen beside the next one."""
_OPEN = (0.05, 0.6)
"""Of the time from one frame of a high-speed camera to the next: the part in which it exposes."""


@dataclasses.dataclass(frozen=True)
class Shutter:
    """Whether the light is gathered in one exposure, or in the frames of a high-speed camera.

    Data sets such as GoPro (Nah et al., CVPR 2017) are means of frames, each exposed for a part of
    the time until the next one: where things move fast, copies of an edge lie side by side. The
    sharp image is the middle frame, with the little blur of its own exposure.

    Attributes:
        frames_share: the share of pairs that are made so.
        frames: the least and the greatest number of frames; even ones are left out, since only an
            odd number has a middle one.
    """

    frames_share: float = 0.0
    frames: tuple[int, int] = (7, 13)

    def times(self, rng: np.random.Generator, displacement: float) -> tuple[np.ndarray, int]:
        """The times of the sub-frames of a random exposure.

        Args:
            rng: decides about all.
            displacement: the longest path of anything during the exposure, in pixels.

        Returns:
            Times (n,), an odd number, -0.5 to 0.5 and 0 in the middle; and how many in the middle
            the sharp image is the mean of.
        """
        if self.frames_share and rng.random() < self.frames_share:
            least, greatest = self.frames
            frames = int(rng.choice([n for n in range(least, greatest + 1) if n % 2]))
            part = rng.uniform(*_OPEN)
            each = int(_SUBFRAMES_A_PIXEL * displacement * part / frames) + 1
            each += (each + 1) % 2
            starts = (np.arange(frames) - frames // 2) / frames
            within = np.linspace(-0.5, 0.5, each) * part / frames if each > 1 else np.zeros(1)
            return (starts[:, None] + within).ravel(), each
        count = max(_FEWEST_SUBFRAMES, int(_SUBFRAMES_A_PIXEL * displacement))
        return np.linspace(-0.5, 0.5, count + (count + 1) % 2), 1


@dataclasses.dataclass(frozen=True)
class SynthesisedPair:
    """A pair, and how far its scene moved.

    Attributes:
        blurred, sharp: (size, size, 3) uint8.
        displacement: the longest path of any point of the scene, in pixels.
    """

    blurred: np.ndarray
    sharp: np.ndarray
    displacement: float


@dataclasses.dataclass(frozen=True)
class PhotographScenes:
    """Pairs made of photographs; pair i is a pure function of (seed, i) and the photographs.

    Args:
        photographs: to cut from.
        size: height and width of a pair, in pixels.
        motion: how far things move.
        seed: another one makes other pairs.
        shutter: in one exposure, or in frames.
    """

    photographs: Sequence[Photograph]
    size: int
    motion: Motion
    seed: int
    shutter: Shutter = Shutter()

    def __call__(self, index: int) -> SynthesisedPair:
        """Pair ``index``."""
        rng = np.random.default_rng([self.seed, index])
        layers, displacement, middle = self._layers(rng)
        linear = rng.random() < _SHARE_LINEAR
        highlights = rng.uniform(0.5, 4.0) if rng.random() < _SHARE_HIGHLIGHTS else 0.0
        blurred, sharp = averaged(
            layers, self.size, linear=linear, highlights=highlights, middle=middle
        )
        return SynthesisedPair(_as_recorded(rng, blurred), to_uint8(sharp), displacement)

    def _layers(self, rng: np.random.Generator) -> tuple[list[Layer], float, int]:
        camera = Camera(rng, self.motion.displacement(rng), self.size)
        tilt = rng.normal(0.0, 0.4, 2)
        planes = [Plane(tilt=(float(tilt[0]), float(tilt[1])))]
        owns: list[Path | None] = [None]
        extents, centres = [0], [np.full(2, self.size / 2)]
        objects = int(rng.integers(1, 3)) if rng.random() < _SHARE_WITH_OBJECTS else 0
        for _ in range(objects):
            planes.append(Plane(depth=float(rng.uniform(0.4, 0.95))))
            extents.append(int(self.size * rng.uniform(0.35, 0.9)))
            centres.append(np.round(rng.uniform(0.1, 0.9, 2) * self.size))
            alone = rng.random() < 0.7
            displacement = self.motion.own_displacement(rng) if alone else 0.0
            owns.append(own_poses(rng, displacement, centres[-1]))

        def poses(position: int, times: np.ndarray) -> np.ndarray:
            seen, own = camera.poses(times, planes[position]), owns[position]
            return seen if own is None else seen @ own(times)

        coarse = np.linspace(-0.5, 0.5, 17)
        paths = [
            _longest(poses(position, coarse), self.size, centre)
            for position, centre in enumerate(centres)
        ]
        times, middle = self.shutter.times(rng, max(paths))

        background = poses(0, times)
        margin = _reach(background, self.size)
        canvas = self.size + 2 * margin
        softness = rng.uniform(*_SOFTNESS) if rng.random() < _SHARE_SOFT else 0.0
        view = self._view(rng, canvas, softness)
        layers = [Layer(view, background @ _shift(-margin, -margin))]
        for position in range(1, len(planes)):
            extent = extents[position]
            view = self._view(rng, extent, softness)
            view.putalpha(scenes.shape_mask(rng, extent))
            corner = centres[position] - extent // 2
            layers.append(Layer(view, poses(position, times) @ _shift(*corner)))
        return layers, max(paths), middle

    def _view(self, rng: np.random.Generator, size: int, softness: float) -> Image.Image:
        photograph = self.photographs[int(rng.integers(len(self.photographs)))]
        view = random_view(rng, photograph, size)
        return view.filter(ImageFilter.GaussianBlur(softness)) if softness else view


def _longest(poses: np.ndarray, size: int, centre: np.ndarray) -> float:
    """The longest path of the centre and four points halfway to the corners, in pixels."""
    around = np.array([[0, 0], [-1, -1], [-1, 1], [1, -1], [1, 1]]) * size / 4
    path = moved(poses, centre + around)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=2)
    return float(steps.sum(0).max())


def _reach(poses: np.ndarray, size: int) -> int:
    """How far beyond the view the camera sees, in pixels, rounded up."""
    corners = np.array([[x, y] for x in (0.0, size) for y in (0.0, size)])
    seen = moved(np.linalg.inv(poses), corners)
    return int(np.ceil(max(-seen.min(), seen.max() - size, 0.0))) + 3


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _as_recorded(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What a camera stores of an image (h, w, 3) in [0, 1]: some with noise, some as JPEG."""
    if rng.random() < _SHARE_NOISY:
        # The variance of the noise of a sensor grows with the light.
        deviation = rng.uniform(0.3, 2.5) / 255.0
        image = image + rng.normal(size=image.shape) * deviation * np.sqrt(0.3 + 1.4 * image)
    pixels = to_uint8(image)
    if rng.random() < _SHARE_JPEG:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "jpeg", quality=int(rng.integers(85, 98)))
        pixels = np.asarray(Image.open(stream))
    return pixels
