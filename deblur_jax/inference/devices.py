"""Restores images on all devices at once, one image on each."""

import concurrent.futures
import contextlib
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from deblur_jax.inference.sizes import Layout, Size


class Restorer(Protocol):
    """What is needed of ``inference.restorer.Restorer``."""

    params: Any
    pure_fns: dict[bool, Callable[[Any, jax.Array], jax.Array]]

    def layout(self, size: Size) -> Layout | None:
        """How an image of a size is laid out; None if it is restored in parts."""

    def laid_out(self, image: np.ndarray) -> np.ndarray:
        """An image in the array of its layout."""

    def plan_sizes(self, sizes: Iterable[Size], max_compilations: int) -> None:
        """Plans for images of these sizes."""

    def restore_in_place(
        self, pixels: np.ndarray, progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """Restores an image in the memory that holds it."""

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
    """Restores as many images at a time as there are devices, in one program: ``jax.pmap``.

    Each device computes its image alone, so the number of devices does not change the results.

    Args:
        restorer: the network, with its plan of sizes.
        devices: of this process; all of its devices by default.

    Attributes:
        num_devices: how many images at a time.
    """

    def __init__(self, restorer: Restorer, devices: Sequence[jax.Device] | None = None):
        devices = jax.local_devices() if devices is None else devices
        self.num_devices = len(devices)
        self._restorer = restorer
        # Each device gets its own copy of the parameters once, not with every call.
        copy = jax.pmap(lambda params, _: params, in_axes=(None, 0), devices=devices)
        self._params = copy(restorer.params, np.zeros(len(devices), np.float32))
        self._programs = {
            layout: jax.pmap(function, devices=devices)
            for layout, function in restorer.pure_fns.items()
        }

    def start(self, images: Sequence[np.ndarray]) -> jax.Array:
        """Starts to restore images; ``finish`` waits for them.

        Args:
            images: at most ``num_devices``, (h, w, 3) float32 in [0, 1], of which
                ``Restorer.layout`` says the same and not None.
        """
        # Devices without an image of their own repeat the last one, so one program is enough.
        missing = self.num_devices - len(images)
        arrays = [self._restorer.laid_out(image) for image in [*images, *[images[-1]] * missing]]
        layout = self._restorer.layout(images[0].shape[:2])
        assert layout is not None
        return self._programs[layout.is_framed](self._params, np.stack(arrays)[:, None])

    def finish(self, started: jax.Array, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The restored images of ``start``: (h, w, 3) float32 each, not clipped."""
        restored = np.asarray(started)[: len(images), 0]
        sizes = [image.shape[:2] for image in images]
        return [one[:h, :w, :3] for one, (h, w) in zip(restored, sizes, strict=True)]
