"""What a run says of itself while it trains: the line on the terminal, and rows of the log."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax
import numpy as np
import optax

from deblur_jax.errors import UserError
from deblur_jax.runtime.memory import peak_memory_bytes
from deblur_jax.runtime.processes import gather
from deblur_jax.runtime.progress import progress_bar
from deblur_jax.training.config import Config
from deblur_jax.training.log import RunLog

_GIB = 2**30


class NonFiniteError(UserError, RuntimeError):
    """The loss or its gradient stopped being finite more often than the config allows."""


class Monitor:
    """Follows the steps of a run.

    It reads each step's metrics one step late, so that the device never waits for the host. Every
    ``log_every`` steps it writes a row of means: the loss and its terms, ``learning_rate``;
    ``step_seconds``, without validation, saving and the first step, which compiles;
    ``images_per_second``, in all and per device; ``input_wait``, the share of that time in which
    the loop waited for a batch; ``busy_seconds``, the time of a step in which the process did not
    wait for its devices; and the most memory so far, ``host_memory_gib`` and, where the device says
    it, ``device_memory_gib``. For each time that is expected of a step, such as "estimate", there
    is its share of ``step_seconds``, ``share_of_estimate``.

    All devices wait for the last one, so of several hosts the slow one shows in ``busy_seconds``,
    not in ``step_seconds``. The rows of process 0 name it, ``slowest_process``, with its
    ``slowest_busy_seconds``.

    Args:
        config: of the run, with the global batch size.
        schedule: of the learning rate.
        log: where rows go.
        num_devices: of all processes.
        start_step: the step that the run goes on from.
        best: the best validation so far: its step and PSNR.
    """

    def __init__(
        self,
        config: Config,
        schedule: optax.Schedule,
        log: RunLog,
        num_devices: int,
        start_step: int,
        best: tuple[int, float] | None,
    ) -> None:
        self._expected: Mapping[str, float] = {}
        self._config = config
        self._schedule = schedule
        self._log = log
        self._num_devices = num_devices
        self._best = best
        self._validation: float | None = None
        self._unread: tuple[int, dict[str, jax.Array]] | None = None
        self._bar = progress_bar(
            desc="training", unit="step", initial=start_step, total=config.num_steps
        )
        self._is_first_step = True
        self._window: list[dict[str, float]] = []
        self._begin_timing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def _begin_timing(self) -> None:
        self._timed_steps = 0
        self._began = time.monotonic()
        self._paused = self._waited_for_input = self._waited_for_device = 0.0

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Takes the times that are expected of a step, in seconds, by name."""
        self._expected = seconds

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time that it takes counts as waiting for the input."""
        start = time.monotonic()
        batch = next(batches)
        self._waited_for_input += time.monotonic() - start
        return batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside is no part of a step: validation, saving."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - start

    def follow(self, step: int, step_metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of ``step``, and reads those of the step before."""
        self.catch_up()
        self._unread = step, step_metrics

    def catch_up(self) -> None:
        """Reads what is unread.

        Raises:
            NonFiniteError: if too many steps were skipped.
        """
        if self._unread is None:
            return
        (step, step_metrics), self._unread = self._unread, None
        start = time.monotonic()
        values = {name: float(value) for name, value in jax.device_get(step_metrics).items()}
        self._waited_for_device += time.monotonic() - start
        if values["skipped"] > self._config.max_skipped_steps:
            raise NonFiniteError(
                f"step {step}: the loss or its gradient is not finite (loss {values['loss']}); "
                f"{values['skipped']:.0f} steps skipped, config.max_skipped_steps allows "
                f"{self._config.max_skipped_steps}. No checkpoint after it was written: lower "
                "optimizer.learning_rate, or use compute.dtype float32"
            )
        self._bar.update()
        self._window.append(values)
        self._timed_steps += 1
        ends_a_row = (step + 1) % self._config.log_every == 0
        if self._is_first_step and not ends_a_row:
            self._begin_timing()
        self._is_first_step = False
        if ends_a_row:
            self._write(step + 1)

    def validated(self, step: int, psnr: float | None) -> None:
        """Shows the validation of a step beside the best one so far."""
        if psnr is None:
            return
        if self._best is None or psnr > self._best[1]:
            self._best = step, psnr
        self._validation = psnr
        best_step, best = self._best
        compared = "the best so far" if best_step == step else f"best {best:.2f} at {best_step}"
        self._log.note(f"step {step}: validation PSNR {psnr:.2f} dB ({compared})")

    def _write(self, step: int) -> None:
        finite = [values for values in self._window if np.isfinite(values["loss"])] or self._window
        row = {name: float(np.mean([values[name] for values in finite])) for name in finite[0]}
        row["skipped"] = self._window[-1]["skipped"]
        row["learning_rate"] = float(self._schedule(step - 1))
        row |= self._speed()
        if jax.process_count() > 1:
            busy = gather(np.array(row["busy_seconds"]))
            row["slowest_process"] = int(np.argmax(busy))
            row["slowest_busy_seconds"] = float(busy.max())
        self._log.row(step, row)
        self._show(row)
        self._window = []
        self._begin_timing()

    def _speed(self) -> dict[str, float]:
        elapsed = max(time.monotonic() - self._began - self._paused, 1e-9)
        steps = self._timed_steps
        images_per_second = steps * self._config.batch_size / elapsed
        speed = {
            "step_seconds": elapsed / steps,
            "images_per_second": images_per_second,
            "images_per_second_per_device": images_per_second / self._num_devices,
            "input_wait": self._waited_for_input / elapsed,
            "busy_seconds": (elapsed - self._waited_for_device) / steps,
            "host_memory_gib": peak_memory_bytes() / _GIB,
        }
        shares = {
            f"share_of_{name}": seconds / speed["step_seconds"]
            for name, seconds in self._expected.items()
        }
        return speed | shares | _device_memory()

    def _show(self, row: dict[str, float]) -> None:
        shown = [
            f"loss {row['loss']:.4f}",
            f"learning rate {row['learning_rate']:.1e}",
            f"{row['images_per_second']:.3g} images/s",
        ]
        if self._validation is not None and self._best is not None:
            shown.append(f"PSNR {self._validation:.2f} (best {self._best[1]:.2f})")
        self._bar.set_postfix_str(", ".join(shown), refresh=False)


def _device_memory() -> dict[str, float]:
    """The most that any device of this process has had, where devices count it."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
    return {"device_memory_gib": max(peaks) / _GIB} if peaks else {}
