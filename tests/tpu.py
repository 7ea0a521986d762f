"""Compiling for TPUs on a machine that has none."""

import jax
import numpy as np
import pytest

from deblur_jax.planning.chips import topology_devices


def topology_mesh(name: str) -> jax.sharding.Mesh:
    """The devices of a TPU topology, as "v5e:2x2", along ``data``; skips without libtpu."""
    pytest.importorskip("libtpu", reason="libtpu is not installed")
    types = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.array(topology_devices(name)), ("data",), axis_types=types)
