"""Restores images on all devices at once, one image on each."""

import concurrent.futures
import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from deblur_jax.inference.sizes import Size


class Restorer(Protocol):
    """What is needed of ``inference.restorer.Restorer``."""

    params: Any
    pure_fn: Callable[[Any, jax.Array], jax.Array]

    def plan_sizes(self, sizes: Iterable[Size], max_compilations: int) -> None:
        """Plans for images of these sizes."""

    def restore_in_place(
        self, pixels: np.ndarray, progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """Restores an image in the memory that holds it."""

    def padded(self, batch: np.ndarray) -> np.ndarray:
        """Pads a batch to a size that the network takes."""

    def __call__(self, image: Any) -> np.ndarray:
        """Restores an image."""


class SharedRestorer:
    """A network on several devices: each image goes to the first one that is idle.

    It may be called from any thread. The device does not change the restoration.

    Args:
        restorers: the same network and weights on each device.

    Attributes:
        num_devices: how many images are restored at a time.
    """

    def __init__(self, restorers: Sequence[Restorer]):
        self.num_devices = len(restorers)
        self._all = tuple(restorers)
        self._idle: queue.Queue[Restorer] = queue.Queue()
        for one in self._all:
            self._idle.put(one)

    def plan_sizes(self, sizes: Iterable[Size], max_compilations: int) -> None:
        """Plans for images of these sizes: see ``Restorer.plan_sizes``."""
        sizes = list(sizes)
        for one in self._all:
            one.plan_sizes(sizes, max_compilations)

    def restore(self, image: Any) -> np.ndarray:
        """Restores an image as ``Restorer`` does."""
        with self._one() as restorer:
            return restorer(image)

    def restore_in_place(
        self, pixels: np.ndarray, progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """Restores an image in the memory that holds it: see ``Restorer.restore_in_place``."""
        with self._one() as restorer:
            return restorer.restore_in_place(pixels, progress)

    def restore_all(self, images: Iterable[Any]) -> list[np.ndarray]:
        """Restores images at the same time, and returns them in their order."""
        with concurrent.futures.ThreadPoolExecutor(self.num_devices) as threads:
            return list(threads.map(self.restore, images))

    @contextlib.contextmanager
    def _one(self) -> Iterator[Restorer]:
        """One that is idle, or waits for one."""
        restorer = self._idle.get()
        try:
            yield restorer
        finally:
            self._idle.put(restorer)


class ParallelRestorer:
    """Restores as many images of one size at a time as there are devices, in one program.

    Each device computes its image alone, so the number of devices does not change the results.

    Args:
        restorer: the network.
        devices: of this process; all of its devices by default.

    Attributes:
        num_devices: how many images at a time.
    """

    def __init__(self, restorer: Restorer, devices: Sequence[jax.Device] | None = None):
        devices = jax.local_devices() if devices is None else devices
        self.num_devices = len(devices)
        self._restorer = restorer
        self._restore = jax.pmap(restorer.pure_fn, in_axes=(None, 0), devices=devices)

    def start(self, images: Sequence[np.ndarray]) -> jax.Array:
        """Starts to restore images; ``finish`` waits for them.

        Args:
            images: at most ``num_devices``, of one size, (h, w, 3) float32 in [0, 1].
        """
        # Devices without an image of their own repeat the last one, so one program is enough.
        missing = self.num_devices - len(images)
        batch = np.stack([*images, *[images[-1]] * missing])
        return self._restore(self._restorer.params, self._restorer.padded(batch)[:, None])

    def finish(self, started: jax.Array, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The restored images of ``start``: (h, w, 3) float32 each, not clipped."""
        restored = np.asarray(started)[: len(images), 0]
        height, width = images[0].shape[:2]
        return list(restored[:, :height, :width])
