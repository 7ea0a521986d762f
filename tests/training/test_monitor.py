import jax.numpy as jnp
import pytest

from deblur_jax.training import monitor as module
from deblur_jax.training.monitor import Monitor
from tests.configs import changed


class Log:
    def __init__(self):
        self.rows, self.notes = [], []

    def row(self, step, values):
        self.rows.append({"step": step, **values})

    def note(self, text):
        self.notes.append(text)


class Clock:
    """A clock that shows the time ``now``, which tests set."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds
        yield "batch"


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def make_monitor(config, log, best=None, start_step=0, **more):
    options = {"num_devices": 4, "start_step": start_step, "best": best, **more}
    return Monitor(config, lambda step: 0.5, log, **options)


def metrics(loss=1.0, skipped=0.0):
    return {"loss": jnp.float32(loss), "skipped": jnp.float32(skipped)}


def test_a_row_has_the_share_of_each_time_that_is_expected_of_a_step(tiny_config, clock):
    log = Log()
    with make_monitor(changed(tiny_config, log_every=2), log) as monitor:
        for step in range(5):
            monitor.follow(step, metrics())
            monitor.expect({"bound": 0.5, "estimate": 1.5})
            clock.now += 2.0
    assert log.rows[-1]["share_of_bound"] == 0.25
    assert log.rows[-1]["share_of_estimate"] == 0.75


def test_what_a_row_says_of_the_time_of_a_step(tiny_config, clock):
    """The first step, validation and saving are no part of it."""
    config, log = changed(tiny_config, log_every=3, batch_size=8), Log()
    with make_monitor(config, log) as monitor:
        clock.now += 100  # the first step compiles
        for step in range(7):
            assert monitor.next_batch(clock.passes(0.5)) == "batch"
            monitor.follow(step, metrics())
            clock.now += 1.5
            if step == 4:
                with monitor.paused():
                    clock.now += 50
    first, second = log.rows
    assert (first["step"], second["step"]) == (3, 6)
    for row in (first, second):
        assert row["step_seconds"] == pytest.approx(2.0)
        assert row["images_per_second"] == pytest.approx(4.0)
        assert row["images_per_second_per_device"] == pytest.approx(1.0)
        assert row["input_wait"] == pytest.approx(0.25)
        assert row["busy_seconds"] == pytest.approx(2.0)
        assert row["learning_rate"] == 0.5
        assert row["host_memory_gib"] > 0.01


def test_a_run_that_goes_on_just_before_a_row(tiny_config, clock):
    config, log = changed(tiny_config, log_every=3), Log()
    with make_monitor(config, log, start_step=2) as monitor:
        clock.now += 4
        monitor.follow(2, metrics())
        monitor.catch_up()
    assert log.rows[0]["step_seconds"] == 4


def test_a_validation_is_compared_with_the_best(tiny_config, clock):
    log = Log()
    with make_monitor(tiny_config, log, best=(10, 28.0)) as monitor:
        for step, psnr in ((20, 27.5), (30, None), (40, 28.25)):
            monitor.validated(step, psnr)
    assert log.notes == [
        "step 20: validation PSNR 27.50 dB (best 28.00 at 10)",
        "step 40: validation PSNR 28.25 dB (the best so far)",
    ]
