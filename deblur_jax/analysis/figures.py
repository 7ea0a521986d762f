"""The figures of the analysis."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from deblur_jax.analysis.inverse_filter import Experiment
from deblur_jax.analysis.receptive_field import extent
from deblur_jax.ops.recurrence import DIRECTIONS
from deblur_jax.runtime.files import write_whole

_BLUE, _ORANGE, _GREY = "#2563a8", "#d9730d", "#8a8a8a"
_DECADES = 6


def save(figure: Figure, path: epath.Path) -> None:
    """Writes a PNG.

    Raises:
        FileError: if it can't be written.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_whole(path, content.getvalue())


def inverse_filter_figure(general: Experiment, first_order: Experiment) -> Figure:
    """Support of kernel and inverse, error by number of coefficients, a signal restored."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    (kernel_axes, inverse_axes), (error_axes, signal_axes) = figure.subplots(2, 2)

    shown = max(40, min(2 * general.inverse_support, len(general.inverse)))
    _stems(kernel_axes, general.kernel, shown, _BLUE)
    taps = len(general.kernel)
    kernel_axes.set_title(f"blur kernel: {taps} coefficients")
    _stems(inverse_axes, general.inverse, shown, _ORANGE)
    inverse_axes.set_title(f"its inverse as an FIR filter: {general.inverse_support} coefficients")

    error_axes.loglog(general.fir_lengths, general.fir_errors, "o-", color=_ORANGE, ms=4)
    error_axes.axvline(taps, color=_BLUE)
    error_axes.annotate(
        f"IIR: {taps} coefficients,\nlargest error {general.iir_error:.0e}",
        (taps, 0.05),
        xycoords=("data", "axes fraction"),
        xytext=(-6, 0),
        textcoords="offset points",
        ha="right",
        color=_BLUE,
    )
    error_axes.set(
        title="error of an FIR inverse, by length",
        xlabel="coefficients",
        ylabel="root mean square error",
    )

    signal_axes.plot(first_order.signal, color=_GREY, lw=4, alpha=0.5, label="signal")
    signal_axes.plot(first_order.blurred, color=_BLUE, label="blurred")
    signal_axes.plot(first_order.restored, color=_ORANGE, label="restored by gated_recurrence")
    gate = -first_order.kernel[1] / first_order.kernel[0]
    signal_axes.set(title=f"two coefficients, one gate: g = {gate:.2f}", xlabel="n")
    signal_axes.set_ylim(0, 1.2)
    signal_axes.legend(frameon=False, loc="upper right")
    return figure


def receptive_field_figure(fields: Mapping[str, np.ndarray]) -> Figure:
    """The influence of input pixels on one output pixel, network beside network, on a log scale."""
    figure = Figure(figsize=(3.9 * len(fields), 4.3), layout="constrained")
    all_axes = figure.subplots(1, len(fields), squeeze=False)[0]
    for axes, (name, influence) in zip(all_axes, fields.items(), strict=True):
        relative = np.maximum(influence / influence.max(), 10.0**-_DECADES)
        half_height, half_width = influence.shape[0] / 2, influence.shape[1] / 2
        shown = axes.imshow(
            relative,
            norm=LogNorm(10.0**-_DECADES, 1),
            cmap="magma",
            extent=(-half_width, half_width, half_height, -half_height),
        )
        numbers = extent(influence)
        axes.set_title(name)
        axes.set_xlabel(
            f"half of it within {numbers['radius_50']} px, 90 % within {numbers['radius_90']}, "
            f"\n99 % within {numbers['radius_99']}"
        )
    bar = figure.colorbar(shown, ax=all_axes, shrink=0.7)
    bar.set_label("influence, relative to the largest")
    return figure


def gates_figure(gates: np.ndarray, image: np.ndarray) -> Figure:
    """Every stage's gates in every direction, the mean over channels, and the image.

    Args:
        gates: (stages, directions, h/2, w/2, c).
        image: (h, w, 3) in [0, 1].
    """
    stages, directions = gates.shape[:2]
    aspect = image.shape[0] / image.shape[1]
    layout = ConstrainedLayoutEngine(wspace=0.04)  # room for the stages' names
    figure = Figure(figsize=(14, 2.3 * aspect * stages + 0.8), layout=layout)
    all_axes = figure.subplots(stages, directions + 1)
    means = gates.mean(-1)
    limit = np.quantile(np.abs(means), 0.995)
    for stage, row in enumerate(all_axes):
        for axes in row:
            axes.set(xticks=[], yticks=[])
        for direction, axes in enumerate(row[1:]):
            shown = axes.imshow(means[stage, direction], cmap="RdBu_r", vmin=-limit, vmax=limit)
        row[1].set_ylabel(f"stage {stage + 1}")
        if stage:
            row[0].set_axis_off()
    for axes, name in zip(all_axes[0, 1:], DIRECTIONS, strict=True):
        axes.set_title(name.replace("_", " "))
    all_axes[0, 0].imshow(np.clip(image, 0, 1))
    all_axes[0, 0].set_title("blurred image")
    bar = figure.colorbar(shown, ax=all_axes, shrink=0.5)
    bar.set_label("gate, mean over channels")
    return figure


def _stems(axes: Any, values: np.ndarray, shown: int, colour: str) -> None:
    markers, lines, base = axes.stem(np.pad(values, (0, shown))[:shown])
    markers.set(color=colour, markersize=4)
    lines.set(color=colour)
    base.set(color=_GREY, linewidth=0.8)
    axes.set_xlabel("n")
