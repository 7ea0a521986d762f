"""This project beside PyTorch: ``python -m benchmarks.run --torch_python PYTHON``.

Every case runs in a process of its own; those of one comparison take turns. Needs a Python with
PyTorch (the same one, by default). Prints Markdown tables, keeps their numbers in ``times.json``
and draws all that are there: ``times.png``. Comparisons that are not named stay as they were.
"""

import argparse
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from deblur_jax import Restorer, model_config
from deblur_jax.models import initialize
from deblur_jax.runtime.operations import multiply_accumulates

_ROOT = Path(__file__).parents[1]
_TIMES = Path(__file__).with_name("times.json")
_PLOT = _ROOT / "docs/times.png"

_PATIENCE = 300
"""Seconds that a process may take for one answer, compilation included."""

_PAUSE = 0.5
"""Seconds before each turn: the threads of the one before may still be spinning."""

OURS = "deblur_jax"
_KEEPS_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_ARENA_MAX": "1",
}
TORCH_VARIANTS = {
    "PyTorch": ((), {}),
    "PyTorch, channels_last": (("--channels_last",), {}),
    "PyTorch, torch.compile": (("--compiled",), {}),
    "PyTorch, freed memory kept": ((), _KEEPS_MEMORY),
    "PyTorch, channels_last, freed memory kept": (("--channels_last",), _KEEPS_MEMORY),
}
"""The last two have what ``train.py`` sets for itself: ``runtime.memory.keep_freed_memory``."""


class Comparison(NamedTuple):
    """One piece of work and how often it is done."""

    title: str
    case: tuple[str, ...]
    rounds: int
    variants: tuple[str, ...] = tuple(TORCH_VARIANTS)


_NOT_COMPILED = tuple(name for name in TORCH_VARIANTS if "compile" not in name)
COMPARISONS = {
    "small": Comparison(
        "MIMO-UNet, an image of 256x256", ("mimo_unet", "inference", "1", "256", "256"), 25
    ),
    "large": Comparison(
        "MIMO-UNet, an image of 1280x720", ("mimo_unet", "inference", "1", "720", "1280"), 5
    ),
    "train4": Comparison(
        "MIMO-UNet, train step, 4 patches of 256",
        ("mimo_unet", "training", "4", "256", "256"),
        5,
        _NOT_COMPILED,
    ),
    "train8": Comparison(
        "MIMO-UNet, train step, 8 patches of 128",
        ("mimo_unet", "training", "8", "128", "128"),
        9,
        _NOT_COMPILED,
    ),
    "svrnn": Comparison(
        "SVRNN, an image of 1280x720",
        ("svrnn", "inference", "1", "720", "1280"),
        5,
        _NOT_COMPILED,
    ),
    "svrnn_train": Comparison(
        "SVRNN, train step, 4 patches of 128",
        ("svrnn", "training", "4", "128", "128"),
        15,
        _NOT_COMPILED,
    ),
}

_CONVOLUTIONS = ((360, 640, 128), (180, 320, 256), (90, 160, 512))
_ROUNDS_OF_FLOOR = 9


class Measured(NamedTuple):
    """Of one variant: seconds, and the peak of its process's memory."""

    first: float
    median: float
    fastest: float
    slowest: float
    peak_bytes: int


