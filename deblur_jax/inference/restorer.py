"""One image of any size to its restoration."""

import collections
import copy
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from PIL import Image

from deblur_jax.errors import ConfigError
from deblur_jax.images.reading import pixels_of
from deblur_jax.inference.canvas import Canvas
from deblur_jax.inference.devices import SharedRestorer
from deblur_jax.inference.ensemble import with_ensemble
from deblur_jax.inference.sizes import Layout, Size, framed, make_masked_restore_fn, plan_sizes
from deblur_jax.inference.strips import StripRestorer
from deblur_jax.inference.tiles import TileRestorer
from deblur_jax.models import ComputeConfig, NetworkConfig, abstract_model, restores_images
from deblur_jax.models.svrnn import SVRNN
from deblur_jax.ops.operations import Operations
from deblur_jax.runtime.compilation import Compiled, compiler_options
from deblur_jax.runtime.files import PathLike
from deblur_jax.weights.load import load_weights
from deblur_jax.weights.shipped import DEFAULT_WEIGHTS

_LARGEST_WHOLE = 2_000_000
"""Pixels. A larger image is restored in parts: a million needs 0.8 to 1.3 GB of memory."""

_MOST_PROGRAMS = 64
"""Compiled for sizes of images, that are kept in memory."""


def make_restore_fn(graphdef: nnx.GraphDef) -> Callable[[nnx.State, jax.Array], jax.Array]:
    """The pure function of inference, for ``jit``, ``pmap`` or a notebook.

    Returns:
        ``(params, blurred) -> restored``, (b, h, w, 3) float32 each, not clipped; h and w are
        multiples of the network's ``size_multiple``.
    """

    def restore(params: nnx.State, blurred: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(blurred)[0]

    return restore


class Restorer:
    """A network with its weights, ready to restore images of any size and kind.

    It may be called from several threads, pickled and deep-copied.

    A program is compiled for each size of image; ``plan_sizes`` lets many sizes share few programs.
    Neither changes the restoration of an image but for rounding.

    Args:
        model: the config of the network.
        params: its parameters.
        compute: how to compute it; float32 with the device's own operations by default.
        device: where to run; the first one by default.
        precision: of products; "highest" is float32 throughout on every device.
        ensemble: of ``ensemble.ENSEMBLES``, or None.
        tile: largest sides of the tiles that an image is restored in, in pixels; 0 for never,
            None for 1024 where the image has more than two million pixels. For SVRNN the height
            of strips as wide as the image: ``strips.StripRestorer``.
        overlap: how far a pixel is from its tile's border at least; None for 64, or the network's
            ``receptive_radius`` if that is smaller: then the result is that of the whole image,
            as it always is in strips.

    Raises:
        ConfigError: if the weights are not a whole network's, or the tiles are not possible.

    Attributes:
        restore_fn: the pure function ``(params, blurred) -> restored``, (b, h, w, 3) float32 each,
            not clipped; h and w are multiples of the network's ``size_multiple``. It may be called,
            jitted, mapped, sharded and differentiated. At most 64 of its compiled programs, one for
            each size, are kept in memory.
        params: the parameters.
        model: the config of the network.
        compute: how it is computed.
        device: where it runs.
        digest: of the weights, where they were loaded; else None.
        trained_on: the training data by name, where the weights say so; else None.
    """

    digest: str | None = None
    trained_on: str | None = None

    def __init__(
        self,
        model: NetworkConfig,
        params: nnx.State,
        *,
        compute: ComputeConfig | None = None,
        device: jax.Device | None = None,
        precision: str | None = "highest",
        ensemble: str | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> None:
        if not restores_images(model):
            raise ConfigError(
                f"the weights are those of {model.name}, to start a training from with "
                "--config.init_from; they can't restore images"
            )
        self.model = model
        self.device = device or jax.local_devices()[0]
        self.compute = dataclasses.replace(compute or ComputeConfig(), precision=precision)
        self.params = jax.device_put(params, self.device)
        network = self._abstract()
        self.pure_fns = self._make_pure_fns(network, ensemble)
        self.restore_fn = self._compiled(self.pure_fn)
        self._framed_fn = self._compiled(self.pure_fns[True]) if True in self.pure_fns else None
        self._size_multiple = network.size_multiple
        self._options = {"ensemble": ensemble, "tile": tile, "overlap": overlap}
        self._tile = tile
        self._in_parts = self._make_parts(network, tile, overlap, ensemble)
        self._planned: dict[Size, Size] = {}
        self._shared: dict[tuple[jax.Device, ...], SharedRestorer] = {}

    @classmethod
    def load(
        cls,
        path: PathLike = DEFAULT_WEIGHTS,
        *,
        ema: bool = False,
        backend: str = "auto",
        dtype: str | None = None,
        **options: Any,
    ) -> Self:
        """Loads a weights folder, a checkpoint, the workdir of a training run, or a single file.

        Args:
            path: see ``load_weights``; by default the weights that come with the package.
            ema: use the moving average of the parameters, of a run that kept one.
            backend: the backend whose operations to use: "auto" for the device's own, "plain" for
                ordinary ``jax.lax``, which can be differentiated forward and exported.
            dtype: of feature maps, "float32" or "bfloat16"; None for that of the training.
            **options: ``device``, ``precision``, ``ensemble``, ``tile`` and ``overlap`` of the
                constructor.

        Raises:
            CheckpointError, WeightFileError: if there are no weights, or they are damaged.
            ConfigError: for another dtype or backend.
        """
        weights = load_weights(path, device=options.get("device"), ema=ema)
        compute = weights.compute
        compute = dataclasses.replace(compute, backend=backend, dtype=dtype or compute.dtype)
        restorer = cls(weights.model, weights.params, compute=compute, **options)
        restorer.digest, restorer.trained_on = weights.digest.all, weights.trained_on
        return restorer

    def _make_pure_fns(self, network: Any, ensemble: str | None) -> dict[bool, Callable]:
        """The function, and that of framed images where the network can mask them.

        Returns:
            By ``Layout.is_framed``: ``(params, images) -> restored``, of (b, h, w, 3), or framed of
            (b, h, w, 4).
        """
        functions = {False: make_restore_fn(nnx.graphdef(network))}
        if getattr(network, "computes_by_table", False):
            platform = self.device.platform
            functions[True] = make_masked_restore_fn(self.model, self.compute, platform)
        if ensemble is None:
            return functions
        return {key: with_ensemble(function, ensemble) for key, function in functions.items()}

    @property
    def pure_fn(self) -> Callable[[nnx.State, jax.Array], jax.Array]:
        """What ``restore_fn`` compiles."""
        return self.pure_fns[False]

    @property
    def size_multiple(self) -> int:
        """Height and width of images of ``restore_fn`` must be multiples of it."""
        return self._size_multiple

    def _compiled(self, function: Callable) -> Compiled:
        platform, deterministic = self.device.platform, self.compute.deterministic
        options = compiler_options(platform, deterministic=deterministic)
        return Compiled(function, options, max_programs=_MOST_PROGRAMS)

    def _abstract(self, **options: Any) -> Any:
        platform = self.device.platform
        return abstract_model(self.model, compute=self.compute, platform=platform, **options)

    def _make_parts(
        self, network: Any, tile: int | None, overlap: int | None, ensemble: str | None
    ) -> TileRestorer | StripRestorer | None:
        """The object that restores large images in parts; None if they are restored whole."""
        if tile == 0:
            return None
        if network.receptive_radius is not None:
            multiple, radius = network.size_multiple, network.receptive_radius
            return TileRestorer(multiple, radius, tile, overlap)
        if not isinstance(network, SVRNN):
            if tile is None:
                return None
            raise ConfigError(f"--tile: {self.model.name} sees the whole image: it has no tiles")
        if overlap is not None:
            raise ConfigError(f"{self.model.name}'s strips have an overlap of their own")
        if ensemble is not None:
            if tile is None:
                return None
            raise ConfigError(f"{self.model.name}'s strips can't be rotated: no ensemble")
        on_arrays = self._abstract(change_operations=Operations.on_arrays)
        return StripRestorer(nnx.graphdef(on_arrays), self.device, tile)

    def on(self, device: jax.Device) -> Self:
        """The same network and weights on another device; itself, if it is on that device."""
        if device == self.device:
            return self
        options: dict[str, Any] = {**self._options, "precision": self.compute.precision}
        other = type(self)(self.model, self.params, compute=self.compute, device=device, **options)
        other.digest, other.trained_on = self.digest, self.trained_on
        other._planned = self._planned
        return other

    def __copy__(self) -> Self:
        """A shallow copy shares the compiled programs."""
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __reduce__(self) -> tuple[Callable, tuple[Any, ...]]:
        """Pickles and deep copies hold the parameters as numpy arrays, and compile anew."""
        position = jax.local_devices(backend=self.device.platform).index(self.device)
        state = {
            "model": self.model,
            "params": jax.tree.map(np.asarray, self.params),
            "compute": self.compute,
            "options": self._options,
            "device": (self.device.platform, position),
            "described": {"digest": self.digest, "trained_on": self.trained_on},
        }
        return _unpickled, (type(self), state)

    def with_params(self, params: nnx.State) -> Self:
        """The same compiled network with other parameters."""
        other = copy.copy(self)
        other.params = jax.device_put(params, self.device)
        other._shared = {}
        return other

    def plan_sizes(self, sizes: Iterable[Size], max_compilations: int) -> None:
        """Plans for images of these sizes to share ``max_compilations`` compiled programs.

        A network that does not say ``computes_by_table`` compiles one for each size all the same.

        Args:
            sizes: the height and width of every image to come, with repetitions.
        """
        self._shared = {}  # the copies on other devices have another plan
        parts = []
        for size in map(self._aligned, sizes):
            if not self._is_large(size):
                parts.append(size)
            elif isinstance(self._in_parts, TileRestorer):
                parts.append(self._in_parts.window(size))
        self._planned = {}
        if self._framed_fn is not None:
            common = plan_sizes(parts, max_compilations)
            alone = collections.Counter(common[size] for size in set(parts))
            self._planned = {size: to for size, to in common.items() if alone[to] > 1}

    @property
    def num_programs(self) -> int:
        """How many programs were compiled for whole images and tiles."""
        functions = filter(None, (self.restore_fn, self._framed_fn))
        return sum(function.count_programs() for function in functions)

    def __call__(self, image: Any, *, devices: Sequence[jax.Device] | None = None) -> np.ndarray:
        """Restores an image, or a batch of images.

        Grey is restored as a grey RGB image and averaged back; an alpha channel is kept as it is.

        Args:
            image: (h, w), (h, w, 1) or (h, w, 2) for grey, (h, w, 3) or (h, w, 4) for RGB, the even
                ones with alpha; uint8, uint16, or floats in [0, 1]; of numpy, JAX, or what
                ``numpy.asarray`` takes. Or a batch (b, h, w, c) of such; or a Pillow image of any
                mode; or the path of an image file.
            devices: which share the images of a batch, as ``jax.local_devices()``; by default
                the restorer's own computes them one after the other.

        Returns:
            The restored image, clipped to [0, 1] or rounded: for an array of the same shape, uint8,
            uint16 or float32 as what was given; CMYK, Lab and palettes become RGB.

        Raises:
            ValueError: for an array of another shape or dtype, or floats that are no colours.
            ImageError: for a file or a Pillow image that can't be read.
            RestorationError: if the network's output is not finite.
        """
        if isinstance(image, (Image.Image, str, os.PathLike)):
            image = pixels_of(image)
        image = np.asarray(image)
        if image.ndim == 4 and len(image):
            return np.stack(
                self.shared(devices).restore_all(image) if devices else [self(one) for one in image]
            )
        is_float = np.issubdtype(image.dtype, np.floating)
        return self.restore_in_place(image.astype(np.float32 if is_float else image.dtype))

    def shared(self, devices: Sequence[jax.Device]) -> SharedRestorer:
        """The same network and weights on these devices, kept for the next call."""
        key = tuple(devices)
        if key not in self._shared:
            self._shared[key] = SharedRestorer([self.on(device) for device in devices])
        return self._shared[key]

    def restore_in_place(
        self, pixels: np.ndarray, progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """Restores an image in the memory that holds it, which a large one needs.

        Args:
            pixels: an image as of ``__call__``, a numpy array that can be written to.
            progress: called after each part of the work, with the share of the work it was.

        Returns:
            ``pixels``.

        Raises:
            ValueError, RestorationError: as ``__call__``.
        """
        progress = progress or (lambda share: None)
        canvas = Canvas(pixels, self._size_multiple)
        if isinstance(self._in_parts, StripRestorer) and self._is_large(canvas.size):
            self._in_parts(self.params, canvas, progress)
        elif isinstance(self._in_parts, TileRestorer) and self._is_large(canvas.size):
            self._in_parts(self._restore_part, canvas, progress)
        else:
            whole = slice(0, canvas.size[0]), slice(0, canvas.size[1])
            canvas.write(*whole, self._restore_part(canvas.read(*whole)))
            progress(1.0)
        return canvas.finish()

    def layout(self, size: Size) -> Layout | None:
        """How an image is laid out, by the plan of sizes; None if it is restored in parts.

        Args:
            size: of the image.
        """
        aligned = self._aligned(size)
        if self._is_large(aligned):
            return None
        common = self._planned.get(aligned)
        return Layout(False, aligned) if common is None else Layout(True, common)

    def laid_out(self, image: np.ndarray) -> np.ndarray:
        """An image in the array of its layout.

        Args:
            image: (h, w, 3) float32 in [0, 1], not one that is restored in parts.
        """
        layout = self.layout(image.shape[:2])
        assert layout is not None
        aligned = self.padded(image[None])[0]
        return framed(aligned, layout.size)[0] if layout.is_framed else aligned

    def _restore_part(self, image: np.ndarray) -> np.ndarray:
        """Restores (h, w, 3), an image or a tile, sides multiples of ``size_multiple``."""
        height, width = image.shape[:2]
        common = self._planned.get((height, width))
        if common is None or self._framed_fn is None:
            batch = jax.device_put(image[None], self.device)
            return np.asarray(self.restore_fn(self.params, batch))[0]
        batch = jax.device_put(framed(image, common), self.device)
        return np.asarray(self._framed_fn(self.params, batch))[0, :height, :width, :-1]

    def _is_large(self, size: Size) -> bool:
        if self._in_parts is None:
            return False
        return max(size) > self._tile if self._tile else size[0] * size[1] > _LARGEST_WHOLE

    def padded(self, batch: np.ndarray) -> np.ndarray:
        """Pads a batch (b, h, w, 3) to a size that the network takes.

        Borders are repeated, below and to the right.
        """
        height, width = batch.shape[1:3]
        padded_height, padded_width = self._aligned((height, width))
        padding = ((0, 0), (0, padded_height - height), (0, padded_width - width), (0, 0))
        return np.pad(batch, padding, mode="edge")

    def _aligned(self, size: Size) -> Size:
        multiple = self._size_multiple
        return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def _unpickled(kind: type[Restorer], state: dict[str, Any]) -> Restorer:
    platform, position = state["device"]
    try:
        device = jax.local_devices(backend=platform)[position]
    except (RuntimeError, IndexError):
        device = jax.local_devices()[0]
        warnings.warn(
            f"a Restorer of device {position} of {platform} is on {device} now, since that is not "
            "here",
            stacklevel=2,
        )
    compute, options = state["compute"], {"precision": state["compute"].precision}
    options |= {"compute": compute, "device": device, **state["options"]}
    restorer = kind(state["model"], state["params"], **options)
    vars(restorer).update(state["described"])
    return restorer
