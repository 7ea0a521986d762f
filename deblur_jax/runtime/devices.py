"""Devices as a mesh, and batches laid out on it."""

import os
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from deblur_jax.errors import ConfigError
from deblur_jax.runtime.limits import count_cores

DATA_AXIS = "data"


def use_all_cores() -> None:
    """Makes each core of a CPU a device of JAX. It must come before any use of devices.

    Programs that share a batch are faster so: one operation on two cores wastes what can't be
    divided, such as a loop over rows. A number that the user has set, in ``XLA_FLAGS`` or
    ``JAX_NUM_CPU_DEVICES``, stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    set_by_user = jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined]
    if set_by_user or "xla_force_host_platform_device_count" in flags:
        return
    jax.config.update("jax_num_cpu_devices", count_cores())


def require_devices() -> None:
    """Starts JAX's backend, which the first use of it would do.

    Raises:
        ConfigError: if it can't be started, as for a platform that is not there.
    """
    try:
        jax.devices()
    except RuntimeError as error:
        named = os.environ.get("JAX_PLATFORMS")
        where = f"JAX_PLATFORMS={named}: " if named else ""
        raise ConfigError(f"{where}{str(error).splitlines()[0]}") from error


def data_mesh(batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over ``devices`` (default: all), its axis called ``DATA_AXIS``.

    A single process leaves devices idle where ``batch_size`` does not divide over all of them.

    Raises:
        ConfigError: if several processes can't share the batch evenly.
    """
    devices = jax.devices() if devices is None else devices
    if jax.process_count() == 1:
        usable = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
        devices = devices[:usable]
    elif batch_size % len(devices):
        raise ConfigError(
            f"config.batch_size {batch_size} does not divide over {len(devices)} devices: "
            f"choose a multiple of {len(devices)}"
        )
    return Mesh(np.asarray(devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters: a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: rows split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def prefetch_to_device(batches: Iterator, sharding: NamedSharding, ahead: int = 2) -> Iterator:
    """Puts host batches on the devices, ``ahead`` of the one in use.

    Args:
        batches: nested dicts of numpy arrays; each process gives its own rows of the global batch.
        sharding: from ``batch_sharding``.
        ahead: how many batches are on their way while one is in use.
    """
    waiting = []
    for batch in batches:
        waiting.append(
            jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
        )
        if len(waiting) > ahead:
            yield waiting.pop(0)
    yield from waiting
