"""The input pipeline alone, on one core: ``python -m benchmarks.input``.

Pairs have as many pixels as GoPro's frames of 1280x720. Batches are drawn as training draws them;
each case reads and decodes its pairs anew, but for the one with the cache. The bucket is the
stand-in of the tests, a server in Python on another core of this machine.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deblur_jax.data import open_pairs
from deblur_jax.data.pipeline import training_batches
from deblur_jax.images.files import StoredImage
from deblur_jax.images.writing import write_image
from tests.bucket import running_bucket

_SIDE = 960
_PAIRS = 8
_PATCH_SIZES = (256, 128)
_BATCH_SIZE = 4
_SECONDS = 6.0


def main() -> None:
    """Prints a Markdown table."""
    with tempfile.TemporaryDirectory() as folder, running_bucket() as bucket:
        os.environ.update(bucket.environment)
        sources = _make_sources(Path(folder))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print("| pairs/s on one core | patches of 256 | of 128 |\n|---|---|---|")
        for name, (by_size, cache_gib) in sources.items():
            rates = [
                _pairs_per_second(open_pairs(str(source), "train"), size, cache_gib)
                for size, source in by_size.items()
            ]
            print(f"| {name} | " + " | ".join(f"{rate:.0f}" for rate in rates) + " |", flush=True)


def _make_sources(root: Path) -> dict[str, tuple[dict[int, Path | str], float]]:
    """By name: for each size of patches the data set, and the GiB of the cache."""
    frames, records = root / "frames", root / "records"
    pairs = open_pairs("synthetic:dynamic", "train", length=_PAIRS, size=_SIDE)
    for index in range(_PAIRS):
        for kind, key in (("blur", "blurred"), ("sharp", "sharp")):
            file = frames / "train" / kind / f"{index:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(file, StoredImage(pairs[index][key]))
    _prepare(frames, records)
    patches = {size: root / f"patches_{size}" for size in _PATCH_SIZES}
    remote = {size: f"gs://bucket/patches_{size}" for size in _PATCH_SIZES}
    for places in (patches, remote):
        for size, folder in places.items():
            _prepare(frames, folder, "--patch_size", size, "--patches_per_image", 32)
    return {
        "PNG files": (dict.fromkeys(_PATCH_SIZES, frames), 0.0),
        "array_record, whole frames": (dict.fromkeys(_PATCH_SIZES, records), 0.0),
        "array_record, patches cut beforehand": (patches, 0.0),
        "the same, in the stand-in of a bucket": (remote, 0.0),
        "frames in the cache": (dict.fromkeys(_PATCH_SIZES, records), 4.0),
    }


def _prepare(*words) -> None:
    command = [sys.executable, "-m", "deblur_jax", "prepare", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


def _pairs_per_second(source, patch_size: int, cache_gib: float) -> float:
    batches = training_batches(
        source, batch_size=_BATCH_SIZE, patch_size=patch_size, seed=0, cache_gib=cache_gib
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
