"""What ``benchmarks.worker`` runs of this project."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax import ComputeConfig, Config, LossConfig, Restorer, model_config
from deblur_jax.models import initialize
from deblur_jax.runtime.devices import batch_sharding, data_mesh, replicated, use_all_cores
from deblur_jax.runtime.memory import give_freed_memory_back, keep_freed_memory
from deblur_jax.training.losses import make_loss
from deblur_jax.training.optimizer import make_optimizer
from deblur_jax.training.step import init_state, make_train_step


def make(
    network: str, what: str, shape: Sequence[int], compute: ComputeConfig
) -> Callable[[], None]:
    """A function that does the work once and waits for it.

    Args:
        network: "mimo_unet", "svrnn", "recurrence" for that of SVRNN in four directions, or
            "convolution" for one of 3x3.
        what: "inference" or "training", a whole step with Adam, as ``train.py`` runs it.
        shape: batch, height and width; channels for "convolution" and "recurrence".
        compute: dtype and backend.
    """
    if network == "convolution":
        return _convolution(compute, *shape)
    if network == "recurrence":
        return _recurrence(compute, what, *shape)
    return (_training if what == "training" else _inference)(network, compute, *shape)


def peak_bytes_of_device() -> int | None:
    """The peak of a GPU's memory; None on the CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _inference(network, compute, batch, height, width):
    model = model_config(network)
    _, params = initialize(model, seed=0)
    restorer = Restorer(model, params, precision=None, compute=compute)
    images = jax.device_put(_images(batch, height, width))
    return lambda: jax.block_until_ready(restorer.restore_fn(restorer.params, images))


def _training(network, compute, batch, height, width):
    keep_freed_memory()
    use_all_cores()
    loss = LossConfig(name="squared_error" if network == "svrnn" else "mimo_unet")
    config = Config(model=model_config(network), compute=compute, loss=loss, batch_size=batch)
    graphdef, params = initialize(config.model, seed=0, compute=compute)
    optimizer = make_optimizer(config.optimizer, config.num_steps)
    mesh = data_mesh(batch)
    step = make_train_step(
        graphdef,
        make_loss(loss),
        optimizer,
        seed=0,
        mesh=mesh,
        deterministic=compute.deterministic,
    )
    make_state = jax.jit(init_state, static_argnums=1)
    state = [jax.device_put(make_state(params, optimizer), replicated(mesh))]
    pairs = {key: _images(batch, height, width) for key in ("blurred", "sharp")}
    pairs = jax.device_put(pairs, batch_sharding(mesh))

    program = []

    def run():
        if not program:  # as the training loop does
            program.append(step.compile(state[0], pairs))
            give_freed_memory_back()
        state[0], metrics = program[0](state[0], pairs)
        jax.block_until_ready((state[0], metrics))

    return run


def _recurrence(compute, what, batch, height, width, channels):
    recurrence = compute.resolve(jax.default_backend()).ops.gated_recurrence
    rng = np.random.default_rng(0)
    dtype = jnp.dtype(compute.dtype)
    inputs = jnp.asarray(rng.random((batch, height, width, channels), np.float32), dtype)
    gates = jnp.asarray(rng.random((batch, height, width, 4 * channels), np.float32), dtype)
    if what == "training":
        scan = jax.jit(lambda x, g: jax.vjp(recurrence, x, g)[1](g))
    else:
        scan = jax.jit(recurrence)
    return lambda: jax.block_until_ready(scan(inputs, gates))


def _convolution(compute, batch, height, width, channels):
    features = jnp.ones((batch, height, width, channels))
    kernel, bias = jnp.ones((3, 3, channels, channels)), jnp.zeros(channels)
    convolve = jax.jit(compute.resolve(jax.default_backend()).ops.convolution)
    return lambda: jax.block_until_ready(convolve(features, kernel, bias))


def _images(batch, height, width):
    return np.random.default_rng(0).random((batch, height, width, 3), np.float32)
