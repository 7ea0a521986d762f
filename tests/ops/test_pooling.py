import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from deblur_jax.ops import pooling
from deblur_jax.ops.cpu import pooling as cpu_pooling

FORMS = {
    "plain": pooling.max_pool_2x2,
    "by windows": pooling.max_pool_2x2_by_windows,
    "cpu": cpu_pooling.max_pool_2x2,
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8)
@given(
    b=st.integers(1, 2),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    c=st.integers(1, 3),
    num_values=st.integers(1, 4),
)
def test_pooling_and_its_gradient_are_xlas_of_equal_values_too(form, b, h, w, c, num_values):
    rng = np.random.default_rng(0)
    features = rng.integers(0, num_values, (b, 2 * h, 2 * w, c)).astype(np.float32)
    cotangents = rng.standard_normal((b, h, w, c), np.float32)
    result, pull_back = jax.vjp(FORMS[form], features)
    expected, plain_pull_back = jax.vjp(lambda x: nnx.max_pool(x, (2, 2), (2, 2)), features)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(pull_back(cotangents)[0], plain_pull_back(cotangents)[0])
