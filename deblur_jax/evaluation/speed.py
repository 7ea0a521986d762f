"""How long the restoration of one image takes on one device, and in how much memory."""

import statistics
import time
from typing import Any

import jax
import numpy as np

from deblur_jax.inference.restorer import Restorer
from deblur_jax.runtime.operations import multiply_accumulates

_TIMED_RUNS = range(3, 11)
_TIMED_SECONDS = 15.0


def measure_speed(restorer: Restorer, size: tuple[int, int]) -> dict[str, Any]:
    """Times the restoration of one image on one device, until its result is there.

    Args:
        restorer: the network.
        size: height and width.

    Returns:
        ``seconds``, the median of ``runs`` after one that does not count; ``compile_seconds``,
        which is short where the program was in the compilation cache;
        ``device``; ``size``, after padding; ``multiply_accumulates`` of one image; and
        ``peak_bytes``, the device's, or where it does not count them the program's own.
    """
    batch = jax.device_put(restorer.padded(np.zeros((1, *size, 3), np.float32)), restorer.device)
    start = time.perf_counter()
    program = restorer.restore_fn.compile(restorer.params, batch)
    compile_seconds = time.perf_counter() - start
    program(restorer.params, batch).block_until_ready()
    seconds: list[float] = []
    begin = time.perf_counter()
    while len(seconds) < _TIMED_RUNS.start or (
        len(seconds) < _TIMED_RUNS.stop and time.perf_counter() - begin < _TIMED_SECONDS
    ):
        start = time.perf_counter()
        program(restorer.params, batch).block_until_ready()
        seconds.append(time.perf_counter() - start)
    memory, counted = program.memory_analysis(), restorer.device.memory_stats() or {}
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return {
        "seconds": statistics.median(seconds),
        "runs": len(seconds),
        "compile_seconds": compile_seconds,
        "device": restorer.device.device_kind,
        "size": list(batch.shape[1:3]),
        "multiply_accumulates": multiply_accumulates(restorer.pure_fn, restorer.params, batch),
        "peak_bytes": counted.get(
            "peak_bytes_in_use", sum(getattr(memory, part) for part in parts)
        ),
    }
