"""SVRNN on images that are too large for memory: strip by strip, with the same result.

The recurrences reach across the image, so a tile alone is not enough. Strips are as wide as the
image; the state of a recurrence at the end of one strip is where the next strip goes on. Each stage
goes over the strips twice: upwards for the recurrence from bottom to top, then downwards for the
other three and the merging. The feature maps between these passes are kept in temporary files.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deblur_jax.errors import ConfigError, UserError
from deblur_jax.inference.canvas import Canvas
from deblur_jax.inference.sizes import Size
from deblur_jax.inference.tiles import Span, spans
from deblur_jax.models.svrnn import NUM_STAGES, SVRNN, make_gates
from deblur_jax.runtime.compilation import Compiled, compiler_options

_REACH = 72
"""How many rows above and below gates and features depend on: 64, rounded up for alignment."""
_RECONSTRUCTOR_REACH = 16
"""The same for the reconstructor: 12, rounded up for alignment."""
_PIXELS = 3_500_000
"""The largest strip with its overlaps, in pixels: it needs about 3 GB."""


class StripError(UserError, RuntimeError):
    """The temporary files can't be written."""


class StripRestorer:
    """Restores one image after the other.

    Args:
        graphdef: of an ``SVRNN`` whose maps are arrays, by ``Operations.on_arrays``.
        device: where to run.
        rows: height of the strips with their overlaps, in pixels; None for the default.

    Raises:
        ConfigError: if nothing is left between the overlaps of a strip.
    """

    def __init__(self, graphdef: nnx.GraphDef, device: jax.Device, rows: int | None = None):
        if rows is not None:
            rows = rows // SVRNN.size_multiple * SVRNN.size_multiple
            if rows <= 2 * _REACH:
                raise ConfigError(
                    f"strips of {rows} rows leave nothing between overlaps of {_REACH}: they must "
                    f"be higher than {2 * _REACH}"
                )
        self._device = device
        self._rows = rows
        options = compiler_options(device.platform)

        def compiled(function: Callable, **more: Any) -> Compiled:
            def call(params: nnx.State, *arguments: Any, **keywords: Any) -> Any:
                return function(nnx.merge(graphdef, params), *arguments, **keywords)

            return Compiled(call, options, **more)

        self._extract = compiled(_extract)
        self._up = compiled(_sweep_up, static_argnames="stage")
        self._down = compiled(_sweep_down, static_argnames="stage")
        self._reconstruct = compiled(_reconstruct)

    def __call__(
        self, params: nnx.State, canvas: Canvas, progress: Callable[[float], None]
    ) -> None:
        """Restores an image.

        Args:
            params: of the network.
            canvas: the image, its sides multiples of 8.
            progress: called after each pass over a strip, with the share of the work it was.

        Raises:
            StripError: if the temporary files don't fit.
        """
        height, width = canvas.size
        window = min(height, self._rows or max(_PIXELS // width, 4 * _REACH) // 8 * 8)
        self._check_room(params, (height, width), window)
        outer, inner = (spans(height, window, reach) for reach in (_REACH, _RECONSTRUCTOR_REACH))
        strips = _halved(outer)
        whole = slice(0, width)
        share = 1 / (len(outer) * (1 + NUM_STAGES) + len(inner))
        with contextlib.ExitStack() as files:
            guidance, inputs, upward, *merged = (
                files.enter_context(_Rows(height // 2, width // 2)) for _ in range(5)
            )
            for span in outer:
                seen = self._extract(params, self._put(canvas.read(span.window(window), whole)))
                for rows, values in zip((guidance, inputs), seen, strict=True):
                    rows.write(span.first // 2, _kept(values, span, 2))
                progress(share)
            scanned = inputs
            for stage in range(NUM_STAGES):
                self._sweep_up(params, stage, strips, scanned, guidance, upward)
                progress(share * len(strips) / 2)
                target = merged[stage % 2]
                self._sweep_down(params, stage, strips, scanned, guidance, upward, target)
                progress(share * len(strips) / 2)
                scanned = target
            for span in inner:
                end = span.start + window
                values = self._reconstruct(
                    params,
                    self._put(canvas.read(span.window(window), whole)),
                    *(self._put(r.read(span.start // 2, end // 2)) for r in (inputs, scanned)),
                )
                canvas.write(slice(span.first, span.end), whole, _kept(values, span, 1))
                progress(share)

    def _check_room(self, params: nnx.State, size: Size, window: Any) -> None:
        """Checks for room on the disk before the work, which may take an hour, and not after it."""
        height, width = size
        window = jax.ShapeDtypeStruct((1, window, width, 3), jnp.float32)
        guidance, inputs = (
            maps.shape[-1] for maps in jax.eval_shape(self._extract, params, window)
        )
        needed = 4 * (height // 2) * (width // 2) * (guidance + 4 * inputs)
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise StripError(
                f"{folder}: {free / 1e6:,.0f} MB are free, the strips of an image of {width}x"
                f"{height} need {needed / 1e6:,.0f}: make room, or name another folder in TMPDIR"
            )

    def _sweep_up(
        self,
        params: nnx.State,
        stage: int,
        strips: list[tuple[int, int]],
        inputs: Any,
        guidance: Any,
        upward: Any,
    ) -> Any:
        state = jnp.zeros((1, 1, inputs.width, inputs.channels))
        for start, end in reversed(strips):
            x, g = inputs.read(start, end), guidance.read(start - 1, end + 1)
            states = self._up(params, self._put(x), self._put(g), state, stage=stage)
            upward.write(start, np.asarray(states[0]))
            state = states[:, :1]

    def _sweep_down(
        self,
        params: nnx.State,
        stage: int,
        strips: list[tuple[int, int]],
        inputs: Any,
        guidance: Any,
        upward: Any,
        merged: "_Rows",
    ) -> Any:
        state = jnp.zeros((1, 1, inputs.width, inputs.channels))
        for start, end in strips:
            values, state = self._down(
                params,
                self._put(inputs.read(start - 1, end + 1)),
                self._put(guidance.read(start - 2, end + 2)),
                self._put(upward.read(start - 1, end + 1)),
                state,
                float(end < inputs.height),
                stage=stage,
            )
            merged.write(start, np.asarray(values[0]))

    def _put(self, rows: np.ndarray) -> jax.Array:
        return jax.device_put(rows[None], self._device)


def _extract(model: SVRNN, window: Any) -> tuple[jax.Array, jax.Array]:
    """The guidance that gates are made of, and what the first stage scans; both at half size."""
    (images,) = _entered(model, window)
    return model.weights(images), model.features(images)[1]


def _sweep_up(model: SVRNN, inputs: Any, guidance: Any, state: jax.Array, *, stage: int) -> Any:
    """States from bottom to top of a strip; ``guidance`` has a row more above and below."""
    network = model.stages[stage]
    inputs, guidance, state = _entered(model, inputs, guidance, state)
    (gates,) = make_gates([network], guidance, ("bottom_to_top",))
    inputs, gates = _continued(inputs, gates[:, 1:-1], state, after=True)
    return network.ops.gated_recurrence(inputs, gates, ("bottom_to_top",))[:, :-1]


def _sweep_down(
    model: SVRNN,
    inputs: Any,
    guidance: Any,
    upward: Any,
    state: jax.Array,
    goes_on: jax.Array,
    *,
    stage: int,
) -> Any:
    """The stage's result on a strip, and the state that the next one goes on from.

    ``inputs`` and ``upward`` have a row more above and below, ``guidance`` two; ``state`` is that
    of the row before. ``goes_on`` is 1, or 0 where the image ends with the strip.
    """
    network = model.stages[stage]
    others = ("left_to_right", "right_to_left")
    inputs, guidance, upward, state = _entered(model, inputs, guidance, upward, state)
    (gates,) = make_gates([network], guidance, ("top_to_bottom", *others))
    down_gates, other_gates = jnp.split(gates[:, 1:-1], [inputs.shape[-1]], axis=-1)
    scan = network.ops.gated_recurrence
    continued = _continued(inputs, down_gates, state, after=False)
    downward = scan(*continued, ("top_to_bottom",))[:, 1:]
    # Beyond the image there are zeros, which the recurrence does not know.
    inside = jnp.ones((downward.shape[1], 1, 1), downward.dtype).at[-1].set(goes_on)
    sideways = scan(inputs, other_gates, others)
    merged = network.merged(jnp.concatenate([downward * inside, upward, sideways], -1))
    return merged[:, 1:-1].astype(jnp.float32), downward[:, -3:-2]


def _continued(
    inputs: jax.Array, gates: jax.Array, state: jax.Array, *, after: bool
) -> tuple[jax.Array, jax.Array]:
    """A row with gate 0 hands its input on as the state that the scan goes on from."""
    parts = [state.astype(inputs.dtype), inputs]
    closed = [jnp.zeros_like(gates[:, :1]), gates]
    order = slice(None, None, -1) if after else slice(None)
    return jnp.concatenate(parts[order], 1), jnp.concatenate(closed[order], 1)


def _reconstruct(model: SVRNN, window: Any, half: jax.Array, scanned: jax.Array) -> jax.Array:
    window, half, scanned = _entered(model, window, half, scanned)
    full = model.features.full(window)
    return model.leave(model.reconstructor(full, half, scanned))


def _entered(model: SVRNN, *arrays: jax.Array) -> list[jax.Array]:
    """NHWC arrays as feature maps, which are such arrays here, in the dtype of the network."""
    return [array.astype(model.compute.dtype) for array in arrays]


def _halved(parts: list[Span]) -> list[tuple[int, int]]:
    return [(span.first // 2, span.end // 2) for span in parts]


def _kept(values: jax.Array, span: Span, scale: int) -> np.ndarray:
    """The rows of a window's values that count, at 1/``scale`` of the image's size."""
    first, end = ((row - span.start) // scale for row in (span.first, span.end))
    return np.asarray(values[0, first:end])


class _Rows:
    """A map (height, width, channels) float32 in a temporary file, by rows; zeros beyond it."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.channels = 0
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._file = self._files.enter_context(tempfile.TemporaryFile(prefix="deblur_jax-"))
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def write(self, first: int, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, np.float32)
        self.channels = rows.shape[-1]
        try:
            self._file.seek(first * self._row_bytes)
            self._file.write(rows.data)
        except OSError as error:
            raise StripError(
                f"{tempfile.gettempdir()}: can't hold an image's strips ({error.strerror}): make "
                "room, or name another folder in TMPDIR"
            ) from None

    def read(self, first: int, end: int) -> np.ndarray:
        rows = np.zeros((end - first, self.width, self.channels), np.float32)
        above = max(-first, 0)
        inside = rows[above : min(end, self.height) - first]
        self._file.seek((first + above) * self._row_bytes)
        self._file.readinto(inside.data)
        return rows

    @property
    def _row_bytes(self) -> int:
        return 4 * self.width * self.channels
