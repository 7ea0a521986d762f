import itertools

import pytest

from deblur_jax.training.optimizer import OptimizerConfig, make_schedule


def test_step_schedule_halves_after_every_500_epochs():
    schedule = make_schedule(OptimizerConfig(), num_steps=1_578_000)
    epoch = 526
    for first_epoch, rate in ((1, 1e-4), (501, 5e-5), (1001, 2.5e-5), (2501, 3.125e-6)):
        first_step = (first_epoch - 1) * epoch
        assert float(schedule(first_step)) == pytest.approx(rate)
        assert float(schedule(first_step + 500 * epoch - 1)) == pytest.approx(rate)


def test_cosine_schedule_rises_then_falls_to_zero():
    config = OptimizerConfig(learning_rate=1.0, schedule="cosine", warmup_steps=10)
    rates = [float(make_schedule(config, 100)(step)) for step in range(101)]
    assert 0 < rates[0] < rates[5] < rates[10] == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0, abs=1e-6)
