"""Times that can be compared: cases in turns, in one process."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def interleaved(cases: Mapping[str, Callable[[], jax.Array]], rounds: int) -> dict[str, float]:
    """Median seconds of every case; each is warmed up, then all take turns.

    Args:
        cases: what to run; the result is waited for.
        rounds: turns of each.
    """
    for run in cases.values():
        jax.block_until_ready(run())
    seconds = {name: [] for name in cases}
    for _ in range(rounds):
        for name, run in cases.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
