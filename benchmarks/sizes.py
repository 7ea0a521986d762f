"""Images of fifty sizes, with four programs and with one each: ``python -m benchmarks.sizes``."""

import argparse
import time

import numpy as np

from deblur_jax import Restorer
from deblur_jax.weights.shipped import DEFAULT_WEIGHTS

_SIDES = (150, 400)


def main() -> None:
    """Prints seconds, compilation included, and the largest difference between the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS)
    weights = parser.parse_args().weights
    rng = np.random.default_rng(0)
    sizes = [(int(height), int(width)) for height, width in rng.integers(*_SIDES, (50, 2))]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    results = []
    for most in (4, len(sizes)):
        restorer = Restorer.load(weights)
        restorer.plan_sizes(sizes, most)
        start = time.perf_counter()
        results.append([restorer(image).astype(int) for image in images])
        seconds = time.perf_counter() - start
        print(f"{restorer.num_programs} programs: {seconds:.1f} s", flush=True)
    greatest = max(np.abs(a - b).max() for a, b in zip(*results, strict=True))
    print(f"largest difference: {greatest} of 255")


if __name__ == "__main__":
    main()
