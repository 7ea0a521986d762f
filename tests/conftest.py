import os
import tempfile

from tests.accelerator import ON_CPU
from tests.compilation import FAST

if ON_CPU:  # with eight devices
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 {FAST}"
    )
    os.environ["JAX_PLATFORMS"] = "cpu"
if "PYTEST_XDIST_WORKER" not in os.environ:
    # Made by the first process, and so shared by all: workers inherit its environment.
    # It is the commands' own cache, so that programs that can't be kept are used as well.
    _caches = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = _caches.name
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_caches.name, "deblur_jax")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import numpy as np
import pytest
from PIL import Image

hypothesis.settings.register_profile("project", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("project")


@pytest.fixture
def make_pairs(tmp_path):
    """Writes a folder of pairs: names to (height, width)."""

    def make(sizes: dict[str, tuple[int, int]], root=tmp_path / "pairs", seed=0):
        rng = np.random.default_rng(seed)
        for name, size in sizes.items():
            sharp = rng.integers(0, 256, (*size, 3), np.uint8)
            blurred = ((sharp.astype(int) + np.roll(sharp, 1, 1)) // 2).astype(np.uint8)
            for kind, image in (("blur", blurred), ("sharp", sharp)):
                file = root / kind / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
        return root

    return make


@pytest.fixture
def tiny_config():
    """A network and a run of seconds."""
    from deblur_jax import Config, DataConfig, OptimizerConfig, model_config

    return Config(
        batch_size=2,
        num_steps=6,
        model=model_config("mimo_unet", base_channels=2, num_res_blocks=1),
        data=DataConfig(
            train="synthetic:pan", length=4, image_size=32, patch_size=16, validation_limit=2
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        log_every=2,
        checkpoint_every=2,
    )


@pytest.fixture
def tiny_weights(tmp_path, tiny_config):
    """A weights folder with a random tiny network."""
    from deblur_jax.models import initialize
    from deblur_jax.weights.folder import save_weights

    _, params = initialize(tiny_config.model, seed=0)
    save_weights(tmp_path / "weights", params, tiny_config.model)
    return tmp_path / "weights"
