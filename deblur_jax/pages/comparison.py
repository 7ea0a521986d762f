"""A page with every image before and after, its previews beside it."""

import dataclasses
import datetime
import threading
from collections.abc import Mapping, Sequence
from typing import Literal

from etils import epath

from deblur_jax.images.files import StoredImage
from deblur_jax.pages.images import as_jpeg, preview
from deblur_jax.pages.template import render
from deblur_jax.runtime.files import make_folder, write_whole
from deblur_jax.runtime.names import file_name

PAGE = "compare.html"
_FOLDER = "compare"
_SHOWN_PIXELS = 1600


@dataclasses.dataclass(frozen=True)
class _Shown:
    """One image of the page; files relative to the page."""

    name: str
    full: str
    before: str
    after: str
    width: int
    height: int


class Comparison:
    """Collects images, from several threads too, and writes the page.

    Args:
        out: the folder of the restored images; the page is compare.html there, its previews lie in
            compare/.
    """

    def __init__(self, out: epath.Path) -> None:
        self._out = out
        self._images: dict[epath.Path, _Shown] = {}
        self._lock = threading.Lock()

    def add(
        self, when: Literal["before", "after"], target: epath.Path, name: str, image: StoredImage
    ) -> None:
        """Writes the preview of an image before restoration, or after.

        Args:
            when: which it is.
            target: the file of the restored image, in the folder.
            name: of the image in the page.
            image: as it was read, or as it is written.

        Raises:
            FolderError, FileError: if it can't be written.
        """
        file = self._out / self._file(target, when)
        small = preview(image, _SHOWN_PIXELS)
        make_folder(file.parent)
        write_whole(file, as_jpeg(small))
        if when == "after":
            relative = target.relative_to(self._out).as_posix()
            before, after = (self._file(target, w).as_posix() for w in ("before", "after"))
            with self._lock:
                self._images[target] = _Shown(name, relative, before, after, *small.size)

    def has(self, target: epath.Path) -> bool:
        """Whether the previews of an image were written."""
        return target in self._images

    def write(
        self, order: Sequence[epath.Path], failures: Sequence[str], foot: Mapping[str, str]
    ) -> epath.Path:
        """Writes the page.

        Args:
            order: of the targets.
            failures: lines on images that are not shown.
            foot: what was used: version, weights, digest.

        Returns:
            The file.
        """
        images = [self._images[target] for target in order if self.has(target)]
        page = render(
            "compare.html",
            title=f"{len(images)} images before and after",
            images=images,
            failures=failures,
            foot={**foot, "date": f"{datetime.date.today():%Y-%m-%d}"},
        )
        write_whole(self._out / PAGE, page)
        return self._out / PAGE

    def _file(self, target: epath.Path, when: str) -> epath.Path:
        relative = epath.Path(_FOLDER) / target.relative_to(self._out)
        return relative.with_name(file_name(relative.name, f".{when}.jpg"))
