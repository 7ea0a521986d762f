"""What processes leave in shared memory, beside tests that use it at the same time."""

import time
from pathlib import Path

FOLDER = Path("/dev/shm")


def names():
    """What is there now; nothing where the system has no such folder."""
    return set(FOLDER.iterdir()) if FOLDER.is_dir() else set()


def assert_nothing_stays(before):
    """All that was not there ``before`` is gone, after what other tests have there too."""
    left = names() - before
    end = time.monotonic() + 60
    while any(name.exists() for name in left):
        assert time.monotonic() < end, left
        time.sleep(0.2)
