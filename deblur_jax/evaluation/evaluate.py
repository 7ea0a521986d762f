"""Evaluation: every pair of a data set restored, measured, saved and shown."""

import statistics
from typing import Any

import jax

from deblur_jax.data import PairSource
from deblur_jax.errors import ConfigError
from deblur_jax.evaluation import metrics, report
from deblur_jax.evaluation.alignment import opencv
from deblur_jax.evaluation.restoring import plan_for, results_of
from deblur_jax.evaluation.results_folder import ResultsFolder
from deblur_jax.evaluation.speed import measure_speed
from deblur_jax.inference.restorer import Restorer
from deblur_jax.models import count_params
from deblur_jax.runtime.files import PathLike


def evaluate(
    restorer: Restorer,
    pairs: PairSource,
    out: PathLike,
    *,
    mode: metrics.Mode = "float",
    num_devices: int | None = None,
    replace: bool = False,
    skip_existing: bool = False,
    **described: Any,
) -> dict[str, Any] | None:
    """Restores all pairs and measures them, on all devices, and on all processes.

    Writes to ``out``: ``restored/NAME.png``, ``sheets/NAME.png`` (before, after, truth),
    ``results.json``, ``results.md``, ``per_image.csv`` and ``report.html``. Every process takes its
    share of the pairs and writes their images to ``out``; results are sent through the devices, and
    where ``out`` is not on a disk that process 0 sees, images too. Process 0 writes the tables.

    Each image is computed alone on one device, in a program that the sizes of the data set decide:
    neither the number of devices nor that of processes changes a result.

    Args:
        restorer: the network.
        pairs: a data set.
        out: the folder to write to; made if missing.
        mode: of ``metrics.MODES``.
        num_devices: of this process, to use; all by default.
        replace: delete the results of another evaluation in ``out``.
        skip_existing: go on with this evaluation, where it was stopped.
        **described: goes into the results: which weights, which data.

    Returns:
        What is in ``results.json``, see ``report.summarize``; None from other processes than 0.

    Raises:
        ResultsError: if ``out`` holds results of another evaluation, and ``replace`` is False.
        ImageError: if an image can't be read or written.
        MetricError: if a pair can't be measured in this mode.
        AlignmentError: in mode ``realblur``, without OpenCV.
        ConfigError: for more devices than there are.
        FolderError, FileError: if ``out`` can't be written to.
    """
    if mode == "realblur":
        opencv()
    devices = _devices(num_devices)
    process, processes = jax.process_index(), jax.process_count()
    folder = ResultsFolder(
        out, {**described, "mode": mode}, replace=replace, skip_existing=skip_existing
    )
    plan_for(restorer, pairs)
    left = [index for index, name in enumerate(pairs.names) if name not in folder.known]
    results = []
    for one in results_of(restorer, devices, pairs, left[process::processes], folder.path, mode):
        folder.keep(one)
        results.append(one)
    of_all = folder.put_together(results)
    if process == 0:
        rows = [one for one in of_all if isinstance(one, report.Row)]
        failures = [one for one in of_all if isinstance(one, report.Failure)]
        in_parts = sum(restorer.layout((row.height, row.width)) is None for row in rows)
        described |= {"mode": mode, "devices": len(devices) * processes, "in_parts": in_parts}
        described |= {"parameters": count_params(restorer.params)}
        described |= {"speed": measure_speed(restorer, _commonest_size(restorer, rows))}
        summary = report.summarize(rows, failures, **described)
        report.write_all(folder.path, summary, pairs)
    folder.finish()
    return summary if process == 0 else None


def _devices(count: int | None) -> list[jax.Device]:
    available = jax.local_devices()
    if count is not None and not 1 <= count <= len(available):
        raise ConfigError(f"--num_devices is 1 to {len(available)} on this machine, not {count}")
    return available[:count]


def _commonest_size(restorer: Restorer, rows: list[report.Row]) -> tuple[int, int]:
    """The size that most images have, of those that are restored whole."""
    sizes = [(row.height, row.width) for row in rows]
    whole = [size for size in sizes if restorer.layout(size) is not None]
    return statistics.mode(whole) if whole else (256, 256)
