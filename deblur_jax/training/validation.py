"""Validation during training, by all devices of all processes, from the state that is on them."""

import concurrent.futures

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from deblur_jax.data import PairSource
from deblur_jax.evaluation import metrics
from deblur_jax.evaluation.restoring import plan_for
from deblur_jax.images.files import as_float
from deblur_jax.inference.canvas import RestorationError
from deblur_jax.inference.devices import SharedRestorer
from deblur_jax.inference.restorer import Restorer
from deblur_jax.runtime import signals
from deblur_jax.runtime.processes import gather
from deblur_jax.training.config import Config
from deblur_jax.training.log import RunLog
from deblur_jax.training.step import TrainState


class Validation:
    """The mean PSNR over the validation pairs.

    Each image is computed alone on one device, so the number of devices and processes does not
    change its PSNR.

    Args:
        config: of the run.
        pairs: the validation pairs; None if there are none.
        mesh: of the training; its devices restore the images.
    """

    def __init__(self, config: Config, pairs: PairSource | None, mesh: Mesh):
        self._config = config
        self._pairs = pairs
        self._devices = mesh.local_devices
        self._restorers: list[Restorer] = []

    def __call__(self, state: TrainState, log: RunLog) -> float | None:
        """Validates a state, and logs what it found. Every process calls it.

        The PSNR of the moving average, where one is kept, is logged beside that of the parameters.

        Returns:
            The PSNR in dB; None without pairs, if it is not finite, or if a signal asks to stop
            before all pairs are restored.
        """
        if self._pairs is None:
            return None
        step = int(state.step)
        means: dict[str, float] = {}
        named = {"validation_psnr": state.params}
        if state.ema is not None:
            named["validation_psnr_ema"] = state.ema
        for name, params in named.items():
            shown = log if name == "validation_psnr" else None
            scores = self._scores(self._pairs, params, step, shown)
            if scores is None:
                return None
            means |= {name: scores[0], "validation_psnr_blurred": scores[1]}
        log.row(step, means)
        return means["validation_psnr"] if np.isfinite(means["validation_psnr"]) else None

    def _scores(
        self, pairs: PairSource, params: nnx.State, step: int, log: RunLog | None
    ) -> tuple[float, float] | None:
        """The means of restored and blurred images; None if a process was asked to stop."""
        restorer = self._restorer(pairs, params)

        def score(index: int) -> tuple[float, float] | None:
            if signals.received() is not None:
                return None
            pair = pairs[index]
            blurred, sharp = (as_float(pair[key]) for key in ("blurred", "sharp"))
            before = float(metrics.psnr(blurred, sharp))
            try:
                restored = restorer.restore(blurred)
            except RestorationError:  # not finite: the step is never the best one
                return np.nan, before
            if index == 0 and log is not None:
                log.image(step, np.concatenate([blurred, restored, sharp], axis=1))
            return float(metrics.psnr(restored, sharp)), before

        share = range(jax.process_index(), len(pairs), jax.process_count())
        with concurrent.futures.ThreadPoolExecutor(restorer.num_devices) as threads:
            scores = list(threads.map(score, share))
        found = [one for one in scores if one is not None]
        of_all = np.zeros((len(pairs) + 1, 2))
        of_all[share[: len(found)]] = np.array(found).reshape(-1, 2)
        of_all[-1] = len(found) < len(share)
        gathered = gather(of_all).sum(0)
        if gathered[-1, 0]:
            return None
        restored, blurred = gathered[:-1].mean(0)
        return float(restored), float(blurred)

    def _restorer(self, pairs: PairSource, params: nnx.State) -> SharedRestorer:
        """The network on each device of this process, with the parameters that are there."""
        local = [_params_on(device, params) for device in self._devices]
        if not self._restorers:
            self._restorers = [
                Restorer(self._config.model, there, compute=self._config.compute, device=device)
                for there, device in zip(local, self._devices, strict=True)
            ]
            for restorer in self._restorers:
                plan_for(restorer, pairs)
        return SharedRestorer(
            [
                restorer.with_params(there)
                for restorer, there in zip(self._restorers, local, strict=True)
            ]
        )


def _params_on(device: jax.Device, params: nnx.State) -> nnx.State:
    """The copy of replicated parameters that lies on a device."""

    def there(array: jax.Array) -> jax.Array:
        return next(shard.data for shard in array.addressable_shards if shard.device == device)

    return jax.tree.map(there, params)
