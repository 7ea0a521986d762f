"""What tiles cost: ``python -m benchmarks.tiling --weights WEIGHTS IMAGE [MORE ...]``.

For each overlap: how far the restored image is from the untiled one, over all images.
"""

import argparse

import numpy as np

from deblur_jax import Restorer
from deblur_jax.images.reading import read_image

_OVERLAPS = (8, 16, 32, 48, 64, 128, 256, 640)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--tile", type=int, default=384)
    args = parser.parse_args()
    images = [read_image(file).colour for file in args.images]
    whole = Restorer.load(args.weights, tile=0)
    expected = [whole(image) for image in images]
    print(
        f"| overlap (tiles of {args.tile}) | largest error, of 255 | PSNR to the untiled result |"
    )
    print("|---|---|---|")
    for overlap in (o for o in _OVERLAPS if 2 * o < args.tile):
        tiled = Restorer.load(args.weights, tile=args.tile, overlap=overlap)
        differences = [tiled(p) - e for p, e in zip(images, expected, strict=True)]
        largest = 255 * max(np.abs(d).max() for d in differences)
        squared = np.mean([np.square(d).mean() for d in differences])
        psnr = f"{-10 * np.log10(squared):.1f} dB" if squared else "equal"
        print(f"| {overlap} | {largest:.3f} | {psnr} |", flush=True)


if __name__ == "__main__":
    main()