class Worker:
    """A process that does one piece of work for each line it reads."""

    def __init__(
        self, python: str, words: tuple[str, ...], environment: dict[str, str], platform="cpu"
    ):
        environment = {**os.environ, "JAX_PLATFORMS": platform, **environment}
        command = [python, "-m", "benchmarks.worker", *words]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # A session of its own, so that what it starts ends with it.
        self._process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=environment,
            text=True,
            bufsize=1,
            start_new_session=True,
            **pipes,
        )
        self.first = self._answer()

    def again(self) -> float:
        """Seconds of one more time."""
        self._process.stdin.write("again\n")
        return self._answer()

    def end(self) -> int:
        """The peak of its memory, in bytes."""
        self._process.stdin.close()
        return int(self._answer())

    def _answer(self) -> float:
        if not select.select([self._process.stdout], [], [], _PATIENCE)[0]:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise RuntimeError(f"no answer in {_PATIENCE} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("ended without an answer")
        return json.loads(line)


def main() -> None:
    """Prints and draws all comparisons, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("comparisons", nargs="*", metavar="NAME", help=", ".join(COMPARISONS))
    parser.add_argument("--torch_python", default=sys.executable, help="a Python with PyTorch")
    args = parser.parse_args()
    for name in args.comparisons or COMPARISONS:
        measured = _compare(COMPARISONS[name], args.torch_python)
        _print_table(COMPARISONS[name].title, measured)
        if name == "svrnn":
            _print_share_of_floor()
        _keep(name, measured)
    _draw()


def _compare(comparison: Comparison, torch_python: str) -> dict[str, Measured]:
    workers = {OURS: Worker(sys.executable, ("jax", *comparison.case), {})}
    for name in comparison.variants:
        options, environment = TORCH_VARIANTS[name]
        try:
            words = ("torch", *comparison.case, *options)
            workers[name] = Worker(torch_python, words, environment)
        except RuntimeError as error:
            print(f"{name} does not work here: {error}", file=sys.stderr)
    seconds = {name: [] for name in workers}
    for _ in range(comparison.rounds):
        for name, worker in workers.items():
            time.sleep(_PAUSE)
            seconds[name].append(worker.again())
    return {name: _summary(worker, seconds[name]) for name, worker in workers.items()}


def _summary(worker: Worker, seconds: list[float]) -> Measured:
    median = statistics.median(seconds)
    return Measured(worker.first, median, min(seconds), max(seconds), worker.end())


def _print_table(title: str, measured: dict[str, Measured]) -> None:
    print(f"\n### {title}\n")
    print("| | first call | then, median | from | to | peak memory | deblur_jax / this | memory |")
    print("|---|---|---|---|---|---|---|---|")
    ours = measured[OURS]
    for name, of in measured.items():
        ratios = f"{ours.median / of.median:.2f} | {ours.peak_bytes / of.peak_bytes:.2f}"
        print(
            f"| {name} | {of.first:.1f} s | {of.median:.2f} s | {of.fastest:.2f} | "
            f"{of.slowest:.2f} | {of.peak_bytes / 2**30:.2f} GiB | "
            f"{ratios if name != OURS else ' | '} |",
            flush=True,
        )


def _print_share_of_floor() -> None:
    """How long SVRNN takes beside its operations at the best rate of any convolution, in turns."""
    network = Worker(sys.executable, ("jax", *COMPARISONS["svrnn"].case), {})
    convolutions = {
        shape: Worker(
            sys.executable,
            ("jax", "convolution", "inference", "1", *map(str, shape)),
            _KEEPS_MEMORY,
        )
        for shape in _CONVOLUTIONS
    }
    seconds, rates = [], []
    for _ in range(_ROUNDS_OF_FLOOR):
        seconds.append(network.again())
        rates += [2 * 9 * h * w * c**2 / of.again() for (h, w, c), of in convolutions.items()]
    for worker in (network, *convolutions.values()):
        worker.end()
    model = model_config("svrnn")
    _, params = initialize(model, seed=0)
    image = jax.ShapeDtypeStruct((1, 720, 1280, 3), jnp.float32)
    operations = 2 * multiply_accumulates(Restorer(model, params).pure_fn, params, image)
    floor = operations / max(rates)
    print(
        f"\nSVRNN's {operations / 1e9:.0f} GFLOP at the best convolution's "
        f"{max(rates) / 1e9:.0f} GFLOP/s would take {floor:.2f} s: at best it takes "
        f"{min(seconds) / floor:.2f} times as long."
    )


def _all_kept() -> dict[str, dict[str, list[float]]]:
    return json.loads(_TIMES.read_text()) if _TIMES.exists() else {}


def _keep(name: str, measured: dict[str, Measured]) -> None:
    kept = {**_all_kept(), name: measured}
    _TIMES.write_text(json.dumps(kept, indent=1) + "\n")


def _draw() -> None:
    kept = _all_kept()
    figure, axes = plt.subplots(
        len(kept), 1, figsize=(8, 1 + 1.3 * len(kept)), layout="constrained", squeeze=False
    )
    names = [name for name in COMPARISONS if name in kept]
    for axis, name in zip(axes[:, 0], names, strict=True):
        measured = {variant: Measured(*values) for variant, values in kept[name].items()}
        medians = [of.median for of in measured.values()]
        spread = [
            [of.median - of.fastest for of in measured.values()],
            [of.slowest - of.median for of in measured.values()],
        ]
        colours = ["tab:blue" if variant == OURS else "tab:gray" for variant in measured]
        axis.barh(list(measured), medians, xerr=spread, color=colours)
        axis.invert_yaxis()
        axis.set_title(COMPARISONS[name].title, fontsize=9, loc="left")
        axis.tick_params(labelsize=7)
    axes[-1, 0].set_xlabel("seconds, median and range", fontsize=8)
    figure.savefig(_PLOT, dpi=110)


if __name__ == "__main__":
    main()
