"""Evaluation: every pair of a data set restored, measured, saved and shown."""

import collections
import concurrent.futures
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from deblur_jax.config import ConfigError
from deblur_jax.data import PairSource
from deblur_jax.errors import UserError
from deblur_jax.evaluation import metrics, report
from deblur_jax.evaluation.alignment import opencv
from deblur_jax.images.files import StoredImage, as_float, to_uint8
from deblur_jax.images.writing import write_image
from deblur_jax.inference.canvas import NOT_FINITE
from deblur_jax.inference.devices import ParallelRestorer
from deblur_jax.inference.restorer import Restorer
from deblur_jax.models import count_params
from deblur_jax.runtime.files import PathLike, check_output_folder, make_folder, write_whole
from deblur_jax.runtime.names import file_name
from deblur_jax.runtime.operations import multiply_accumulates
from deblur_jax.runtime.processes import wait_for_all
from deblur_jax.runtime.progress import progress_bar

RESULTS = "results.json"
_SHARES, _RESTORED, _SHEETS = "shares", "restored", "sheets"
IDENTITY = (
    "digest",
    "data",
    "split",
    "embedded",
    "mode",
    "ensemble",
    "ema",
    "dtype",
    "precision",
)
"""What an evaluation is of, by the keys of results.json."""
_READ_AHEAD = 4
"""How many batches are read ahead, or wait to be scored, while one is on the devices."""
_TIMED_RUNS = range(3, 11)
_TIMED_SECONDS = 15.0


class _Job(NamedTuple):
    """A pair on its way through the devices."""

    name: str
    blurred: np.ndarray
    sharp: Any


def evaluate(
    restorer: Restorer,
    pairs: PairSource,
    out: PathLike,
    *,
    mode: metrics.Mode = "float",
    num_devices: int | None = None,
    **described: Any,
) -> dict | None:
    """Restores all pairs and measures them, on all devices, and on all processes.

    Writes to ``out``: ``restored/NAME.png``, ``sheets/NAME.png`` (before, after, truth),
    ``results.json``, ``results.md``, ``per_image.csv`` and ``report.html``. Every process takes its
    share of the pairs and works for itself; process 0 puts their rows together.

    Args:
        restorer: the network.
        pairs: a data set.
        out: the folder to write to; made if missing.
        mode: of ``metrics.MODES``.
        num_devices: of this process, to use; all by default.
        **described: goes into the results: which weights, which data.

    Returns:
        What is in ``results.json``, see ``report.summarize``; None from other processes than 0.

    Raises:
        ImageError: if an image can't be read or written.
        MetricError: if a pair can't be measured in this mode.
        AlignmentError: in mode ``realblur``, without OpenCV.
        ConfigError: for more devices than there are.
        FolderError, FileError: if ``out`` can't be written to.
    """
    if mode == "realblur":
        opencv()
    check_output_folder(out)
    folder = epath.Path(out)
    process, processes = jax.process_index(), jax.process_count()
    share = range(process, len(pairs), processes)
    parallel = ParallelRestorer(restorer, _devices(num_devices))
    results = _evaluate_share(parallel, pairs, share, folder, mode)
    rows = [one for one in results if isinstance(one, report.Row)]
    failures = [one for one in results if isinstance(one, report.Failure)]
    shares = folder / _SHARES
    make_folder(shares)
    share_of_results = {
        "rows": [row.to_dict() for row in rows],
        "failures": [dataclasses.asdict(failure) for failure in failures],
    }
    write_whole(shares / f"{process}.json", json.dumps(share_of_results))
    speed = measure_speed(restorer, _commonest_size(rows)) if process == 0 else None
    wait_for_all("evaluated")
    if process != 0:
        return None

    rows, failures = [], []
    for index in range(processes):
        of_process = json.loads((shares / f"{index}.json").read_text())
        rows += [report.Row(**row) for row in of_process["rows"]]
        failures += [report.Failure(**failure) for failure in of_process["failures"]]
    shares.rmtree()
    rows.sort(key=lambda row: row.name)
    failures.sort(key=lambda failure: failure.name)
    described |= {"mode": mode, "devices": parallel.num_devices * processes}
    described |= {"parameters": count_params(restorer.params), "speed": speed}
    summary = report.summarize(rows, failures, **described)
    report.write_all(folder, summary, pairs)
    return summary


class ResultsError(UserError, RuntimeError):
    """A folder that holds the results of something else."""


