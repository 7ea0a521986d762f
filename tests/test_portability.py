"""Calls that only Linux has stand in guarded places, so that the package works on macOS."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "deblur_jax"
ONLY_LINUX = {
    "fcntl",
    "flock",
    "prctl",
    "mallopt",
    "sched_getaffinity",
    "sched_setaffinity",
    "memfd_create",
    "pidfd_open",
    "posix_fadvise",
    "posix_fallocate",
    "epoll",
    "sendfile",
    "sysconf",
    "statvfs",
    "SO_PEERCRED",
    "RTLD_DEEPBIND",
}
GUARDS = ("hasattr(", "sys.platform", "is None", "is not None", "suppress(", "os.name")


def names_in(node):
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from (alias.name for alias in node.names)


def is_guard(node, source):
    """A condition on what the system has, or an ``except``."""
    if isinstance(node, ast.Try):
        return True
    if isinstance(node, (ast.If, ast.IfExp)):
        test = ast.get_source_segment(source, node.test) or ""
        return any(guard in test for guard in GUARDS)
    if isinstance(node, ast.With):
        return any("suppress" in ast.unparse(item.context_expr) for item in node.items)
    return False


def unguarded(source):
    """Lines with a call that only Linux has, outside of a guard and behind none that returns."""
    found = []

    def walk(node, guarded):
        if isinstance(node, ast.AnnAssign) and node.value is None:
            return
        for name in names_in(node):
            if name in ONLY_LINUX and not guarded:
                found.append((node.lineno, name))
        guarded = guarded or is_guard(node, source)
        returned = False
        for child in ast.iter_child_nodes(node):
            walk(child, guarded or returned)
            if isinstance(child, ast.If) and is_guard(child, source):
                returned = returned or isinstance(child.body[-1], (ast.Return, ast.Raise))

    walk(ast.parse(source), False)
    return found


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os\nos.sched_getaffinity(0)", [2]),
        ("import os\nif hasattr(os, 'memfd_create'):\n    os.memfd_create('x')", []),
        ("def f():\n    if fcntl is None:\n        return\n    fcntl.flock(1, 2)", []),
        ("def f():\n    fcntl.flock(1, 2)\n    if fcntl is None:\n        return", [2, 2]),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
        ("import fcntl", [1]),
        ("if x > 2:\n    libc.mallopt(1, 2)", [2]),
    ],
)
def test_the_search_finds_what_it_should(source, lines):
    assert [line for line, _ in unguarded(source)] == lines


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_calls_that_only_linux_has_are_guarded(file):
    assert not unguarded(file.read_text()), "guard it by hasattr, or give another way"


def test_the_package_works_without_what_macos_lacks(monkeypatch, tmp_path):
    import os

    from deblur_jax.data.cache import SharedPairs
    from deblur_jax.runtime import limits, lock
    from tests.data.counting import CountingPairs

    for name in ("sched_getaffinity", "memfd_create", "sysconf"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(limits, "_CGROUP", tmp_path / "none")
    monkeypatch.setattr(limits, "_CGROUPS_OF_PROCESS", tmp_path / "none")
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.0)
    assert limits.count_cores() == os.cpu_count()
    assert limits.memory_bytes() is None
    assert limits.bounded_workers(1, 1 << 40) == 1
    pairs = SharedPairs(CountingPairs(), CountingPairs.sizes, 1 << 20)
    assert (pairs[1]["sharp"] == CountingPairs.image(1, "sharp")).all()
    with lock.only_run_in(tmp_path / "run"):
        assert (tmp_path / "run/.lease").exists()
