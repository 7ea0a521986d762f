"""How many cores and how much memory this process may use, in a container too."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CGROUPS_OF_PROCESS = Path("/proc/self/cgroup")


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _core_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def memory_bytes() -> int | None:
    """How much memory this process may use, in bytes; None where the system does not say."""
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limits = [installed]
    for file in _files("memory", "memory.max", "memory.limit_in_bytes"):
        text = _text(file)
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def bounded_workers(wanted: int, bytes_each: int) -> int:
    """A number of worker processes that cores and memory have room for.

    Args:
        wanted: by the user.
        bytes_each: memory that one needs.

    Returns:
        ``wanted``, or less: at most one for each core, and half of the memory for all; at least 1
        unless ``wanted`` is 0.
    """
    bound = min(wanted, count_cores())
    memory = memory_bytes()
    if memory is not None:
        bound = min(bound, memory // (2 * bytes_each))
    return max(bound, min(wanted, 1))


def _core_quota() -> float | None:
    """The share of time a container may use the processor, in cores; None without a limit."""
    quotas = []
    for file in _files("cpu", "cpu.max", "cpu.cfs_quota_us"):
        words = _text(file).split()
        if file.name == "cpu.cfs_quota_us":
            words += [_text(file.with_name("cpu.cfs_period_us"))]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _files(controller: str, version_2: str, version_1: str) -> list[Path]:
    """Where the limits of this process may stand: in its control group and in all above it."""
    folders = {(_CGROUP, version_2), (_CGROUP / controller, version_1)}
    for line in _text(_CGROUPS_OF_PROCESS).splitlines():
        _, controllers, path = line.split(":", 2)
        top, name = (_CGROUP, version_2) if not controllers else (_CGROUP / controller, version_1)
        if controllers and controller not in controllers.split(","):
            continue
        folder = top / path.lstrip("/")
        while folder != top and top in folder.parents:
            folders.add((folder, name))
            folder = folder.parent
    return sorted(folder / name for folder, name in folders)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
