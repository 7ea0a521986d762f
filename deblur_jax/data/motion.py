"""How a camera, and things in front of it, move during an exposure.

The camera is a pinhole whose frame has 1280x720 pixels. It rotates about its three axes and shifts
along them, each on a smooth path. A scene is made of planes at depths; a plane moves in the frame
by the homography K (R + T n' / d) K^-1, where R and T are the rotation and the shift since the
middle of the exposure, n is the normal of the plane and d its distance (Hartley and Zisserman,
Multiple View Geometry, section 13.1). Lengths are in units of the depth of the background.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

_FRAME = (1280, 720)
_FOCAL_LENGTH = 1000.0
"""In pixels: 65 degrees of view across the frame."""

Path = Callable[[np.ndarray], np.ndarray]
"""From times (n,), -0.5 to 0.5, to values (n, ...) that are 0 at time 0."""


@dataclasses.dataclass(frozen=True)
class Motion:
    """The distribution of displacements during an exposure, in pixels of a 1280x720 frame.

    Attributes:
        typical: a displacement is |N(0, typical)|, as a rule.
        largest: the limit to every displacement.
        share_large: the share of exposures with more: ``typical`` to ``largest``, evenly.
        share_still: the share of exposures without any motion.
    """

    typical: float = 18.0
    largest: float = 80.0
    share_large: float = 0.15
    share_still: float = 0.04

    def displacement(self, rng: np.random.Generator) -> float:
        """A random displacement of the camera."""
        kind = rng.random()
        if kind < self.share_still:
            return 0.0
        if kind < self.share_still + self.share_large:
            return float(rng.uniform(min(self.typical, self.largest), self.largest))
        return float(min(abs(rng.normal(0.0, self.typical)), self.largest))

    def own_displacement(self, rng: np.random.Generator) -> float:
        """A random displacement of an object by itself."""
        return float(min(abs(rng.normal(0.0, 1.1 * self.typical)), self.largest))


@dataclasses.dataclass(frozen=True)
class Plane:
    """A plane of the scene.

    Attributes:
        depth: its distance where it meets the middle of the view; the background has 1.
        tilt: by how much its inverse depth grows, across and down, over one focal length.
    """

    depth: float = 1.0
    tilt: tuple[float, float] = (0.0, 0.0)


class Camera:
    """A camera on a random path, seen through one square view of its frame.

    Args:
        rng: decides the path and where in the frame the view lies.
        displacement: of the background at the middle of the view, in pixels.
        size: height and width of the view, in pixels.
    """

    def __init__(self, rng: np.random.Generator, displacement: float, size: int) -> None:
        room = np.maximum((np.asarray(_FRAME) - size) / 2, 0)
        offset = rng.uniform(-room, room)
        self._centre = np.full(2, size / 2)
        self._principal = self._centre - offset
        by_shift = rng.random()
        path = shift_path(rng, 1.0)
        self._turning = (1.0 - by_shift) * displacement / _FOCAL_LENGTH
        self._shifting = by_shift * displacement / _FOCAL_LENGTH
        self._path = path
        strength = displacement / 18.0
        self._roll, self._roll_curve = np.deg2rad(rng.normal(0.0, 1.2)) * strength, _curve(rng)
        self._zoom, self._zoom_curve = rng.normal(0.0, 0.02) * strength, _curve(rng)

    def poses(self, times: np.ndarray, plane: Plane) -> np.ndarray:
        """The homographies (n, 3, 3) by which a plane moves in the view; identity at time 0."""
        path = self._path(times)
        roll = self._roll * self._roll_curve(times)
        # The view turns right where the camera turns left, and so on: signs are as in the frame.
        rotation = _rotations(path[:, 1] * self._turning, path[:, 0] * self._turning, roll)
        shift = np.concatenate(
            [path * self._shifting, (self._zoom * self._zoom_curve(times))[:, None]], axis=1
        )
        at_centre = (self._centre - self._principal) / _FOCAL_LENGTH
        normal = np.array([*plane.tilt, 1.0 - np.dot(plane.tilt, at_centre)])
        moving = rotation + shift[:, :, None] * normal / plane.depth
        intrinsic = np.array(
            [
                [_FOCAL_LENGTH, 0.0, self._principal[0]],
                [0.0, _FOCAL_LENGTH, self._principal[1]],
                [0.0, 0.0, 1.0],
            ]
        )
        return intrinsic @ moving @ np.linalg.inv(intrinsic)


def own_poses(rng: np.random.Generator, displacement: float, centre: np.ndarray) -> Path:
    """The path of an object by itself: it shifts, and rotates about its centre.

    Returns:
        From times to maps (n, 3, 3) in the view; identity at time 0.
    """
    path = shift_path(rng, displacement)
    angle, curve = np.deg2rad(rng.normal(0.0, 3.0)) * displacement / 18.0, _curve(rng)

    def poses(times: np.ndarray) -> np.ndarray:
        turn = angle * curve(times)
        cos, sin = np.cos(turn), np.sin(turn)
        maps = np.tile(np.eye(3), (len(times), 1, 1))
        maps[:, 0, :2] = np.stack([cos, -sin], -1)
        maps[:, 1, :2] = np.stack([sin, cos], -1)
        maps[:, :2, 2] = centre - maps[:, :2, :2] @ centre + path(times)
        return maps

    return poses


def shift_path(rng: np.random.Generator, displacement: float) -> Path:
    """A smooth path in the plane, nearly straight, of about the length ``displacement``."""
    direction = rng.uniform(0.0, 2 * np.pi)
    ahead = np.array([np.cos(direction), np.sin(direction)])
    aside = np.array([-ahead[1], ahead[0]]) * rng.uniform(0.0, 0.5)
    along, across = _curve(rng), _bend(rng)
    return lambda times: (
        displacement * (along(times)[:, None] * ahead + across(times)[:, None] * aside)
    )


def moved(poses: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (m, 2) under homographies (n, 3, 3): (n, m, 2)."""
    ahead = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ poses.swapaxes(1, 2)
    return ahead[..., :2] / ahead[..., 2:]


def _rotations(pitch: np.ndarray, yaw: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Rotations (n, 3, 3), by small angles about the axes across, down and ahead."""
    one, zero = np.ones_like(roll), np.zeros_like(roll)
    about_x = np.stack(
        [one, zero, zero, zero, np.cos(pitch), np.sin(pitch), zero, -np.sin(pitch), np.cos(pitch)]
    )
    about_y = np.stack(
        [np.cos(yaw), zero, np.sin(yaw), zero, one, zero, -np.sin(yaw), zero, np.cos(yaw)]
    )
    about_z = np.stack(
        [np.cos(roll), -np.sin(roll), zero, np.sin(roll), np.cos(roll), zero, zero, zero, one]
    )
    matrices = [axis.T.reshape(-1, 3, 3) for axis in (about_x, about_y, about_z)]
    return matrices[0] @ matrices[1] @ matrices[2]


def _curve(rng: np.random.Generator) -> Path:
    """A smooth curve that mostly rises, from about -0.5 to 0.5."""
    bend = _bend(rng)
    return lambda times: times + 0.4 * bend(times)


def _bend(rng: np.random.Generator) -> Path:
    """A smooth curve of unit size."""
    square, wave = rng.normal(), rng.normal()
    return lambda times: square * times**2 + wave * np.sin(2 * np.pi * times) / 4
