"""Few coefficients invert a blur if they are recursive (Zhang et al., section 3.1).

``y[n] = sum_m k[m] x[n-m]`` has the inverse ``x[n] = y[n]/k[0] - sum_{m>=1} k[m]/k[0] x[n-m]``: an
IIR filter with as many coefficients as the kernel. Written as an FIR filter of y alone it needs
many more, and so does a convolutional network that imitates it.
"""

from typing import NamedTuple

import jax
import numpy as np

from deblur_jax.errors import UserError
from deblur_jax.ops.recurrence import gated_recurrence

_NEGLIGIBLE = 1e-3
"""Coefficients below this share of the largest do not count as support."""


class KernelError(UserError, ValueError):
    """A blur kernel that has no stable causal inverse."""


class Experiment(NamedTuple):
    """One blur, and the filters that undo it.

    Attributes:
        kernel: k, (m,), normalised to a sum of 1.
        inverse: coefficients of the FIR inverse, (n,).
        signal, blurred: x and y, (n,).
        restored: x from y by the IIR inverse, (n,).
        fir_lengths: numbers of coefficients that an FIR inverse was cut to, (l,).
        fir_errors: root mean square error of x for each of them, (l,).
    """

    kernel: np.ndarray
    inverse: np.ndarray
    signal: np.ndarray
    blurred: np.ndarray
    restored: np.ndarray
    fir_lengths: np.ndarray
    fir_errors: np.ndarray

    @property
    def inverse_support(self) -> int:
        """The number of coefficients of the FIR inverse, up to the last that is not negligible."""
        large = np.abs(self.inverse) > _NEGLIGIBLE * np.abs(self.inverse).max()
        return int(np.flatnonzero(large)[-1]) + 1

    @property
    def iir_error(self) -> float:
        """Largest error of the signal restored by the IIR inverse."""
        return float(np.abs(self.restored - self.signal).max())


def run_experiment(kernel: np.ndarray, length: int = 256) -> Experiment:
    """Blurs a signal of steps and ramps and restores it, by IIR and by FIR filters.

    Args:
        kernel: k, (m,), its first coefficient not 0.
        length: n, of the signal.

    Raises:
        KernelError: if the inverse is not stable.
    """
    kernel = checked_kernel(kernel)
    signal = test_signal(length)
    blurred = blur(signal, kernel)
    impulse = np.eye(1, length)[0]
    inverse = iir_inverse(impulse, kernel)
    first_order = len(kernel) == 2
    restored = (
        restore_by_recurrence(blurred, kernel) if first_order else iir_inverse(blurred, kernel)
    )
    lengths = np.unique(np.geomspace(1, length, 24).round().astype(int))
    errors = [np.sqrt(np.mean((blur(blurred, inverse[:taps]) - signal) ** 2)) for taps in lengths]
    return Experiment(kernel, inverse, signal, blurred, restored, lengths, np.array(errors))


def checked_kernel(kernel: np.ndarray) -> np.ndarray:
    """The kernel with a sum of 1.

    Raises:
        KernelError: if it has no stable causal inverse: a zero of its polynomial outside the unit
            circle, or on it.
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim != 1 or len(kernel) < 2 or not np.isfinite(kernel).all():
        raise KernelError("a kernel has at least 2 coefficients, all finite")
    if kernel[0] == 0 or kernel.sum() == 0:
        raise KernelError("the kernel's first coefficient, and its sum, must not be 0")
    largest = np.abs(np.roots(kernel)).max(initial=0.0)
    if largest >= 1:
        raise KernelError(
            f"the kernel's inverse is not stable (a pole at radius {largest:.3f}): positive "
            "coefficients that fall have a stable one"
        )
    return kernel / kernel.sum()


def blur(signal: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """``y[n] = sum_m k[m] x[n-m]``, where x[n] = 0 for n < 0."""
    return np.convolve(signal, kernel)[: len(signal)]


def iir_inverse(blurred: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """``x[n] = y[n]/k[0] - sum_{m>=1} k[m]/k[0] x[n-m]``."""
    restored = np.zeros(len(blurred))
    for n in range(len(blurred)):
        past = restored[max(0, n - len(kernel) + 1) : n][::-1]
        restored[n] = (blurred[n] - np.dot(kernel[1 : 1 + len(past)], past)) / kernel[0]
    return restored


def restore_by_recurrence(blurred: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The inverse of a kernel of two coefficients by the network's own recurrence.

    ``h[t] = g h[t-1] + (1 - g) y[t]`` is the inverse of a normalised kernel for
    ``g = -k[1]/k[0]``, as then ``1 - g = 1/k[0]``.
    """
    line = jax.numpy.asarray(blurred, jax.numpy.float32)[None, None, :, None]
    gates = jax.numpy.full_like(line, -kernel[1] / kernel[0])
    return np.asarray(gated_recurrence(line, gates, ("left_to_right",)))[0, 0, :, 0]


def test_signal(length: int) -> np.ndarray:
    """A signal of steps, a ramp and a peak in [0, 1], like edges, shades and lines of an image."""
    n = np.arange(length) / length
    signal = 0.2 + 0.6 * ((n > 0.15) & (n < 0.35)) + 0.1 * (n > 0.8)
    ramp = np.clip((n - 0.45) / 0.2, 0, 1) * (n < 0.65)
    return signal + 0.5 * ramp + 0.4 * (np.abs(n - 0.73) < 0.01)
