"""SVRNN on pictures that are too large for memory: strip by strip, with the same result.

The recurrences reach across the picture, so a window alone is not enough. Strips are as wide as the
picture; what a recurrence has reached at the end of one goes on in the next. Each stage sweeps up,
for the recurrence from bottom to top, and down, for the others and their merging. What one sweep
leaves to the next lies in temporary files.
"""

import contextlib
import shutil
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from deblur_jax.compilation import compiler_options
from deblur_jax.config import ConfigError
from deblur_jax.errors import UserError
from deblur_jax.models.svrnn import NUM_STAGES, SVRNN, make_gates
from deblur_jax.tiling import Span, spans

_REACH = 72
"""Rows of the picture that gates and features depend on, above and below: 64, and alignment."""
_RECONSTRUCTOR_REACH = 16
"""The same of the reconstructor: 12, and alignment."""
_PIXELS = 3_500_000
"""Of a window, with what it overlaps: what about 3 GB are enough for."""


class StripError(UserError, RuntimeError):
    """The temporary files can't be written."""


class StripRestorer:
    """Restores one picture after the other.

    Args:
        graphdef: of an ``SVRNN``.
        device: where to run.
        rows: height of the windows, in pixels of the picture; None for what memory suggests.

    Raises:
        ConfigError: if the overlaps leave nothing of a window.
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
        options = {"compiler_options": compiler_options(device.platform)}

        def compiled(function, **more):
            def call(params, *arguments, **keywords):
                return function(nnx.merge(graphdef, params), *arguments, **keywords)

            return jax.jit(call, **options, **more)

        self._look = compiled(_look)
        self._up = compiled(_sweep_up, static_argnames="stage")
        self._down = compiled(_sweep_down, static_argnames="stage")
        self._reconstruct = compiled(_reconstruct)

    def __call__(self, params: nnx.State, picture: np.ndarray) -> np.ndarray:
        """Restores (h, w, 3) float32 in [0, 1], sides multiples of 8; not clipped.

        Raises:
            StripError: if the temporary files don't fit.
        """
        height, width = picture.shape[:2]
        window = min(height, self._rows or max(_PIXELS // width, 4 * _REACH) // 8 * 8)
        self._check_room(params, picture.shape, window)
        with contextlib.ExitStack() as files:
            guidance, inputs, upward, *merged = (
                files.enter_context(_Rows(height // 2, width // 2)) for _ in range(5)
            )
            for span in spans(height, window, _REACH):
                seen = self._look(params, self._put(picture[span.start : span.start + window]))
                for rows, values in zip((guidance, inputs), seen, strict=True):
                    rows.write(span.first // 2, _kept(values, span, 2))
            scanned = inputs
            for stage in range(NUM_STAGES):
                strips = _halved(spans(height, window, _REACH))
                self._sweep_up(params, stage, strips, scanned, guidance, upward)
                target = merged[stage % 2]
                self._sweep_down(params, stage, strips, scanned, guidance, upward, target)
                scanned = target
            restored = np.empty(picture.shape, np.float32)
            for span in spans(height, window, _RECONSTRUCTOR_REACH):
                end = span.start + window
                values = self._reconstruct(
                    params,
                    self._put(picture[span.start : end]),
                    *(self._put(r.read(span.start // 2, end // 2)) for r in (inputs, scanned)),
                )
                restored[span.first : span.end] = _kept(values, span, 1)
        return restored

    def _check_room(self, params, shape, window):
        """Before an hour of work, not after it."""
        height, width, colours = shape
        window = jax.ShapeDtypeStruct((1, window, width, colours), jnp.float32)
        guidance, inputs = (maps.shape[-1] for maps in jax.eval_shape(self._look, params, window))
        needed = 4 * (height // 2) * (width // 2) * (guidance + 4 * inputs)
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise StripError(
                f"{folder}: {free / 1e6:,.0f} MB are free, the strips of a picture of {width}x"
                f"{height} need {needed / 1e6:,.0f}: make room, or name another folder in TMPDIR"
            )

    def _sweep_up(self, params, stage, strips, inputs, guidance, upward):
        state = jnp.zeros((1, 1, inputs.width, inputs.channels))
        for start, end in reversed(strips):
            x, g = inputs.read(start, end), guidance.read(start - 1, end + 1)
            states = self._up(params, self._put(x), self._put(g), state, stage=stage)
            upward.write(start, np.asarray(states[0]))
            state = states[:, :1]

    def _sweep_down(self, params, stage, strips, inputs, guidance, upward, merged):
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


def _look(model: SVRNN, window):
    """What the gates are made of, and what the first stage scans; both at half size."""
    return model.weights(window), model.features(window)[1]


def _sweep_up(model: SVRNN, inputs, guidance, state, *, stage):
    """States from bottom to top of a strip; ``guidance`` has a row more above and below."""
    network = model.stages[stage]
    (gates,) = make_gates([network], guidance, ("bottom_to_top",))
    inputs, gates = _continued(inputs, gates[:, 1:-1], state, after=True)
    return network.scan(inputs, gates, ("bottom_to_top",))[:, :-1]


def _sweep_down(model: SVRNN, inputs, guidance, upward, state, goes_on, *, stage):
    """The stage's result on a strip, and the state that the next one goes on from.

    ``inputs`` and ``upward`` have a row more above and below, ``guidance`` two; ``state`` is that
    of the row before. ``goes_on`` is 1, or 0 where the picture ends with the strip.
    """
    network = model.stages[stage]
    others = ("left_to_right", "right_to_left")
    (gates,) = make_gates([network], guidance, ("top_to_bottom", *others))
    down_gates, other_gates = jnp.split(gates[:, 1:-1], [inputs.shape[-1]], axis=-1)
    downward = network.scan(
        *_continued(inputs, down_gates, state, after=False), ("top_to_bottom",)
    )[:, 1:]
    # Beyond the picture there are zeros, which the recurrence does not know.
    inside = jnp.ones((downward.shape[1], 1, 1), downward.dtype).at[-1].set(goes_on)
    sideways = network.scan(inputs, other_gates, others)
    merged = network.merged(jnp.concatenate([downward * inside, upward, sideways], -1))
    return merged[:, 1:-1].astype(jnp.float32), downward[:, -3:-2]


def _continued(inputs, gates, state, *, after):
    """A row with gate 0 hands its input on as the state that the scan goes on from."""
    parts = [state.astype(inputs.dtype), inputs]
    closed = [jnp.zeros_like(gates[:, :1]), gates]
    order = slice(None, None, -1) if after else slice(None)
    return jnp.concatenate(parts[order], 1), jnp.concatenate(closed[order], 1)


def _reconstruct(model: SVRNN, window, half, scanned):
    full = model.features.full(window)
    return model.reconstructor(full, half, scanned).astype(jnp.float32)


def _halved(parts: list[Span]) -> list[tuple[int, int]]:
    return [(span.first // 2, span.end // 2) for span in parts]


def _kept(values: jax.Array, span: Span, scale: int) -> np.ndarray:
    """The rows of a window's values that count, at 1/``scale`` of the picture's size."""
    first, end = ((row - span.start) // scale for row in (span.first, span.end))
    return np.asarray(values[0, first:end])


class _Rows:
    """A map (height, width, channels) float32 in a temporary file, by rows; zeros beyond it."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.channels = 0
        self._files = contextlib.ExitStack()

    def __enter__(self):
        self._file = self._files.enter_context(tempfile.TemporaryFile(prefix="deblur_jax-"))
        return self

    def __exit__(self, *error):
        self._files.close()

    def write(self, first: int, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, np.float32)
        self.channels = rows.shape[-1]
        try:
            self._file.seek(first * self._row_bytes)
            self._file.write(rows.data)
        except OSError as error:
            raise StripError(
                f"{tempfile.gettempdir()}: can't hold a picture's strips ({error.strerror}): make "
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
