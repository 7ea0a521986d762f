import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deblur_jax.analysis.inverse_filter import (
    KernelError,
    blur,
    iir_inverse,
    restore_by_recurrence,
    run_experiment,
)


@given(st.lists(st.floats(0.1, 1), min_size=2, max_size=9), st.integers(0, 99))
def test_the_iir_inverse_undoes_any_falling_kernel(coefficients, seed):
    kernel = np.cumsum(coefficients)[::-1]
    signal = np.random.default_rng(seed).random(80)
    np.testing.assert_allclose(iir_inverse(blur(signal, kernel), kernel), signal, atol=1e-8)


def test_the_fir_inverse_is_the_iir_inverses_response():
    experiment = run_experiment(np.array([3.0, 2.0, 1.0]), length=100)
    assert experiment.kernel.sum() == pytest.approx(1)
    np.testing.assert_allclose(blur(experiment.kernel, np.ones(1)), [0.5, 1 / 3, 1 / 6], atol=1e-12)
    identity = np.convolve(experiment.kernel, experiment.inverse)[:100]
    np.testing.assert_allclose(identity, np.eye(1, 100)[0], atol=1e-9)
    assert experiment.fir_errors[-1] < 1e-10 < 1e-3 < experiment.fir_errors[0]
    assert experiment.iir_error < 1e-12


def test_an_inverse_has_more_coefficients_than_its_kernel():
    experiment = run_experiment(np.array([1.0, 0.5]))
    # 2, -1, 1/2, ...: ten are at least a thousandth of the first.
    np.testing.assert_allclose(experiment.inverse[:4], [1.5, -0.75, 0.375, -0.1875])
    assert experiment.inverse_support == 10


@given(st.floats(0.51, 0.99))
def test_the_networks_recurrence_inverts_two_coefficients(first):
    kernel = np.array([first, 1 - first])
    signal = np.random.default_rng(0).random(60)
    restored = restore_by_recurrence(blur(signal, kernel), kernel)
    np.testing.assert_allclose(restored, signal, atol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ([1.0, 1.0, 1.0], "not stable"),
        ([1.0, 2.0], "not stable"),
        ([0.0, 1.0], "first coefficient"),
        ([1.0], "at least 2"),
        ([1.0, np.nan], "finite"),
    ],
)
def test_kernels_without_an_inverse_are_refused(kernel, message):
    with pytest.raises(KernelError, match=message):
        run_experiment(np.array(kernel))
