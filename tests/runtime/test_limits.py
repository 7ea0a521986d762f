import os

import pytest

from deblur_jax.runtime import limits


@pytest.fixture
def control_groups(tmp_path, monkeypatch):
    """Writes the files of control groups, and says in which of them this process is."""

    def make(groups, **files):
        (tmp_path / "self").write_text(groups)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        monkeypatch.setattr(limits, "_CGROUP", tmp_path / "cgroup")
        monkeypatch.setattr(limits, "_CGROUPS_OF_PROCESS", tmp_path / "self")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)

    return make


def test_without_control_groups_the_machine_decides(control_groups):
    control_groups("")
    assert limits.count_cores() == 16
    assert limits.memory_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_limits_of_a_container(control_groups):
    control_groups("0::/", cpu_dot_max="250000 100000", memory_dot_max=str(1 << 30))
    assert limits.count_cores() == 3
    assert limits.memory_bytes() == 1 << 30


def test_the_smallest_limit_of_all_groups_above_counts(control_groups):
    control_groups(
        "0::/job/step\n",
        job__cpu_dot_max="200000 100000",
        job__step__cpu_dot_max="max 100000",
        job__memory_dot_max=str(1 << 29),
        job__step__memory_dot_max="max",
    )
    assert limits.count_cores() == 2
    assert limits.memory_bytes() == 1 << 29


def test_limits_of_control_groups_version_1(control_groups, tmp_path):
    control_groups("3:memory:/job\n2:cpu,cpuacct:/job\n")
    for folder, name, text in (
        ("cpu/job", "cpu.cfs_quota_us", "400000"),
        ("cpu/job", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "-1"),
        ("memory/job", "memory.limit_in_bytes", str(1 << 28)),
    ):
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / folder / name).write_text(text)
    assert limits.count_cores() == 4
    assert limits.memory_bytes() == 1 << 28


@pytest.mark.parametrize(
    ("wanted", "each", "workers"),
    [(0, 1, 0), (3, 1, 3), (99, 1, 4), (4, 1 << 29, 1), (1, 1 << 40, 1)],
)
def test_workers_are_bounded_by_cores_and_memory(control_groups, wanted, each, workers):
    control_groups("0::/", cpu_dot_max="400000 100000", memory_dot_max=str(1 << 30))
    assert limits.bounded_workers(wanted, each) == workers
