import numpy as np
import pytest

from deblur_jax.analysis.gates import gate_maps
from deblur_jax.analysis.receptive_field import (
    effective_receptive_field,
    extent,
    without_recurrences,
)
from deblur_jax.models import initialize, model_config

SVRNN = model_config("svrnn", rnn_channels=4, guidance_channels=2)
IMAGE = np.random.default_rng(0).random((96, 104, 3), np.float32)


@pytest.fixture(scope="module")
def params():
    """A network whose gates are wide open, all 0.95 and up."""
    _, params = initialize(SVRNN, seed=0)
    for stage in params["stages"].values():
        stage["conv_gates"]["bias"][...] = np.full(16, 2.0, np.float32)
    return params


@pytest.mark.slow
def test_recurrences_carry_the_gradient_across_the_image(params):
    influence = effective_receptive_field(SVRNN, params, IMAGE)
    assert influence.shape == (96, 104)
    assert influence.sum() == pytest.approx(1, rel=1e-4)
    alone = effective_receptive_field(without_recurrences(SVRNN), params, IMAGE)
    # Convolutions of 11, 7, 9, 5 and four of 3 pixels, half of them at half size, and resizing.
    assert extent(alone)["reach"] <= 28
    assert extent(influence)["reach"] > 40


def test_gates_of_every_stage_and_direction(params):
    gates = gate_maps(SVRNN, params, IMAGE)
    assert gates.shape == (4, 4, 48, 52, 4)
    assert np.abs(gates).max() < 1
    assert gates.mean() > 0.5


def test_the_extent_of_a_known_field():
    influence = np.zeros((40, 60))
    influence[20, 30], influence[20, 33], influence[11, 30] = 0.6, 0.39, 0.01
    assert extent(influence) == {"radius_50": 0, "radius_90": 3, "radius_99": 3, "reach": 9}
