"""What training on a CPU needs to be fast; nothing here touches other devices."""

import ctypes
import os
import sys

import jax

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


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
    them out again page by page, which can take as long as the step's arithmetic. Only the GNU C
    library has the switch; elsewhere this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_ARENA_MAX, 1)
