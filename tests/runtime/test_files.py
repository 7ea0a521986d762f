import os
import re
import socket
import subprocess
import sys

import pytest

from deblur_jax.cli import make_parser
from deblur_jax.runtime.files import (
    FileError,
    FolderError,
    check_output_folder,
    make_folder,
    whole_file,
    write_whole,
)


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    target = tmp_path / "results.json"
    with whole_file(target) as file:
        file.write(b"new")
        assert not target.exists()
    assert target.read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError):
        write_half(target)
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["results.json"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    host, number = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname()), 32 * "0"
    kept = [
        f".{host}-{os.getpid()}-{number}.partial",
        f".another-{killed.pid}-{number}.partial",
        ".notes.partial",
    ]
    for name in [*kept, f".{host}-{killed.pid}-{number}.partial"]:
        (tmp_path / name).write_bytes(b"half")
    write_whole(tmp_path / "a.txt", "text")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a.txt"])


def write_half(path):
    with whole_file(path) as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_a_full_disk_is_called_a_full_disk(monkeypatch, tmp_path):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FileError, match=r"a\.txt: can't be written: No space left on device"):
        write_whole(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == []


def test_the_output_folder_is_tried_before_anything_is_computed(tmp_path):
    check_output_folder(tmp_path / "new/folder")
    assert os.listdir(tmp_path / "new/folder") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="file: can't be made a folder: File exists"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(FolderError, match="the name of the output folder is empty"):
        make_folder("")
    with pytest.raises(FolderError, match="/proc/nothing: can't be made a folder"):
        check_output_folder("/proc/nothing")


@pytest.mark.parametrize("out", ["", "file", "file/below"])
def test_the_commands_try_it_too(out, tmp_path, tiny_weights, make_pairs):
    (tmp_path / "file").write_text("")
    out = str(tmp_path / out) if out else ""
    pairs = make_pairs({"a": (16, 16)})
    for words in (
        ("restore", pairs / "blur", "--weights", tiny_weights, "--out", out),
        ("evaluate", "--weights", tiny_weights, "--data", pairs, "--out", out),
        ("analyse", "--out", out),
        ("prepare", pairs, out),
    ):
        words = [str(word) for word in words]
        args = make_parser(words).parse_args(words)
        with pytest.raises(FolderError, match=re.escape(out or "empty")):
            args.run(args)


def test_a_disk_that_is_full_leaves_no_half_of_a_report(tmp_path, tiny_weights, make_pairs):
    """No file may grow beyond 1 kB."""
    pairs, out = make_pairs({"a": (64, 64)}), tmp_path / "out"
    limited = 'trap "" XFSZ; ulimit -f 1; exec "$@"'
    words = [sys.executable, "-m", "deblur_jax", "evaluate", "--weights", str(tiny_weights)]
    words += ["--data", str(pairs), "--out", str(out)]
    variables = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "0"}
    result = subprocess.run(
        ["bash", "-c", limited, "bash", *words], capture_output=True, text=True, env=variables
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].endswith("can't be written: File too large")
    # What evaluation it is stays, for one that goes on.
    assert [file.name for file in out.rglob("*") if file.is_file()] == ["identity.json"]
