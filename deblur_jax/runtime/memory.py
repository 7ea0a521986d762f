"""The memory of the process: how much it takes, and that what is freed stays ready."""

import ctypes
import resource
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has the process keep the memory that it frees.

    XLA asks for gigabytes at every step and gives them back. The operating system would hand them
    out again page by page, which can take as long as the arithmetic of the step. Only the GNU C
    library has the switches; elsewhere this does nothing.
    """
    libc = _gnu_c_library()
    if libc is not None:
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_ARENA_MAX, 1)


def give_freed_memory_back() -> None:
    """Gives the operating system the memory that the process has freed so far.

    Compiling a train step leaves half a gigabyte in pieces that the step has no use for.
    """
    libc = _gnu_c_library()
    if libc is not None:
        libc.malloc_trim(0)


def _gnu_c_library() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def peak_memory_bytes() -> int:
    """The most memory that this process has had so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
