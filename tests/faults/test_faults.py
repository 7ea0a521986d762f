import signal

import pytest

from tests.faults.checkpoints import count_bit_flips, count_damaged_checkpoints
from tests.faults.files import base_files, count_readings, read
from tests.faults.kills import count_kills
from tests.faults.processes import faults, pause


@pytest.mark.parametrize("kind", ["torch", "caffe", "image", "archive"])
def test_the_whole_files_are_read(kind, tmp_path):
    for name, content in base_files(kind).items():
        (tmp_path / name).write_bytes(content)
        read(kind, tmp_path / name, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("kind", "number"), [("torch", 30), ("caffe", 10), ("image", 80), ("archive", 36)]
)
def test_damaged_files_are_read_or_refused_in_one_line(kind, number):
    counts = count_readings(kind, number, seed=1)
    assert counts["read"] + counts["refused"] == number, counts
    assert counts["refused"] > number // 10


def test_a_flipped_bit_is_found_or_harmless():
    counts = count_bit_flips(20, seed=1)
    assert counts["found"] + counts["harmless"] == 20, counts
    assert counts["found"] > 2


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_or_right():
    counts = count_damaged_checkpoints(10, seed=1)
    assert counts["refused"] + counts["harmless"] == 10, counts
    assert counts["refused"] > 2


@pytest.mark.slow
def test_killed_runs_end_bit_identical(tmp_path):
    counts = count_kills(5, tmp_path, seed=1)
    assert counts["killed"] == 5
    assert counts["ended"] == counts["bit-identical"] == counts["runs"]


@pytest.mark.slow
def test_the_other_of_two_processes_ends_in_one_line_and_both_go_on_exactly(tmp_path):
    for fault in faults(tmp_path, moments=("loop",), signals=(signal.SIGKILL,)):
        assert fault.exact, fault
        assert fault.line.startswith(f"error: process {fault.process} is gone"), fault
        assert fault.statuses[1 - fault.process] == 1, fault
        assert fault.seconds < 30, fault


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_is_late_ends_no_run(process, tmp_path):
    """It is stopped for 40 seconds, and goes on."""
    assert pause(tmp_path, process) == [0, 0]
