"""24 megapixels beside 1280x720, restored whole: ``python -m benchmarks.large_image``.

A photograph as a camera takes it is restored in tiles by MIMO-UNet and in strips by SVRNN. Every
case runs in a process of its own, so that its peak memory is its own. The time of the large image
includes compilation; that of the other is of a second call.
"""

import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from deblur_jax import Restorer, model_config
from deblur_jax.models import initialize

_WHOLE, _LARGE = (720, 1280), (4000, 6000)


def main() -> None:
    """Prints a Markdown table."""
    print("| network | image | time | a megapixel | beside the whole one | peak memory |")
    print("|---|---|---|---|---|---|")
    for network in ("mimo_unet", "svrnn"):
        unit = None
        for size in (_WHOLE, _LARGE):
            seconds, peak_bytes = _in_a_process(network, size)
            rate = 1e6 * seconds / (size[0] * size[1])
            unit = unit or rate
            print(
                f"| {network} | {size[1]}x{size[0]} | {seconds:.1f} s | {rate:.1f} s | "
                f"{rate / unit:.2f} | {peak_bytes / 1e9:.2f} GB |",
                flush=True,
            )


def _in_a_process(network, size):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, network, size).result()


def _measure(network, size):
    """Seconds, and the peak of memory in bytes."""
    model = model_config(network)
    _, params = initialize(model, seed=0)
    restore = Restorer(model, params)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    if size == _WHOLE:
        restore(image)
    start = time.perf_counter()
    restore(image)
    seconds = time.perf_counter() - start
    return seconds, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
