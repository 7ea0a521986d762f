"""What training on a CPU needs to be fast; nothing here touches other devices."""

import ctypes
import mmap
import os
import sys

import jax

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_COMPILED = "/jax/core/compile/backend_compile_duration"
_SECONDS_OF_A_LARGE_PROGRAM = 1.0
_SMALLEST_GAP, _LARGEST_GAP = 2**15, 2**20
_HEADER = 16
"""Bytes that malloc keeps between two neighbours, at most."""


def use_all_cores() -> None:
    """Makes each core a device of JAX, for programs that share a batch. Before any use of devices.

    One operation on two cores wastes what is not divided: a loop over rows, for one. A number that
    the user has set, in ``XLA_FLAGS`` or ``JAX_NUM_CPU_DEVICES``, stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" in flags or jax.config.jax_num_cpu_devices > 0:
        return
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def keep_freed_memory() -> None:
    """Has the process keep the memory that it frees, ready for the next step.

    XLA asks for gigabytes at every step and gives them back, and the operating system then hands
    them out again page by page, which can take as long as the step's arithmetic. What XLA's
    compiler leaves behind is made harmless: ``_close_gaps``. Only the GNU C library has the
    switches; elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_ARENA_MAX, 1)
    if hasattr(libc, "mallinfo2"):
        jax.monitoring.register_event_duration_secs_listener(_after_compilation)


def _after_compilation(event: str, seconds: float, **_) -> None:
    if event == _COMPILED and seconds > _SECONDS_OF_A_LARGE_PROGRAM:
        _close_gaps()


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of the GNU C library; ``top`` is the free memory behind all in use."""

    _fields_ = (("_", ctypes.c_size_t * 8), ("free", ctypes.c_size_t), ("top", ctypes.c_size_t))


def _close_gaps() -> None:
    """Takes every free piece of memory of 32 KiB to 1 MiB out of use, and gives its pages back.

    The compiler leaves a thousand of them, just as large as what convolutions and products ask for
    meanwhile, and malloc tries hundreds for each while the other cores wait. Without them a step
    of MIMO-UNet takes 0.8 of the time.
    """
    libc = _gnu_malloc()
    gap = []
    for start, end in sorted(_take_free_pieces(libc)):
        if gap and start > gap[-1][1] + _HEADER:
            _close(gap, libc)
            gap = []
        gap.append((start, end))
    _close(gap, libc)


def _gnu_malloc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    address, size = ctypes.c_void_p, ctypes.c_size_t
    libc.malloc.restype, libc.malloc.argtypes = address, (size,)
    libc.free.argtypes = (address,)
    libc.malloc_usable_size.restype, libc.malloc_usable_size.argtypes = size, (address,)
    libc.madvise.argtypes = (address, size, ctypes.c_int)
    libc.sbrk.restype, libc.sbrk.argtypes = address, (ctypes.c_ssize_t,)
    libc.mallinfo2.restype = _MallocInfo
    return libc


def _take_free_pieces(libc) -> list[tuple[int, int]]:
    """Takes all that is free, except at the end; tells where each piece starts and ends."""
    info = libc.mallinfo2()
    end = libc.sbrk(0) - info.top
    pieces, size = [], 1 << (info.free - info.top).bit_length() >> 1
    while size >= _SMALLEST_GAP:
        start = libc.malloc(size)
        if start is not None and start < end:
            pieces.append((start, start + libc.malloc_usable_size(start)))
        else:
            libc.free(start)
            size //= 2
    return pieces


def _close(gap: list[tuple[int, int]], libc) -> None:
    """Gives back the pages of adjacent pieces; those of a large gap can be used again."""
    for start, end in gap:
        if gap[-1][1] - gap[0][0] > _LARGEST_GAP:
            libc.free(start)
        else:
            first, behind = -(-start // mmap.PAGESIZE), end // mmap.PAGESIZE
            pages = (n * mmap.PAGESIZE for n in (first, behind - first))
            libc.madvise(*pages, mmap.MADV_DONTNEED)
