"""Restores images of one size on all devices at once, one image on each."""

from collections.abc import Sequence

import jax
import numpy as np

from deblur_jax.inference.restorer import Restorer


class ParallelRestorer:
    """Restores as many images at a time as there are devices.

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
