"""Work of many threads, in order."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def map_ahead(
    threads: concurrent.futures.Executor,
    make: Callable[[Item], Made],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Made]:
    """``make(item)`` of each item, in order, while the next ones are made in the threads.

    Unlike ``Executor.map`` it does not take all items at once, so few results wait in memory. Where
    it ends early, what has not begun is cancelled.

    Args:
        threads: to make in.
        make: what to do with an item; the error of one is raised in its place.
        items: to take.
        ahead: how many are being made, or wait, beside the one that is asked for.
    """
    waiting: collections.deque[concurrent.futures.Future[Made]] = collections.deque()
    try:
        for item in items:
            waiting.append(threads.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
