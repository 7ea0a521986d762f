"""The input pipeline alone, on one core: ``python -m benchmarks.input``.

Pairs have as many pixels as GoPro's frames of 1280x720. Batches are drawn as training draws them;
each case reads its pairs anew, but for the one that names the cache.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deblur_jax.data import open_pairs
from deblur_jax.data.pipeline import training_batches
from deblur_jax.images import Photograph, write_photograph

_SIDE = 960
_PAIRS = 8
_PATCH_SIZE = 256
_BATCH_SIZE = 4
_SECONDS = 8.0


def main() -> None:
    """Prints a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        sources = _make_sources(Path(folder))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print("| pairs from | pairs/s on one core |\n|---|---|")
        for name, (source, cache_gib) in sources.items():
            rate = _pairs_per_second(open_pairs(str(source), "train"), cache_gib)
            print(f"| {name} | {rate:.0f} |", flush=True)


def _make_sources(root: Path) -> dict[str, tuple[Path, float]]:
    frames, records, patches = root / "frames", root / "records", root / "patches"
    pairs = open_pairs("synthetic:dynamic", "train", length=_PAIRS, size=_SIDE)
    for index in range(_PAIRS):
        for kind, key in (("blur", "blurred"), ("sharp", "sharp")):
            file = frames / "train" / kind / f"{index:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_photograph(file, Photograph(pairs[index][key] / 255.0))
    _prepare(frames, records)
    _prepare(frames, patches, "--patch_size", str(_PATCH_SIZE), "--patches_per_picture", "32")
    return {
        "PNG files": (frames, 0.0),
        "array_record, whole frames": (records, 0.0),
        f"array_record, patches of {_PATCH_SIZE}": (patches, 0.0),
        "any of the first two, decoded in the cache": (records, 4.0),
    }


def _prepare(*words) -> None:
    command = [sys.executable, "-m", "deblur_jax", "prepare", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


def _pairs_per_second(source, cache_gib: float) -> float:
    batches = training_batches(
        source, batch_size=_BATCH_SIZE, patch_size=_PATCH_SIZE, seed=0, cache_gib=cache_gib
    )
    for _ in range(8):  # what was read ahead does not count, nor the first visit to the cache
        next(batches)
    start, drawn = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
        next(batches)
        drawn += _BATCH_SIZE
    rate = drawn / (time.perf_counter() - start)
    batches.close()
    return rate


if __name__ == "__main__":
    main()
