import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.runtime.names import ESCAPED, file_name, shown
from deblur_jax.runtime.streams import prepare_streams
from tests.commands import ROOT


@given(st.binary(min_size=1, max_size=300).filter(lambda b: b"/" not in b and b"\0" not in b))
def test_any_bytes_are_shown_as_text(name):
    text = shown(os.fsdecode(name))
    text.encode()  # does not raise
    if name.isascii():
        assert text == name.decode()


def test_what_is_no_utf_8_is_shown_by_its_bytes():
    assert shown(os.fsdecode(b"caf\xe9.png")) == r"caf\xe9.png"
    assert shown("café.png") == "café.png"
    assert "\ud800".encode("utf-8", ESCAPED) == rb"\ud800"
    assert "é".encode("ascii", ESCAPED) == rb"\xe9"


@given(st.text(min_size=1, max_size=400), st.sampled_from([".png", ".tiff"]))
def test_file_names_fit_and_differ(name, suffix):
    name = name.encode("utf-8", "replace").decode()
    made, other = file_name(name, suffix), file_name(name + "b", suffix)
    assert len(os.fsencode(made.rpartition("/")[2])) <= 255
    assert made.endswith(suffix)
    assert made != other
    if len(name.encode()) < 240:
        assert made == name + suffix


def test_folders_of_a_long_name_stay():
    made = file_name("folder/" + "é" * 200, ".png")
    assert made.startswith("folder/éé")
    assert len(os.fsencode(made)) <= len("folder/") + 255


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_every_name_can_be_printed(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print(os.fsdecode(b"caf\xe9 \xe2\x82\xac"), end="")
    stream.flush()
    assert stream.buffer.getvalue().startswith(rb"caf\xe9 ")


def test_the_program_prints_names_in_any_locale(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "deblur_jax",
            "evaluate",
            "--weights",
            name,
            "--data",
            "synthetic:pan",
        ],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert rb"caf\xe9: its name is not UTF-8" in result.stderr
