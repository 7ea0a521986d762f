"""Worker processes: work on many items in order, and an end together with their parent."""

import collections
import concurrent.futures
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 8
_function: Callable[[Any], Any] | None = None


def parallel_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """The results of a function, in the order of the items, computed by several processes.

    Args:
        function: pickled once for each process.
        items: taken from the iterable only a few ahead of the results.
        workers: number of processes; 1 for none besides this one.

    Yields:
        What ``function`` returns for each item. What it raises is raised here.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    start_resource_tracker()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(function,),
    )
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_resource_tracker() -> None:
    """Starts Python's process that frees what child processes leave behind, without its messages.

    It frees semaphores and shared memory also where this process is killed, and says so on the
    standard error, under the one line in which a command ends.
    """
    standard_error = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        multiprocessing.resource_tracker.ensure_running()
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)
        os.close(nowhere)


def depend_on_parent() -> None:
    """Makes a worker leave Ctrl-C to its parent, and end when that does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after_parent, daemon=True).start()


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    depend_on_parent()
    _function = function


def _call(item: Any) -> Any:
    assert _function is not None
    return _function(item)
