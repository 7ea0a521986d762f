"""The training step: a pure function of a state and a batch."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from deblur_jax.runtime.compilation import Compiled, deterministic_options
from deblur_jax.runtime.devices import DATA_AXIS
from deblur_jax.training.losses import LossFn


class TrainState(NamedTuple):
    """Everything that a step reads and changes."""

    step: jax.Array
    """() int32: number of batches seen, which is the position in the data."""
    params: nnx.State
    opt_state: optax.OptState
    skipped: jax.Array
    """() int32: steps passed over for a non-finite loss or gradient."""
    ema: nnx.State | None = None
    """Moving average of the parameters, where one is kept."""


def init_state(
    params: nnx.State, optimizer: optax.GradientTransformation, *, with_ema: bool = False
) -> TrainState:
    """The state before the first step."""
    # Two arrays of zero: the step donates its state, and a buffer can be donated only once.
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params) if with_ema else None
    return TrainState(step, params, optimizer.init(params), skipped, ema)


StepFn = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    graphdef: nnx.GraphDef,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    accumulation_steps: int = 1,
    ema_decay: float | None = None,
    deterministic: bool = True,
) -> Compiled:
    """Builds the compiled step ``(state, batch) -> (state, metrics)`` on the devices of a mesh.

    It is ``make_local_step`` in a ``shard_map``: each device computes loss and gradient of its own
    rows, and one all-reduce averages both. It may be called inside ``jit``, ``grad``, ``vmap``,
    ``checkpoint`` and ``lax.map``; inside a ``shard_map`` or ``pmap`` of your own use
    ``make_local_step``.

    Args:
        graphdef: of the network, from ``nnx.split``.
        loss_fn: ``(outputs of the network, sharp) -> (loss, its terms)``.
        optimizer: an optax transformation.
        seed: of the dropout masks.
        mesh: from ``runtime.devices.data_mesh``.
        accumulation_steps: parts in which a device computes its rows, one after the other.
        ema_decay: weight of the past in ``state.ema``; None if there is none.
        deterministic: on GPUs, whether every run of the step must give the same bits.

    Returns:
        The step. It donates ``state``: the argument must not be used afterwards, unless the call
        is inside another transformation. ``batch`` holds ``blurred`` and ``sharp``,
        (b, h, w, 3) uint8, or float32 in [0, 1]; b is the global batch. ``metrics`` are float32
        scalars: ``loss``, its terms, ``gradient_norm``, and ``skipped`` in all.
    """
    platform = mesh.devices.flat[0].platform
    step = make_local_step(
        graphdef,
        loss_fn,
        optimizer,
        seed=seed,
        axis_name=DATA_AXIS,
        accumulation_steps=accumulation_steps,
        ema_decay=ema_decay,
        # On the CPU the gradient of a convolution in a loop is ten times slower.
        unroll=platform == "cpu",
    )
    sharded = jax.shard_map(
        step, mesh=mesh, in_specs=(P(), P(DATA_AXIS)), out_specs=P(), check_vma=False
    )
    options = deterministic_options(platform, deterministic=deterministic)
    return Compiled(sharded, options, donate_argnums=0)


def make_local_step(
    graphdef: nnx.GraphDef,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    axis_name: str | None = None,
    accumulation_steps: int = 1,
    ema_decay: float | None = None,
    unroll: bool = False,
) -> StepFn:
    """The step of ``make_train_step`` as a pure function, neither compiled nor sharded.

    Dropout keys come from (seed, step, row of the global batch), so the number of devices does not
    change the masks. A step with a non-finite loss or gradient leaves parameters and optimiser
    untouched.

    Args:
        graphdef: of the network, from ``nnx.split``.
        loss_fn: ``(outputs of the network, sharp) -> (loss, its terms)``.
        optimizer: an optax transformation.
        seed: of the dropout masks.
        axis_name: the axis of the ``shard_map``, ``pmap`` or ``vmap`` around the step over which
            the rows of the global batch are divided; None if the step has all of them.
        accumulation_steps: parts in which the rows are computed, one after the other.
        ema_decay: weight of the past in ``state.ema``; None if there is none.
        unroll: whether those parts are written out, not a loop.

    Returns:
        ``(state, batch) -> (state, metrics)`` as of ``make_train_step``; ``batch`` holds the rows
        of this device.
    """

    def local_loss(
        params: nnx.State, batch: dict[str, jax.Array], dropout_keys: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        model = nnx.merge(graphdef, params)
        blurred, sharp = _as_float(batch["blurred"]), _as_float(batch["sharp"])
        return loss_fn(model(blurred, dropout_keys=dropout_keys), sharp)

    def step(
        state: TrainState, batch: dict[str, jax.Array]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        dropout_keys = _row_keys(seed, state.step, len(batch["blurred"]), axis_name)
        (loss, terms), grads = _mean_over_parts(
            functools.partial(jax.value_and_grad(local_loss, has_aux=True), state.params),
            (batch, dropout_keys),
            accumulation_steps,
            unroll,
        )
        if axis_name is not None:
            loss, terms, grads = jax.lax.pmean((loss, terms, grads), axis_name)

        gradient_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(gradient_norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        ema = None
        if ema_decay is not None:
            weight = jnp.where(finite, 1 - ema_decay, 0.0)
            ema = jax.tree.map(lambda e, p: e + weight * (p - e), state.ema, params)
        skipped = state.skipped + jnp.where(finite, 0, 1).astype(jnp.int32)
        metrics = {"loss": loss, **terms, "gradient_norm": gradient_norm, "skipped": skipped}
        return TrainState(state.step + 1, params, opt_state, skipped, ema), metrics

    return step


def _mean_over_parts(function: Callable, rows: tuple, parts: int, unroll: bool) -> Any:
    """The mean of ``function(*rows)`` over equal parts of the rows."""
    if parts == 1:
        return function(*rows)
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
    shapes = jax.eval_shape(lambda rows: function(*rows), jax.tree.map(lambda x: x[0], split))

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(*part)), None

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, split, unroll=unroll)
    return jax.tree.map(lambda x: x / parts, total)


def _row_keys(seed: int, step: jax.Array, local_rows: int, axis_name: str | None) -> jax.Array:
    """One key for each local row of the global batch."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * local_rows
    return jax.vmap(lambda row: jax.random.fold_in(key, first + row))(jnp.arange(local_rows))


def _as_float(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images
