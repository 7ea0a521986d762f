"""TPU chips: what their maker publishes of them, and the slices that can be rented."""

import math
import os
from typing import NamedTuple

import jax

from deblur_jax.errors import ConfigError

_GIB = 2**30


class Chip(NamedTuple):
    """The figures that its maker publishes of a TPU chip."""

    flops: float
    """Per second, bfloat16 products; float32 at default precision uses them too."""
    bytes_per_second: float
    """To and from its HBM."""
    hbm_bytes: int
    """What programs may use of it where the compiler says so (v5e), else all."""
    clock: float
    """Cycles per second, of which the published speed is made: two cores of four matrix units of
    128x128 in v4 and v5p, one core of them in v5e, of 256x256 in v6e."""
    cores: int
    """They work as one device, as they do in JAX on such a chip."""

    @property
    def vector_operations(self) -> float:
        """Per second, of float32 outside of the matrix units: 8 x 128 lanes, four at once."""
        return 8 * 128 * 4 * self.clock * self.cores


CHIPS = {
    "v4": Chip(275e12, 1228e9, 32 * _GIB, 1.05e9, 2),
    "v5e": Chip(197e12, 819e9, int(15.75 * _GIB), 1.5e9, 1),
    "v5p": Chip(459e12, 2765e9, 95 * _GIB, 1.75e9, 2),
    "v6e": Chip(918e12, 1640e9, 32 * _GIB, 1.75e9, 1),
}

KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
"""The chips by the names that JAX gives to devices."""

_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_SLICES = {"v4": _CUBIC, "v5e": _FLAT, "v5p": _CUBIC, "v6e": _FLAT}
"""The slices that can be rented, small to large; a program runs on all chips of one."""

_TOPOLOGY_OPTIONS = {"v4": {"chip_config_name": "megacore"}}
"""Without it libtpu describes each core of a v4 chip as a device."""


def usable_devices(topology: str, devices: list[jax.Device], rows: int) -> list[jax.Device]:
    """All devices of a topology, or of the largest smaller one that rows divide over.

    Compilers refuse a part of a slice, but for single chips of the smallest, which is one host.
    """
    if rows % len(devices) == 0:
        return devices
    chip = topology.partition(":")[0]
    sizes = {name: math.prod(map(int, name.split("x"))) for name in _SLICES[chip]}
    usable = [name for name, n in sizes.items() if n < len(devices) and rows % n == 0]
    if usable:
        return topology_devices(f"{chip}:{usable[-1]}")
    host = topology_devices(f"{chip}:{_SLICES[chip][0]}")
    return host[: max(n for n in range(1, len(host) + 1) if rows % n == 0)]


def topology_devices(topology: str) -> list[jax.Device]:
    """The devices of a topology, described by libtpu; they can be compiled for.

    Raises:
        ConfigError: without libtpu, or for a topology that it does not know.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ConfigError(f"--topology {topology}: known are {', '.join(CHIPS)}, as in v5e:4x4")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU host to ask for metadata
    os.environ.setdefault(
        "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
    )  # and no TPU that only one process may use
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **_TOPOLOGY_OPTIONS.get(name, {})
        )
        return list(described.devices)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--topology {topology}: {reason} (libtpu is needed: pip install 'jax[tpu]==0.10.2')"
        ) from None