def prepare_out(out: PathLike, described: dict[str, Any], *, replace: bool) -> None:
    """Makes the folder for results, and lets those of one evaluation never mix with another's.

    Args:
        out: the folder; results of the same evaluation there are written anew.
        described: what identifies this one, by the keys of ``IDENTITY``.
        replace: delete the results of another evaluation there.

    Raises:
        ResultsError: if there are results of another evaluation, and ``replace`` is False.
        FolderError: if the folder can't be written to.
    """
    check_output_folder(out)
    folder = epath.Path(out)
    stored = _stored_identity(folder / RESULTS)
    wanted = json.loads(report.to_json({key: described.get(key) for key in IDENTITY}))
    if jax.process_index() == 0 and stored not in (None, wanted):
        if not replace:
            key = next(key for key in IDENTITY if stored.get(key) != wanted[key])
            raise ResultsError(
                f"{folder}: holds results of another evaluation ({key} {stored.get(key)}, not "
                f"{wanted[key]}): choose another --out, or give --replace to delete them"
            )
        for name in (_RESTORED, _SHEETS):
            (folder / name).rmtree(missing_ok=True)
    wait_for_all("output folder is ready")


def _stored_identity(file: epath.Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        stored = json.loads(file.read_text())
        return {key: stored.get(key) for key in IDENTITY}
    except (ValueError, AttributeError):
        return {}  # not a file of this package


def _devices(count: int | None) -> list[jax.Device]:
    available = jax.local_devices()
    if count is not None and not 1 <= count <= len(available):
        raise ConfigError(f"--num_devices is 1 to {len(available)} on this machine, not {count}")
    return available[:count]


def _evaluate_share(
    parallel: ParallelRestorer, pairs: PairSource, share: range, out: epath.Path, mode: metrics.Mode
) -> list[report.Row | report.Failure]:
    """Reading, restoring and scoring at the same time: threads beside the devices."""
    results: list[report.Row | report.Failure] = []
    workers = os.cpu_count() or 1
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as threads,
        progress_bar(total=len(share), desc="evaluating", unit="image") as bar,
    ):
        jobs = _read_ahead(threads, pairs, share, _READ_AHEAD * parallel.num_devices)
        on_devices: collections.deque[tuple[list[_Job], jax.Array]] = collections.deque()
        scoring: collections.deque[concurrent.futures.Future] = collections.deque()

        def finish_restoring() -> None:
            batch, started = on_devices.popleft()
            restored = parallel.finish(started, [job.blurred for job in batch])
            for job, image in zip(batch, restored, strict=True):
                scoring.append(threads.submit(_score_and_save, job, image, out, mode))

        def finish_scoring(left: int) -> None:
            while len(scoring) > left:
                results.append(scoring.popleft().result())
                bar.update()

        for batch in _batches_of_one_size(jobs, parallel.num_devices):
            on_devices.append((batch, parallel.start([job.blurred for job in batch])))
            if len(on_devices) > 1:
                finish_restoring()
            finish_scoring(left=_READ_AHEAD * parallel.num_devices)
        while on_devices:
            finish_restoring()
        finish_scoring(left=0)
    return results


def _read_ahead(
    threads: concurrent.futures.Executor, pairs: PairSource, share: range, ahead: int
) -> Iterator[_Job]:
    def read(index: int) -> _Job:
        pair = pairs[index]
        return _Job(pairs.names[index], as_float(pair["blurred"]), pair["sharp"])

    waiting: collections.deque[concurrent.futures.Future[_Job]] = collections.deque()
    for index in share:
        waiting.append(threads.submit(read, index))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _batches_of_one_size(jobs: Iterator[_Job], batch_size: int) -> Iterator[list[_Job]]:
    by_size: dict[tuple[int, ...], list[_Job]] = collections.defaultdict(list)
    for job in jobs:
        batch = by_size[job.blurred.shape]
        batch.append(job)
        if len(batch) == batch_size:
            yield by_size.pop(job.blurred.shape)
    yield from by_size.values()


def _score_and_save(
    job: _Job, restored: np.ndarray, out: epath.Path, mode: metrics.Mode
) -> report.Row | report.Failure:
    if not np.isfinite(restored).all():
        return report.Failure(job.name, NOT_FINITE)
    restored = np.clip(restored, 0.0, 1.0)
    try:
        before, sharp = metrics.best_score(job.blurred, job.sharp, mode)
        after, sharp = metrics.best_score(restored, job.sharp, mode)
    except metrics.MetricError as error:
        raise metrics.MetricError(f"{job.name}: {error}") from None
    row = report.Row(
        name=job.name,
        height=sharp.shape[0],
        width=sharp.shape[1],
        psnr_blurred=before.psnr,
        ssim_blurred=before.ssim,
        psnr=after.psnr,
        ssim=after.ssim,
        aligned=before.aligned and after.aligned,
    )
    sheet = report.comparison_sheet(job.blurred, restored, sharp, row)
    for folder, image in ((_RESTORED, to_uint8(restored)), (_SHEETS, np.asarray(sheet))):
        file = out / folder / file_name(job.name, ".png")
        make_folder(file.parent)
        write_image(file, StoredImage(image))
    return row


def _commonest_size(rows: list[report.Row]) -> tuple[int, int]:
    return statistics.mode((row.height, row.width) for row in rows) if rows else (256, 256)


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
