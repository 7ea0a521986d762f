import jax
import numpy as np
import pytest
from flax import nnx

from deblur_jax.models import MIMOUNetConfig, build_model
from deblur_jax.ops.initializers import pytorch_default

SMALL = MIMOUNetConfig(base_channels=8, num_res_blocks=2)


def test_pytorch_default_is_uniform_within_its_bound():
    values = np.asarray(pytorch_default(25)(jax.random.key(0), (100_000,)))
    assert np.abs(values).max() <= 0.2
    assert np.abs(values).max() > 0.199
    assert values.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.01)


def test_every_parameter_of_the_network_starts_within_pytorchs_bound():
    """PyTorch's fan-in: input channels times taps, for transposed ones output channels times 16."""
    params = nnx.to_flat_state(nnx.state(build_model(SMALL, rngs=nnx.Rngs(0))))
    kernels = {path[:-1]: leaf[...] for path, leaf in params if path[-1] == "kernel"}
    for path, leaf in params:
        kernel = kernels[path[:-1]]
        height, width, i, o = kernel.shape[-4:]
        fan_in = height * width * (o if path[0].startswith("upsample") else i)
        bound = np.float32(1 / np.sqrt(fan_in))
        values = np.abs(np.asarray(leaf[...]))
        assert values.max() <= bound, path
        assert values.size < 32 or values.max() > 0.8 * bound, path
        assert path[1] != "blocks" or not np.array_equal(values[0], values[1]), path


def test_the_upsampling_bounds_are_those_of_pytorch():
    params = nnx.state(build_model(SMALL, rngs=nnx.Rngs(0)))
    for name, bound in (("upsample_half", 1 / 16), ("upsample_full", 1 / np.sqrt(128))):
        largest = float(np.abs(np.asarray(params[name]["kernel"][...])).max())
        assert largest == pytest.approx(bound, rel=5e-3)
