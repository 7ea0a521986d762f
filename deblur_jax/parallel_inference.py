"""Pictures of one size restored on all devices at once, one each."""

from collections.abc import Sequence

import jax
import numpy as np

from deblur_jax.inference import Restorer


class ParallelRestorer:
    """Restores as many pictures at a time as there are devices.

    Each device does exactly what it would do alone, so that the number of devices changes nothing
    in the results.

    Args:
        restorer: the network.
        devices: of this process; all of its devices by default.

    Attributes:
        num_devices: how many pictures at a time.
    """

    def __init__(self, restorer: Restorer, devices: Sequence[jax.Device] | None = None):
        devices = jax.local_devices() if devices is None else devices
        self.num_devices = len(devices)
        self._restorer = restorer
        self._restore = jax.pmap(restorer.pure_fn, in_axes=(None, 0), devices=devices)

    def start(self, pictures: Sequence[np.ndarray]) -> jax.Array:
        """Starts to restore pictures; ``finish`` waits for them.

        Args:
            pictures: at most ``num_devices``, of one size, (h, w, 3) float32 in [0, 1].
        """
        # Devices without a picture of their own repeat the last one: one program serves all.
        missing = self.num_devices - len(pictures)
        batch = np.stack([*pictures, *[pictures[-1]] * missing])
        return self._restore(self._restorer.params, self._restorer.padded(batch)[:, None])

    def finish(self, started: jax.Array, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What became of the pictures of ``start``: (h, w, 3) float32 each, clipped to [0, 1]."""
        restored = np.clip(np.asarray(started)[: len(pictures), 0], 0.0, 1.0)
        height, width = pictures[0].shape[:2]
        return list(restored[:, :height, :width])
