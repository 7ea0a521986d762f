"""A network as StableHLO, by ``jax.export``: runs wherever JAX does, without this package."""

import functools
from collections.abc import Sequence

import jax
import safetensors.numpy

from deblur_jax.export.function import Exportable, ExportError

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
    network: Exportable, platforms: Sequence[str] = PLATFORMS, *, with_params: bool = True
) -> bytes:
    """The serialized artefact, for ``jax.export.deserialize``.

    Args:
        network: to export.
        platforms: that it can run on.
        with_params: keep the parameters inside, ``call(images)``; else ``call(params, images)``
            with the arrays of ``params_file`` by name.

    Raises:
        ExportError: if it can't be exported.
    """
    images = network.input_shape()
    if with_params:
        function = jax.jit(functools.partial(network, network.params))
        arguments: tuple = (images,)
    else:
        function = jax.jit(network)
        shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in network.params.items()}
        arguments = (shapes, images)
    try:
        return bytes(jax.export.export(function, platforms=platforms)(*arguments).serialize())
    except ImportError as error:
        raise ExportError(
            f"StableHLO is written with the package {error.name}, which is missing: "
            "pip install flatbuffers"
        ) from None


def params_file(network: Exportable) -> bytes:
    """The parameters as a safetensors file, by the names that the artefact asks for."""
    return safetensors.numpy.save(network.params, {"format": "np", **network.about})
