"""Pairs read, restored and measured at the same time: threads beside the devices."""

import collections
import concurrent.futures
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from deblur_jax.data import PairSource
from deblur_jax.evaluation import metrics, report
from deblur_jax.images.files import StoredImage, as_float, to_uint8
from deblur_jax.images.writing import write_image
from deblur_jax.inference.canvas import NOT_FINITE, RestorationError
from deblur_jax.inference.devices import ParallelRestorer
from deblur_jax.inference.restorer import Restorer
from deblur_jax.inference.sizes import Layout
from deblur_jax.runtime.files import make_folder
from deblur_jax.runtime.names import file_name
from deblur_jax.runtime.progress import progress_bar
from deblur_jax.runtime.threads import map_ahead

RESTORED, SHEETS = "restored", "sheets"
"""Folders of images: the restored ones, and before, after and truth side by side."""
_MAX_COMPILATIONS = 4
_READ_AHEAD = 4
"""How many batches are read ahead, or wait to be scored, while one is on the devices."""

Result = report.Row | report.Failure


class _Job(NamedTuple):
    """A pair on its way through the devices."""

    name: str
    blurred: np.ndarray
    sharp: Any


def _read(pairs: PairSource, index: int) -> _Job:
    pair = pairs[index]
    return _Job(pairs.names[index], as_float(pair["blurred"]), pair["sharp"])


def plan_for(restorer: Restorer, pairs: PairSource) -> None:
    """Lets images of many sizes share few programs, if the data set knows its sizes.

    The plan is made from all sizes, so it is the same in every process.
    """
    sizes = getattr(pairs, "sizes", None)
    if sizes:
        restorer.plan_sizes(sizes, _MAX_COMPILATIONS)


def results_of(
    restorer: Restorer,
    devices: Sequence[jax.Device],
    pairs: PairSource,
    indices: Sequence[int],
    out: epath.Path,
    mode: metrics.Mode,
) -> Iterator[Result]:
    """Restores and measures pairs, and writes their images.

    Images of one layout pass through one program, one on each device. An image that is too large
    for that is restored in parts, as by the command ``restore``.

    Args:
        restorer: the network, with its plan of sizes.
        devices: of this process.
        pairs: the data set.
        indices: of the pairs to take.
        out: where ``RESTORED`` and ``SHEETS`` are.
        mode: of ``metrics.MODES``.

    Yields:
        The result of each pair, in another order.

    Raises:
        ImageError: if an image can't be read or written.
        MetricError: if a pair can't be measured in this mode.
    """
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as threads,
        progress_bar(total=len(indices), desc="evaluating", unit="image") as bar,
    ):
        ahead = _READ_AHEAD * len(devices)
        jobs = map_ahead(threads, functools.partial(_read, pairs), indices, ahead)
        scoring: collections.deque[concurrent.futures.Future[Result]] = collections.deque()

        def scored(left: int) -> Iterator[Result]:
            while len(scoring) > left:
                yield scoring.popleft().result()
                bar.update()

        for job, restored in _restored(restorer, devices, jobs):
            scoring.append(threads.submit(_score_and_save, job, restored, out, mode))
            yield from scored(left=ahead)
        yield from scored(left=0)


def _restored(
    restorer: Restorer, devices: Sequence[jax.Device], jobs: Iterator[_Job]
) -> Iterator[tuple[_Job, np.ndarray | None]]:
    """The restored image of each job; None where it is not finite."""
    parallel = ParallelRestorer(restorer, devices)
    on_devices: collections.deque[tuple[list[_Job], jax.Array]] = collections.deque()
    waiting: dict[Layout, list[_Job]] = collections.defaultdict(list)

    def started(batch: list[_Job]) -> None:
        on_devices.append((batch, parallel.start([job.blurred for job in batch])))

    def finished(left: int) -> Iterator[tuple[_Job, np.ndarray | None]]:
        while len(on_devices) > left:
            batch, arrays = on_devices.popleft()
            images = parallel.finish(arrays, [job.blurred for job in batch])
            yield from zip(batch, images, strict=True)

    in_parts: list[_Job] = []
    for job in jobs:
        layout = restorer.layout(job.blurred.shape[:2])
        batch = in_parts if layout is None else waiting[layout]
        batch.append(job)
        if len(batch) < len(devices):
            continue
        if layout is None:
            yield from _restored_in_parts(restorer, devices, in_parts)
            in_parts = []
        else:
            started(waiting.pop(layout))
            yield from finished(left=1)
    for batch in waiting.values():
        started(batch)
        yield from finished(left=1)
    yield from finished(left=0)
    yield from _restored_in_parts(restorer, devices, in_parts)


def _restored_in_parts(
    restorer: Restorer, devices: Sequence[jax.Device], jobs: list[_Job]
) -> Iterator[tuple[_Job, np.ndarray | None]]:
    """Each image in parts on a device of its own."""
    if not jobs:
        return
    shared = restorer.shared(devices)

    def restored(job: _Job) -> np.ndarray | None:
        try:
            return shared.restore(job.blurred)
        except RestorationError:
            return None

    with concurrent.futures.ThreadPoolExecutor(len(devices)) as threads:
        yield from zip(jobs, threads.map(restored, jobs), strict=True)


def _score_and_save(
    job: _Job, restored: np.ndarray | None, out: epath.Path, mode: metrics.Mode
) -> Result:
    if restored is None or not np.isfinite(restored).all():
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
    for folder, image in ((RESTORED, to_uint8(restored)), (SHEETS, np.asarray(sheet))):
        file = out / folder / file_name(job.name, ".png")
        make_folder(file.parent)
        write_image(file, StoredImage(image))
    return row
