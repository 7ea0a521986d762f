import io
import sys

from deblur_jax.runtime.progress import progress_bar


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, *, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


def shown(monkeypatch, *, is_terminal):
    stream = Stream(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=3, desc="restoring", unit="image", mininterval=0) as bar:
        for number in range(3):
            bar.set_postfix_str(f"loss {number}", refresh=False)
            bar.update()
    return stream.getvalue()


def test_in_a_file_each_state_is_a_line(monkeypatch):
    text = shown(monkeypatch, is_terminal=False)
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0].startswith("restoring: 0 of 3 image, 00:00 passed, ")
    assert lines[-1].startswith("restoring: 3 of 3 image, ")
    assert lines[-1].endswith(", loss 2")
    assert len(lines) <= 5  # the last state perhaps twice, with another rate


def test_on_a_terminal_one_line_is_written_over(monkeypatch):
    text = shown(monkeypatch, is_terminal=True)
    assert text.count("\n") == 1
    assert text.count("\r") >= 3
    assert "100%" in text


def test_no_time_left_is_estimated_of_next_to_nothing(monkeypatch):
    stream = Stream(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    options = {"desc": "restoring", "unit": "MP", "mininterval": 0}
    with progress_bar(total=100.0, estimate_from=0.02, **options) as bar:
        bar.update(0.001)
        bar.update(50)
    lines = stream.getvalue().splitlines()
    assert ["? left" in line for line in lines[:3]] == [True, True, False]
