import concurrent.futures
import threading

import pytest

from deblur_jax.runtime.threads import map_ahead


def test_results_come_in_order_and_few_are_made_ahead():
    begun, lock = [], threading.Lock()

    def make(item):
        with lock:
            begun.append(item)
        return item * item

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        results = map_ahead(threads, make, range(100), ahead=5)
        for item in range(40):
            assert next(results) == item * item
            assert max(begun) <= item + 6
        assert list(results) == [item * item for item in range(40, 100)]


def test_an_error_comes_in_its_place_and_ends_the_rest():
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        results = map_ahead(threads, lambda item: 1 // item, [1, 1, 0, 1], ahead=1)
        assert [next(results), next(results)] == [1, 1]
        with pytest.raises(ZeroDivisionError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
