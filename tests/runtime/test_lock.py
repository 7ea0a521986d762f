import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from deblur_jax.runtime import lock
from deblur_jax.runtime.files import FolderError
from deblur_jax.runtime.lock import LockedError, only_run_in
from tests.cloud import empty_bucket
from tests.commands import ROOT

HOLD = """
import sys, time
from deblur_jax.runtime import lock
lock._kernel_lock = lock._kernel_lock if sys.argv[2] == "kernel" else lambda *_: None
lock.RENEWAL_SECONDS, lock._SETTLE_SECONDS = 0.2, 0.1
with lock.only_run_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def quick_leases(monkeypatch):
    """Leases in the place of the kernel's locks, with all waiting times divided by about 50."""
    monkeypatch.setattr(lock, "_kernel_lock", lambda *_: None)
    monkeypatch.setattr(lock, "RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr(lock, "_STALE_SECONDS", 1.0)
    monkeypatch.setattr(lock, "_SETTLE_SECONDS", 0.1)


@pytest.fixture
def hold():
    """Starts another process that holds the lock of a folder."""
    processes = []

    def start(folder, kind):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), kind],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_run_is_refused_and_a_killed_one_does_not_block(tmp_path, hold):
    process = hold(tmp_path / "run", "kernel")
    with pytest.raises(LockedError) as error, only_run_in(tmp_path / "run"):
        pass
    message = str(error.value)
    assert f"{tmp_path / 'run'}: another run is at work here (host " in message
    assert f"process {process.pid}, since 20" in message
    process.send_signal(signal.SIGKILL)
    process.wait()
    with only_run_in(tmp_path / "run") as held:
        held.check()


def test_a_lock_is_given_back(tmp_path):
    for _ in range(2):
        with only_run_in(tmp_path / "run"):
            pass
    with pytest.raises(ValueError, match="on its way"), only_run_in(tmp_path / "run"):
        raise ValueError("on its way")
    with only_run_in(tmp_path / "run"):
        pass


@pytest.mark.usefixtures("quick_leases")
def test_a_lease_is_renewed_and_refuses_a_second_run(tmp_path, hold, monkeypatch):
    monkeypatch.setattr(lock, "_STALE_SECONDS", 60.0)  # it is refused as soon as it is renewed
    process = hold(tmp_path / "run", "lease")
    said = []
    refused = pytest.raises(LockedError, match=f"process {process.pid}, since 20")
    with refused, only_run_in(tmp_path / "run", said.append):
        pass
    (line,) = said
    assert "a run may be at work here (host" in line


@pytest.mark.usefixtures("quick_leases")
def test_the_lease_of_a_killed_run_is_taken_over(tmp_path, hold):
    process = hold(tmp_path / "run", "lease")
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = []
    with only_run_in(tmp_path / "run", said.append) as held:
        held.check()
    assert len(said) == 1
    assert not (tmp_path / "run/.lease").exists()
    with only_run_in(tmp_path / "run", said.append):
        pass
    assert len(said) == 1


@pytest.mark.usefixtures("quick_leases")
def test_of_two_that_begin_together_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_STALE_SECONDS", 60.0)  # a busy machine may renew late
    results = []

    def begin():
        try:
            with only_run_in(tmp_path / "run"):
                results.append("held")
                time.sleep(2)
        except LockedError:
            results.append("refused")

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["held", "refused"]


@pytest.mark.usefixtures("quick_leases")
def test_a_run_whose_lease_was_taken_over_stops(tmp_path):
    with only_run_in(tmp_path / "run") as held:
        held.check()
        lease = tmp_path / "run/.lease"
        other = {**json.loads(lease.read_text()), "identity": "another", "process": 4711}
        lease.write_text(json.dumps(other))
        time.sleep(1.0)
        with pytest.raises(LockedError, match="process 4711"):
            held.check()
    assert json.loads(lease.read_text())["process"] == 4711


@pytest.mark.usefixtures("quick_leases")
def test_a_lease_is_whole_at_every_moment_of_its_renewals(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEWAL_SECONDS", 1e-4)
    lease, contents = tmp_path / "run/.lease", []
    with only_run_in(tmp_path / "run"):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            contents.append(lease.read_text())
    assert len(set(contents)) > 3
    assert all(json.loads(content)["process"] == os.getpid() for content in contents)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
@pytest.mark.usefixtures("quick_leases")
def test_a_damaged_lease_does_not_block(tmp_path, content):
    (tmp_path / ".lease").write_text(content)
    with only_run_in(tmp_path):
        pass


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(FolderError, match="file: can't be made a folder"),
        only_run_in(tmp_path / "file"),
    ):
        pass


@pytest.mark.usefixtures("quick_leases")
def test_a_remote_folder_has_a_lease():
    folder = empty_bucket() / "run"
    with only_run_in(folder) as held:
        held.check()
        assert (folder / ".lease").exists()
    assert not (folder / ".lease").exists()
