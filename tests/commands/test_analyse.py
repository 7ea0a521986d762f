import json

import numpy as np
import pytest
from PIL import Image

from deblur_jax.models import initialize, model_config
from deblur_jax.weights.folder import save_weights
from tests.commands import error_of, run_command


@pytest.fixture
def svrnn_weights(tmp_path):
    config = model_config("svrnn", rnn_channels=4, guidance_channels=2)
    _, params = initialize(config, seed=0)
    save_weights(tmp_path / "svrnn", params, config)
    return tmp_path / "svrnn"


@pytest.mark.slow
def test_figures_and_numbers_of_two_networks(svrnn_weights, tiny_weights, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (51, 70), np.uint8)
    Image.fromarray(image).save(tmp_path / "grey.jpg")
    out = tmp_path / "out"
    options = ("--image", tmp_path / "grey.jpg", "--size", 40, "--kernel", "3,2,1")
    result = run_command(
        "analyse", "--out", out, "--weights", svrnn_weights, tiny_weights, *options
    )
    assert result.returncode == 0, result.stderr
    numbers = json.loads((out / "analysis.json").read_text())
    assert numbers["inverse_filter"]["kernel_support"] == 3
    assert numbers["inverse_filter"]["gated_recurrence_error"] < 1e-5
    assert set(numbers["receptive_field"]) == {"svrnn", "svrnn, without recurrences", "mimo_unet"}
    for name in ("inverse_filter", "receptive_field", "gates_svrnn"):
        with Image.open(out / f"{name}.png") as figure:
            assert min(figure.size) > 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kernel", "1,1,1"), "not stable"),
        (("--weights", "nowhere"), "nowhere: no weights here"),
    ],
)
def test_what_cannot_be_analysed_gets_one_line(tmp_path, options, message):
    assert message in error_of("analyse", "--out", tmp_path / "out", *options)
