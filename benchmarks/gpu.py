"""This project beside PyTorch on one GPU: ``python -m benchmarks.gpu [PART ...]``.

The processes of a part compile at the same time. Then each of them is timed for one call, and so on
in rounds. Needs JAX with CUDA and PyTorch with CUDA in this Python; prints Markdown tables.
"""

import argparse
import concurrent.futures
import statistics
import subprocess
import sys

import jaxlib

from benchmarks.run import Comparison, Worker

_ROUNDS = 15
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # several processes share the device


_VARIANTS = {
    "deblur_jax": ("jax", ()),
    "deblur_jax, not deterministic": ("jax", ("--not_deterministic",)),
    "deblur_jax, bfloat16": ("jax", ("--dtype", "bfloat16")),
    "deblur_jax, bfloat16, not deterministic": (
        "jax",
        ("--dtype", "bfloat16", "--not_deterministic"),
    ),
    "deblur_jax, plain operations": ("jax", ("--backend", "plain")),
    "PyTorch": ("torch", ("--cuda",)),
    "PyTorch, channels_last": ("torch", ("--cuda", "--channels_last")),
    "PyTorch, channels_last, bfloat16": (
        "torch",
        ("--cuda", "--channels_last", "--dtype", "bfloat16"),
    ),
    "PyTorch, torch.compile, channels_last, bfloat16": (
        "torch",
        ("--cuda", "--channels_last", "--compiled", "--dtype", "bfloat16"),
    ),
}
_ALL = tuple(name for name in _VARIANTS if "plain" not in name)


def _part(title, case, variants):
    return Comparison(title, case, _ROUNDS, variants)


PARTS = {
    "train": _part(
        "MIMO-UNet, train step, 4 patches of 256",
        ("mimo_unet", "training", "4", "256", "256"),
        _ALL,
    ),
    "svrnn_train": _part(
        "SVRNN, train step, 20 patches of 128",
        ("svrnn", "training", "20", "128", "128"),
        ("deblur_jax", "deblur_jax, bfloat16", "deblur_jax, plain operations", "PyTorch"),
    ),
    "large": _part(
        "MIMO-UNet, an image of 1280x720", ("mimo_unet", "inference", "1", "720", "1280"), _ALL
    ),
    "svrnn": _part(
        "SVRNN, an image of 1280x720",
        ("svrnn", "inference", "1", "720", "1280"),
        ("deblur_jax", "deblur_jax, plain operations", "PyTorch"),
    ),
    "recurrence": _part(
        "The recurrence in four directions, 1 x 360 x 640 x 32",
        ("recurrence", "inference", "1", "360", "640", "32"),
        ("deblur_jax", "deblur_jax, plain operations", "deblur_jax, bfloat16"),
    ),
    "recurrence_train": _part(
        "The recurrence and its gradient, 20 x 64 x 64 x 32",
        ("recurrence", "training", "20", "64", "64", "32"),
        ("deblur_jax", "deblur_jax, plain operations", "deblur_jax, bfloat16"),
    ),
}


def main() -> None:
    """Prints the tables of all parts, or of those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parts = parser.parse_args().parts or list(PARTS)
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    print(f"{card or 'no NVIDIA card'}; jaxlib {jaxlib.__version__}")
    for name in parts:
        _measure(PARTS[name])


def _measure(part: Comparison) -> None:
    with concurrent.futures.ThreadPoolExecutor(len(part.variants)) as pool:
        started = [pool.submit(_start, part, name) for name in part.variants]
    workers = {}
    for name, future in zip(part.variants, started, strict=True):
        try:
            workers[name] = future.result()
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
    seconds = {name: [] for name in workers}
    for _ in range(part.rounds):
        for name, worker in workers.items():
            seconds[name].append(worker.again())
    print(f"\n### {part.title}\n")
    print("| | first call | then, median | from | to | peak memory |\n|---|---|---|---|---|---|")
    for name, worker in workers.items():
        median, *ends = (1e3 * f(seconds[name]) for f in (statistics.median, min, max))
        print(
            f"| {name} | {worker.first:.1f} s | {median:.2f} ms | {ends[0]:.2f} | {ends[1]:.2f} | "
            f"{worker.end() / 2**30:.2f} GiB |",
            flush=True,
        )


def _start(part: Comparison, name: str) -> Worker:
    framework, options = _VARIANTS[name]
    words = (framework, *part.case, *options)
    return Worker(sys.executable, words, _ENVIRONMENT, platform="cuda")


if __name__ == "__main__":
    main()
