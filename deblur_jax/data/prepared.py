"""Pairs as a TFDS data set in array_record files: few large files instead of many small ones."""

import contextlib
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from deblur_jax.data.layouts import PairError
from deblur_jax.errors import UserError
from deblur_jax.images.reading import decoded_rgb
from deblur_jax.runtime.files import FileError, PathLike
from deblur_jax.runtime.names import shown

_INFO_FILE = "dataset_info.json"
_DOWNLOADS = "downloads"
NAME = "pairs"
VERSION = "1.0.0"


EncodedPair = tuple[str, bytes, bytes | list[bytes]]
"""Name, blurred and sharp; the images as RGB PNGs. Sharp may be several: see ``Frames``."""


_Builder: Any = tfds.core.GeneratorBasedBuilder  # it has no types


class PairsBuilder(_Builder, skip_registration=True):  # type: ignore[call-arg,misc]
    """Writes pairs, split by split; TensorFlow is not needed.

    Args:
        data_dir: where the data set goes, below ``pairs/1.0.0``.
        splits: for each split its pairs.
        several: whether each blurred image has several sharp ones.
        description: of the data set.
    """

    VERSION = tfds.core.Version(VERSION)
    name = NAME

    def __init__(
        self,
        *,
        data_dir: PathLike,
        splits: Mapping[str, Iterable[EncodedPair]],
        several: bool = False,
        description: str = "Pairs of a blurred image and its sharp original.",
    ) -> None:
        self._pairs = splits
        self._several = several
        self._description = description
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        # As bytes: images in a sequence could only be decoded all at once.
        sharp = tfds.features.Sequence(tfds.features.Text()) if self._several else image
        features = {"name": tfds.features.Text(), "blurred": image, "sharp": sharp}
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._description,
            features=tfds.features.FeaturesDict(features),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._examples(pairs) for split, pairs in self._pairs.items()}

    def _generate_examples(self) -> NoReturn:
        raise AssertionError("every split brings its own generator")

    def _examples(self, pairs: Iterable[EncodedPair]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, blurred, sharp in pairs:
            # Encoded bytes pass through TFDS untouched; it would encode arrays with TensorFlow.
            stored = io.BytesIO(sharp) if isinstance(sharp, bytes) else sharp
            stored_name = name.encode("utf-8", "surrogateescape")
            yield (
                shown(name),
                {"name": stored_name, "blurred": io.BytesIO(blurred), "sharp": stored},
            )


def write_prepared(
    out: PathLike,
    splits: Mapping[str, Iterable[EncodedPair]],
    *,
    several: bool = False,
    description: str = "Pairs of a blurred image and its sharp original.",
) -> None:
    """Writes a prepared data set; where it fails, nothing half-made is left.

    Args:
        out: the folder.
        splits, several, description: as of ``PairsBuilder``.

    Raises:
        FileError: if it can't be written, as on a full disk.
        UserError: what the pairs raise.
    """
    builder = PairsBuilder(data_dir=out, splits=splits, several=several, description=description)
    try:
        # TFDS speaks of downloads and of places that are not those of the user.
        sys.stdout.flush()
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except UserError:
        raise
    except (OSError, RuntimeError) as error:  # array_record's own errors are RuntimeErrors
        raise FileError(f"{out}: can't be written: {_reason(error)}") from error
    finally:
        for leftover in (epath.Path(out) / _DOWNLOADS, *_incomplete(out)):
            leftover.rmtree(missing_ok=True)


def _incomplete(out: PathLike) -> list[epath.Path]:
    return list((epath.Path(out) / NAME).glob("incomplete.*"))


def _reason(error: BaseException) -> str:
    """What the system said, without the words of the libraries around it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    found = re.search(r"failed: ([^;]+);", text)
    return found[1] if found else text[:200]


class PreparedPairs:
    """One split of a data set that ``PairsBuilder`` wrote, in the order of the names.

    Raises:
        PairError: if the data set has no such split.
    """

    def __init__(self, folder: PathLike, split: str) -> None:
        builder = _open(folder)
        if split not in builder.info.splits:
            raise PairError(
                f"{folder}: has no split {split!r}, only {', '.join(builder.info.splits)}"
            )
        self._several = isinstance(builder.info.features["sharp"], tfds.features.Sequence)
        images = ("blurred",) if self._several else ("blurred", "sharp")
        undecoded = dict.fromkeys(images, tfds.decode.SkipDecoding())
        self._records = builder.as_data_source(split, decoders=undecoded)
        stored = [(_text(r["name"]), _size(r["blurred"])) for r in self._records]
        self._order = sorted(range(len(stored)), key=lambda i: stored[i][0])
        self.names = [stored[i][0] for i in self._order]
        self.sizes = [stored[i][1] for i in self._order]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Item ``index``: ``blurred`` and ``sharp``, each (h, w, 3) uint8 or uint16.

        In a data set with several sharp images of each scene, ``sharp`` are ``Frames``.
        """
        record = self._records[self._order[index]]
        sharp = Frames(record["sharp"]) if self._several else decoded_rgb(record["sharp"])
        return {"blurred": decoded_rgb(record["blurred"]), "sharp": sharp}


class Frames:
    """Sharp images of one scene, any of them the truth, each decoded when it is asked for."""

    def __init__(self, encoded: Sequence[bytes]) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frame ``index``: (h, w, 3) uint8 or uint16."""
        return decoded_rgb(self._encoded[index])


def is_prepared(folder: PathLike) -> bool:
    """Whether ``PairsBuilder`` wrote this folder."""
    return _version_folder(folder) is not None


def prepared_splits(folder: PathLike) -> list[str]:
    """The splits of a prepared data set."""
    return list(_open(folder).info.splits)


def prepared_fingerprint(folder: PathLike) -> str:
    """The SHA-256 of the index of a prepared data set: its files, their bytes and records."""
    found = _version_folder(folder)
    if found is None:
        raise PairError(f"{folder}: holds no prepared data set")
    return hashlib.sha256((found / _INFO_FILE).read_bytes()).hexdigest()


def _size(encoded: bytes) -> tuple[int, int]:
    """Height and width, from the header."""
    with Image.open(io.BytesIO(encoded)) as image:
        return image.height, image.width


def _open(folder: PathLike) -> Any:
    found = _version_folder(folder)
    if found is None:
        raise PairError(f"{folder}: holds no prepared data set")
    return tfds.builder_from_directory(os.fspath(found))


def _version_folder(folder: PathLike) -> epath.Path | None:
    for candidate in (epath.Path(folder), epath.Path(folder) / NAME / VERSION):
        if (candidate / _INFO_FILE).exists():
            return candidate
    return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
