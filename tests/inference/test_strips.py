import errno
import io
import shutil
import tempfile

import jax
import numpy as np
import pytest

from deblur_jax import Restorer
from deblur_jax.errors import ConfigError
from deblur_jax.inference.canvas import Canvas
from deblur_jax.inference.restorer import make_restore_fn
from deblur_jax.inference.strips import StripError, StripRestorer
from deblur_jax.models import initialize, model_config


class Unclipped(Canvas):
    """Keeps what is written as it is, beside the image."""

    def __init__(self, image):
        super().__init__(image, 8)
        self.restored = np.empty_like(image)

    def write(self, rows, columns, restored):
        self.restored[rows, columns] = restored


def collected(strips, params, image):
    canvas, shares = Unclipped(image), []
    strips(params, canvas, shares.append)
    assert sum(shares) == pytest.approx(1.0)
    return canvas.restored


@pytest.fixture(scope="module")
def network():
    """Gates near 1, so that every recurrence reaches across the image."""
    config = model_config("svrnn", rnn_channels=4, guidance_channels=2)
    graphdef, params = initialize(config, seed=0)
    for stage in range(4):
        bias = params["stages"][stage]["conv_gates"]["bias"]
        bias[...] = bias[...] + 2.0
    return config, graphdef, params


@pytest.mark.parametrize(("size", "rows"), [((480, 24), 160), ((344, 40), 200), ((160, 16), 160)])
def test_strips_change_nothing(network, size, rows):
    _, graphdef, params = network
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    whole = jax.jit(make_restore_fn(graphdef))(params, image[None])[0]
    strips = collected(StripRestorer(graphdef, jax.devices()[0], rows), params, image)
    np.testing.assert_allclose(strips, whole, atol=1e-5 * np.abs(whole).max())


def test_a_change_above_is_felt_beyond_what_windows_overlap(network):
    """By more than strips may differ from the whole: else they would do without the states."""
    _, graphdef, params = network
    restore = StripRestorer(graphdef, jax.devices()[0], 160)
    image = np.random.default_rng(0).random((480, 24, 3), np.float32)
    changed = image.copy()
    changed[:80] = 0.9
    restored = collected(restore, params, image)
    felt = np.abs(collected(restore, params, changed) - restored)[200:].max()
    assert felt > 5 * 1e-5 * np.abs(restored).max()


def test_the_restorer_takes_strips_of_a_given_height(network):
    model, _, params = network
    image = np.random.default_rng(0).random((203, 21, 3), np.float32)
    whole, strips = (
        Restorer(model, params),
        Restorer(model, params, tile=165),
    )
    np.testing.assert_allclose(strips(image), whole(image), atol=1e-5)
    assert strips.restore_fn.count_programs() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 64}, "strips of 64 rows leave nothing between overlaps of 72"),
        ({"overlap": 8}, "svrnn's strips have an overlap of their own"),
        ({"tile": 160, "ensemble": "rot4"}, "svrnn's strips can't be rotated"),
    ],
)
def test_strips_that_are_not_possible(network, options, message):
    model, _, params = network
    with pytest.raises(ConfigError, match=message):
        Restorer(model, params, **options)


def test_a_full_disk_gets_one_line(network, monkeypatch):
    _, graphdef, params = network
    image = np.zeros((160, 16, 3), np.float32)

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Full())
    with pytest.raises(StripError, match="can't hold an image's strips"):
        collected(StripRestorer(graphdef, jax.devices()[0]), params, image)


def test_too_little_room_is_said_beforehand(network, monkeypatch):
    """Half-size maps of the guidance, 8 channels, and four times 4."""
    _, graphdef, params = network
    image = np.zeros((400, 1600, 3), np.float32)
    needed = 4 * 200 * 800 * (8 + 4 * 4)
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(StripError, match="need 15: make room, or name another folder in TMPDIR"):
        collected(StripRestorer(graphdef, jax.devices()[0]), params, image)
