"""Meeting, and what is noticed: processes of their own, since a watchdog ends its process."""

import socket
import subprocess
import sys
import time

import pytest

from tests.commands import ROOT

WAIT = """
import sys, time
from deblur_jax.errors import one_line_errors
from deblur_jax.runtime import watchdog
watchdog._SECONDS_BETWEEN_REPORTS, watchdog._SECONDS_OF_SILENCE = 0.2, {silence}
port, count, index, seconds = (int(word) for word in sys.argv[1:5])
with one_line_errors():
    if index == 0:
        dog = watchdog.Listener(port).wait(count, seconds)
    else:
        dog = watchdog.join("localhost", port, index, count, seconds)
    print("met", flush=True)
    time.sleep({life})
    dog.leave()
"""


class Processes:
    def __init__(self, *arguments, life=100, silence=100):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        code = WAIT.format(life=life, silence=silence)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.all = []
        for count, index, seconds in arguments:
            words = [sys.executable, "-c", code, str(port), str(count), str(index), str(seconds)]
            self.all.append(subprocess.Popen(words, cwd=ROOT, **pipes))

    def meet(self):
        for process in self.all:
            assert process.stdout.readline() == "met\n"

    def ends(self, *indices):
        for index in indices:
            errors = self.all[index].communicate(timeout=60)[1]
            yield self.all[index].returncode, errors.strip()


@pytest.fixture
def start():
    started = []

    def make(*arguments, **options):
        started.append(Processes(*arguments, **options))
        return started[-1]

    yield make
    for processes in started:
        for process in processes.all:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("dying", [0, 1])
def test_every_other_process_says_in_one_line_who_is_gone(dying, start):
    processes = start((3, 0, 60), (3, 1, 60), (3, 2, 60))
    processes.meet()
    processes.all[dying].kill()
    others = [index for index in range(3) if index != dying]
    for status, errors in processes.ends(*others):
        assert status == 1
        assert errors.startswith(f"error: process {dying} is gone, and this process stops too")
        assert len(errors.splitlines()) == 1


def test_a_process_that_has_done_its_work_is_not_missed(start):
    processes = start((2, 0, 60), (2, 1, 60), life=0.5)
    assert list(processes.ends(1, 0)) == [(0, ""), (0, "")]


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_silence_is_a_death(stopped, start):
    processes = start((2, 0, 60), (2, 1, 60), silence=2)
    processes.meet()
    time.sleep(3)
    assert all(process.poll() is None for process in processes.all), "reports were heard"
    processes.all[stopped].send_signal(19)
    ((status, errors),) = processes.ends(1 - stopped)
    assert status == 1
    assert f"process {stopped} has said nothing for 2 s" in errors


@pytest.mark.slow
def test_those_who_do_not_come_are_named(start):
    processes = start((4, 0, 8), (4, 2, 60))
    for status, errors in processes.ends(0, 1):
        assert (status, errors) == (1, "error: waited 8 s for process 1, 3")
    (alone,) = start((2, 1, 1)).ends(0)
    assert alone[0] == 1
    assert "error: process 0 does not answer at localhost:" in alone[1]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((3, 1, 60), "process 1 of 3 does not fit to process 0 of 2"),
        ((2, 2, 60), "process 2 of 2 does not fit to process 0 of 2"),
    ],
)
def test_those_who_do_not_fit_are_refused_on_both_sides(other, message, start):
    processes = start((2, 0, 60), other)
    for status, errors in processes.ends(0, 1):
        assert (status, errors) == (1, f"error: {message}")
