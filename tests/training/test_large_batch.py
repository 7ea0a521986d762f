import math

import jax
import numpy as np
import pytest

from deblur_jax import OptimizerConfig, make_schedule, scaled_to_batch
from deblur_jax.commands.config_file import load_config
from deblur_jax.errors import ConfigError

RECIPES = {"mimo_unet_gopro": 4, "mimo_unet_plus_gopro": 4, "svrnn_gopro": 20}


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_itself_is_as_published(name):
    config = load_config(name)
    assert config.batch_size == RECIPES[name]
    assert config == load_config(f"{name}:{RECIPES[name]}")
    assert (config.ema_decay, config.optimizer.warmup_steps) == (None, 0)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("batch_size", [64, 256, 1024])
def test_a_larger_batch_sees_as_many_samples_with_a_rate_by_the_rule(name, batch_size):
    recipe, config = load_config(name), load_config(f"{name}:{batch_size}").validate()
    factor = batch_size / recipe.batch_size
    samples, before = config.batch_size * config.num_steps, recipe.batch_size * recipe.num_steps
    assert before <= samples < before + batch_size
    assert math.isclose(
        config.optimizer.learning_rate, recipe.optimizer.learning_rate * factor**0.5
    )
    assert config.optimizer.warmup_steps == pytest.approx(0.05 * config.num_steps, abs=1)
    assert config.ema_decay == pytest.approx(0.999**factor)
    # The rate falls after as many samples.
    ends = [
        float(make_schedule(c.optimizer, c.num_steps)(c.num_steps - 1)) for c in (recipe, config)
    ]
    assert ends[1] == pytest.approx(ends[0] * factor**0.5, rel=0.05, abs=1e-6)


def test_a_smaller_batch_needs_no_rise():
    config = scaled_to_batch(load_config("svrnn_gopro"), 5)
    assert (config.num_steps, config.optimizer.warmup_steps) == (800_000, 0)
    assert config.optimizer.learning_rate == pytest.approx(0.5e-4)


def test_a_batch_that_can_not_be_is_refused():
    with pytest.raises(ConfigError, match="from 1 on, not 0"):
        load_config("svrnn_gopro:0")
    with pytest.raises(ConfigError, match="from 1 on, not large"):
        load_config("svrnn_gopro:large")


@pytest.mark.parametrize("schedule", ["step", "polynomial", "cosine"])
def test_every_schedule_rises_first(schedule):
    config = OptimizerConfig(schedule=schedule, learning_rate=1.0, warmup_steps=9, decay_every=500)
    rates = np.asarray(jax.vmap(make_schedule(config, 1000))(np.arange(12)))
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=0.03)
    assert rates[11] <= 1
