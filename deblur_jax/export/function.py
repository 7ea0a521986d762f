"""What is exported: a pure function of images, with the plain operations, in float32."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deblur_jax.errors import ConfigError, UserError
from deblur_jax.inference.restorer import Restorer
from deblur_jax.models import ComputeConfig
from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.digest import name_of
from deblur_jax.weights.load import load_weights

SYMBOLS = ("b", "h", "w")
"""Batch, and height and width over the network's ``size_multiple``, where they are open."""


class ExportError(UserError, RuntimeError):
    """A network that can't be exported, or a file that does not compute what it should."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes that an export takes; None is any.

    Attributes:
        batch: number of images.
        height, width: in pixels, multiples of the network's ``size_multiple``.
    """

    batch: int | None = None
    height: int | None = None
    width: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
    """A network with its parameters, ready to export.

    Attributes:
        restorer: with the plain operations.
        params: by name; for the function.
        sizes: what the export takes.
        multiple: height and width must be multiples of it.
        about: strings on the network, for the file.
    """

    restorer: Restorer
    params: dict[str, np.ndarray]
    sizes: Sizes
    multiple: int
    about: dict[str, str]

    def __call__(self, params: dict[str, Any], blurred: jax.Array) -> jax.Array:
        """The pure function: parameters by name and (b, h, w, 3) to (b, h, w, 3), not clipped."""
        names = jax.tree_util.tree_leaves_with_path(self.restorer.params)
        leaves = [params[name_of(path)] for path, _ in names]
        state = jax.tree.unflatten(jax.tree.structure(self.restorer.params), leaves)
        return self.restorer.pure_fn(state, blurred)

    def input_shape(self) -> jax.ShapeDtypeStruct:
        """The images of the export; open sizes are symbols."""
        sizes, multiple = self.sizes, self.multiple
        words = [
            "b" if sizes.batch is None else str(sizes.batch),
            f"{multiple}*h" if sizes.height is None else str(sizes.height),
            f"{multiple}*w" if sizes.width is None else str(sizes.width),
            "3",
        ]
        shape = jax.export.symbolic_shape(", ".join(words))
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def example(self, seed: int = 0) -> np.ndarray:
        """Random images of a size that the export takes, not square where it may be otherwise."""
        sizes, multiple = self.sizes, self.multiple
        shape = (sizes.batch or 2, sizes.height or 6 * multiple, sizes.width or 10 * multiple, 3)
        return np.random.default_rng(seed).random(shape, np.float32)


def exportable(weights: PathLike, *, ema: bool = False, sizes: Sizes | None = None) -> Exportable:
    """Loads weights to export them.

    Args:
        weights: see ``load_weights``.
        ema: use the moving average of a run that kept one.
        sizes: that the export takes; any by default.

    Raises:
        CheckpointError, WeightFileError: if there are no weights, or they are damaged.
        ConfigError: for a size that the network does not take.
    """
    loaded = load_weights(weights, ema=ema)
    compute = ComputeConfig(backend="plain")
    restorer = Restorer(loaded.model, loaded.params, compute=compute)
    sizes, multiple = sizes or Sizes(), restorer.size_multiple
    for length in (sizes.height, sizes.width):
        if length is not None and (length < 1 or length % multiple):
            least = max(1, length // multiple) * multiple
            raise ConfigError(
                f"--size: {length} is not a multiple of {multiple}, which {loaded.model.name} "
                f"needs: take {least} or {least + multiple}"
            )
    if sizes.batch is not None and sizes.batch < 1:
        raise ConfigError(f"--batch must be at least 1, not {sizes.batch}")
    params = {
        name_of(path): np.asarray(leaf, np.float32)
        for path, leaf in jax.tree_util.tree_leaves_with_path(loaded.params)
    }
    about = {
        "network": loaded.model.name,
        "digest": loaded.digest.all,
        "height_and_width_are_multiples_of": str(multiple),
        "images": "RGB in 0 to 1, batch x height x width x 3, not clipped",
    }
    return Exportable(restorer, params, sizes, multiple, about)
