import jax
import numpy as np
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.ops.pool import max_pool_2x2


@given(
    b=st.integers(1, 2),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    c=st.integers(1, 3),
    num_values=st.integers(1, 4),
)
def test_pooling_and_its_gradient_are_xlas_of_equal_values_too(b, h, w, c, num_values):
    rng = np.random.default_rng(0)
    features = rng.integers(0, num_values, (b, 2 * h, 2 * w, c)).astype(np.float32)
    cotangents = rng.standard_normal((b, h, w, c), np.float32)
    result, pull_back = jax.vjp(max_pool_2x2, features)
    expected, plain_pull_back = jax.vjp(lambda x: nnx.max_pool(x, (2, 2), (2, 2)), features)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(pull_back(cotangents)[0], plain_pull_back(cotangents)[0])


def test_other_platforms_pool_by_windows():
    features = np.zeros((1, 4, 4, 2), np.float32)
    gradient = jax.jit(jax.grad(lambda x: max_pool_2x2(x).sum())).trace(features)
    windows = {
        platform: "select_and_scatter" in gradient.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu")
    }
    assert windows == {"cpu": False, "tpu": True}
