"""What happens to an image that is given to the page."""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from deblur_jax.errors import UserError
from deblur_jax.images.files import ImageError
from deblur_jax.images.reading import read_header, read_image
from deblur_jax.images.writing import write_image
from deblur_jax.inference.canvas import RestorationError
from deblur_jax.inference.restorer import Restorer
from deblur_jax.pages.images import preview
from deblur_jax.runtime.files import make_folder

_SHOWN_PIXELS = 1600
_MEGA = 1_000_000
_TIFF = (".tif", ".tiff")


class Result(NamedTuple):
    """A restored image.

    Attributes:
        before, after: previews.
        file: the restored image in full.
        words: a line on what was done, and one for each thing to know of it.
    """

    before: Image.Image
    after: Image.Image
    file: Path
    words: str


class Service:
    """Restores images one after the other on each device; networks are loaded when first asked for.

    Args:
        weights: as ``Restorer.load``, the first of them loaded at once.
        max_megapixels: of an image.
    """

    def __init__(self, weights: Sequence[str], max_megapixels: float) -> None:
        self.weights = list(weights)
        self.max_megapixels = max_megapixels
        self._loaded: dict[tuple[str, str | None, int], Restorer] = {}
        self._loading = threading.Lock()
        self._idle: queue.Queue[int] = queue.Queue()
        for position in range(jax.local_device_count()):
            self._idle.put(position)
        self._restorer(self.weights[0], None, 0)

    def __call__(
        self,
        image: Path,
        folder: Path,
        *,
        weights: str,
        ensemble: str | None,
        progress: Callable[[float], None],
    ) -> Result:
        """Restores a file.

        Args:
            image: the file.
            folder: to write the restored image to.
            weights: of ``self.weights``.
            ensemble: of ``ENSEMBLES``, or None.
            progress: called with the share of the work that is done, 0 to 1.

        Raises:
            UserError: in a line that names the file without its folder.
        """
        if weights not in self.weights:
            raise UserError(f"{weights}: not among the weights of this page")
        with _errors_without_folder(image):
            height, width = read_header(image).size
            if height * width > self.max_megapixels * _MEGA:
                raise ImageError(
                    f"{image}: {width}x{height} pixels are more than this page takes "
                    f"({self.max_megapixels:g} megapixels); `deblur-jax restore` takes larger ones"
                )
            stored = read_image(image)
            before = preview(stored, _SHOWN_PIXELS)
            pixels = np.require(stored.pixels, requirements=["C", "W"])
            start = time.monotonic()
            self._restore_in_place(pixels, weights, ensemble, progress)
            seconds = time.monotonic() - start
            stored = dataclasses.replace(stored, pixels=pixels)
            suffix = image.suffix if image.suffix.lower() in _TIFF else ".png"
            make_folder(folder)
            file = folder / f"{image.stem}_restored{suffix}"
            write_image(file, stored)
            words = [f"{width}x{height} pixels restored in {seconds:.1f} s", *stored.notes]
            return Result(before, preview(stored, _SHOWN_PIXELS), file, "; ".join(words))

    def _restore_in_place(
        self,
        pixels: np.ndarray,
        weights: str,
        ensemble: str | None,
        progress: Callable[[float], None],
    ) -> None:
        """Waits for a device that is idle, and restores an image on it."""
        done = 0.0

        def add(share: float) -> None:
            nonlocal done
            done += share
            progress(min(done, 1.0))

        position = self._idle.get()
        try:
            self._restorer(weights, ensemble, position).restore_in_place(pixels, add)
        finally:
            self._idle.put(position)

    def _restorer(self, weights: str, ensemble: str | None, position: int) -> Restorer:
        key = (weights, ensemble, position)
        with self._loading:
            if key not in self._loaded:
                device = jax.local_devices()[position]
                self._loaded[key] = Restorer.load(weights, ensemble=ensemble, device=device)
            return self._loaded[key]


@contextlib.contextmanager
def _errors_without_folder(image: Path) -> Iterator[None]:
    try:
        yield
    except RestorationError as error:
        raise UserError(f"{image.name}: {error}") from None
    except UserError as error:
        raise UserError(str(error).replace(str(image), image.name)) from None
