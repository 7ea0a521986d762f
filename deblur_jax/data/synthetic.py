"""The embedded data set: motion blur made from sharp scenes, without any download.

A scene is a background with objects in front of it. During the exposure the camera and every object
move along smooth random paths (translation, rotation, zoom). The blurred image is the average of
the sub-frames, the sharp image is the middle one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from deblur_jax.data import scenes
from deblur_jax.data.exposure import Layer, averaged, inverse_affine
from deblur_jax.data.layouts import PairError
from deblur_jax.images.files import to_uint8

SPLITS = ("train", "validation", "test")
NUM_SUBFRAMES = 25
_MAX_DISPLACEMENT = 32


@dataclasses.dataclass(frozen=True)
class Family:
    """What may move in a data set, from narrow to full."""

    fixed_motion: tuple[float, float] | None = None
    """The camera's only motion during the exposure, (x, y) in pixels; None: random paths."""
    max_objects: int = 0
    linear_light: float = 0.5
    """The share of images averaged in linear light; the others are averaged as they are."""
    max_noise: float = 2.0
    """Standard deviation of the sensor noise, at most, in units of 1/255."""


FAMILIES = {
    "pan": Family(fixed_motion=(9.0, 4.0), linear_light=0.0, max_noise=1.0),
    "shake": Family(),
    "dynamic": Family(max_objects=4),
}


class SyntheticPairs:
    """``length`` pairs of one family and split; item i is a pure function of (seed, i).

    Args:
        family: a name in ``FAMILIES``: "pan" (one fixed camera motion), "shake" (any camera path)
            or "dynamic" (any camera path, and objects with paths of their own).
        split: "train", "validation" or "test"; no scene is in two of them.
        length: number of items.
        size: height and width of the images, in pixels.
        seed: another seed gives another data set of the same kind.

    Raises:
        PairError: for an unknown family or split.
    """

    def __init__(self, family: str, split: str, *, length: int, size: int, seed: int = 0) -> None:
        if family not in FAMILIES:
            raise PairError(f"unknown family {family!r}: choose from {', '.join(FAMILIES)}")
        if split not in SPLITS:
            raise PairError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
        self._family = FAMILIES[family]
        self._split = split
        self._size = size
        self._seed = seed
        self.names = [f"{family}_{split}_{i:06d}" for i in range(length)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Item ``index``: ``blurred`` and ``sharp``, each (size, size, 3) uint8."""
        layers, rng = self.layers(index)
        linear = rng.random() < self._family.linear_light
        noise = rng.uniform(0.0, self._family.max_noise)
        return _expose(rng, layers, self._size, linear=linear, noise=noise)

    def layers(self, index: int) -> tuple[list[Layer], np.random.Generator]:
        """The scene of item ``index``, background first, and the generator as it is after it."""
        item = range(len(self))[index]
        rng = np.random.default_rng([self._seed, SPLITS.index(self._split), item])
        times = np.linspace(-0.5, 0.5, NUM_SUBFRAMES)
        return _make_layers(rng, self._family, self._split, self._size, times), rng


def _make_layers(
    rng: np.random.Generator, family: Family, split: str, size: int, times: np.ndarray
) -> list[Layer]:
    """Background first, nearest object last."""
    if family.fixed_motion is not None:
        camera = _rigid_poses(times[:, None] * np.asarray(family.fixed_motion))
    else:
        camera = _random_poses(rng, times, strength=rng.lognormal(np.log(7.5), 0.35))

    canvas = size + 2 * max(_MAX_DISPLACEMENT, _reach(camera, size))
    from_photograph = family.max_objects == 0 or rng.random() < 0.8
    background = (scenes.photograph if from_photograph else scenes.texture)(rng, canvas, split)
    layers = [Layer(background, _placed(camera, canvas, (size // 2, size // 2)))]

    for _ in range(rng.integers(1, family.max_objects + 1) if family.max_objects else 0):
        extent = int(size * rng.uniform(0.3, 0.8))
        surface = (scenes.photograph if rng.random() < 0.5 else scenes.texture)(rng, extent, split)
        surface.putalpha(scenes.shape_mask(rng, extent))
        own = _random_poses(rng, times, strength=rng.lognormal(np.log(8.0), 0.4))
        centre = np.round(rng.uniform(0.1, 0.9, 2) * size)
        layers.append(Layer(surface, _composed(camera, size, _placed(own, extent, centre))))
    return layers


def _random_poses(rng: np.random.Generator, times: np.ndarray, strength: float) -> np.ndarray:
    """A smooth path through the identity at t = 0; ``strength`` is its extent in pixels."""
    strength = min(strength, 0.9 * _MAX_DISPLACEMENT)
    direction = rng.uniform(0.0, 2 * np.pi)
    ahead = np.array([np.cos(direction), np.sin(direction)])
    aside = np.array([-ahead[1], ahead[0]])
    shift = np.outer(times, ahead) + np.outer(_bend(rng, times), aside * rng.uniform(0.0, 0.6))
    # A tenth of a radian moves the corner of an image of 256 pixels by about 18.
    angle = strength / 400.0 * rng.normal() * (times + _bend(rng, times))
    zoom = np.exp(strength / 800.0 * rng.normal() * (times + _bend(rng, times)))
    return _rigid_poses(strength * shift, angle, zoom)


def _bend(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """A smooth curve of unit size, 0 at t = 0."""
    return rng.normal() * times**2 + rng.normal() * np.sin(2 * np.pi * times) / 4


def _rigid_poses(
    shift: np.ndarray, angle: np.ndarray | None = None, zoom: np.ndarray | None = None
) -> np.ndarray:
    """Poses (n, 2, 3) about the origin from shifts (n, 2), angles (n,) and zooms (n,)."""
    angle = np.zeros(len(shift)) if angle is None else angle
    zoom = np.ones(len(shift)) if zoom is None else zoom
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    return np.stack(
        [np.stack([cos, -sin, shift[:, 0]], -1), np.stack([sin, cos, shift[:, 1]], -1)], axis=1
    )


def _placed(poses: np.ndarray, extent: int, centre: Sequence[float] | np.ndarray) -> np.ndarray:
    """Poses that act about the middle of an image of ``extent`` pixels, put at ``centre``."""
    middle = np.full(2, extent // 2)
    placed = poses.copy()
    placed[:, :, 2] += np.asarray(centre) - poses[:, :, :2] @ middle
    return placed


def _reach(camera: np.ndarray, size: int) -> int:
    """How far beyond the frame the camera sees at any sub-frame, in pixels, rounded up."""
    corners = np.array([[x, y, 1] for x in (0, size) for y in (0, size)])
    poses = _placed(camera, size, (size // 2, size // 2))
    seen = np.stack([corners @ inverse_affine(pose).T for pose in poses])
    return int(np.ceil(max(-seen.min(), seen.max() - size))) + 2


def _composed(camera: np.ndarray, size: int, poses: np.ndarray) -> np.ndarray:
    """Object poses seen through the camera's, which act about the middle of the frame."""
    camera = _placed(camera, size, (size // 2, size // 2))
    composed = camera[:, :, :2] @ poses
    composed[:, :, 2] += camera[:, :, 2]
    return composed


def _expose(
    rng: np.random.Generator, layers: list[Layer], size: int, *, linear: bool, noise: float
) -> dict[str, np.ndarray]:
    """Averages the sub-frames to ``blurred``; the middle one is ``sharp``."""
    blurred, sharp = averaged(layers, size, linear=linear)
    blurred += rng.normal(0.0, noise / 255.0, blurred.shape)
    return {"blurred": to_uint8(blurred), "sharp": to_uint8(sharp)}
