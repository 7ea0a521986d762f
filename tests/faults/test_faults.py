import pytest

from tests.faults.checkpoints import count_bit_flips, count_damaged_checkpoints
from tests.faults.files import base_files, count_readings, read
from tests.faults.kills import count_kills


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
    counts = count_bit_flips(10, seed=1)
    assert counts["found"] + counts["harmless"] == 10, counts
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
