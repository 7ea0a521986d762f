"""Reads pairs from array_record files: few large files instead of many small ones."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from deblur_jax.data.layouts import PairError
from deblur_jax.images.files import ImageError
from deblur_jax.images.reading import decoded_rgb
from deblur_jax.runtime.files import PathLike, file_size

_INFO_FILE = "dataset_info.json"
NAME = "pairs"
VERSION = "1.0.0"


EncodedPair = tuple[str, bytes, bytes | list[bytes]]
"""Name, blurred and sharp; the images as RGB PNGs. Sharp may be several: see ``Frames``."""


def features_of(*, several: bool) -> Any:
    """What a record holds.

    Args:
        several: whether each blurred image has several sharp ones.
    """
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
    # As bytes: images in a sequence could only be decoded all at once.
    sharp = tfds.features.Sequence(tfds.features.Text()) if several else image
    features = {"name": tfds.features.Text(), "blurred": image, "sharp": sharp}
    return tfds.features.FeaturesDict(features)


def index_file(data: epath.Path, split: str) -> epath.Path:
    """The file with the names and sizes of a split, so that opening it reads no images."""
    return data / f"index-{split}.json"


class PreparedPairs:
    """One split of a data set that ``preparing`` wrote, in the order of the names.

    Raises:
        PairError: if the data set has no such split, or its files are damaged.
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
        self._folder, self._files = folder, _files(builder.info.splits[split])
        try:
            self._records = builder.as_data_source(split, decoders=undecoded)
            names, sizes = self._read_index(epath.Path(builder.data_dir), split)
        except PairError:
            raise
        except Exception as error:  # a damaged file can fail in any way
            raise PairError(f"{folder}: {split} can't be opened: {_first_line(error)}") from None
        self._order = sorted(range(len(names)), key=names.__getitem__)
        self.names = [names[i] for i in self._order]
        self.sizes = [sizes[i] for i in self._order]

    def _read_index(self, data: epath.Path, split: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Names and sizes; of a data set without an index, from all its records."""
        for file, count in self._files:
            if count and (not file.exists() or file_size(file) == 0):
                raise PairError(f"{file}: is missing or empty: prepare {self._folder} again")
        index = index_file(data, split)
        if index.exists():
            columns = json.loads(index.read_text())
            names = columns["names"]
            if len(names) != len(self._records):
                raise PairError(
                    f"{index}: has {len(names):,} names for {len(self._records):,} records: "
                    f"prepare {self._folder} again"
                )
            return names, [(height, width) for height, width in columns["sizes"]]
        stored = [self._record(i, "a pair") for i in range(len(self._records))]
        return [_text(r["name"]) for r in stored], [image_size(r["blurred"]) for r in stored]

    def _record(self, place: int, name: str) -> dict[str, Any]:
        try:
            return self._records[place]
        except Exception as error:  # a damaged file can fail in any way
            file = next((f for f, end in self._ends() if place < end), self._folder)
            raise PairError(
                f"{file}: damaged: {name} can't be read ({_first_line(error)}): prepare "
                f"{self._folder} again"
            ) from None

    def _ends(self) -> Iterator[tuple[epath.Path, int]]:
        end = 0
        for file, count in self._files:
            end += count
            yield file, end

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Item ``index``: ``blurred`` and ``sharp``, each (h, w, 3) uint8 or uint16.

        In a data set with several sharp images of each scene, ``sharp`` are ``Frames``.
        """
        name = self.names[index]
        record = self._record(self._order[index], name)
        try:
            sharp = Frames(record["sharp"]) if self._several else decoded_rgb(record["sharp"])
            return {"blurred": decoded_rgb(record["blurred"]), "sharp": sharp}
        except ImageError as error:
            raise ImageError(f"{self._folder}: {name}: {error}") from None


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
    """Whether ``preparing`` wrote this folder."""
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


def image_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of the image in the bytes of a file, from its header."""
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


def _files(split: Any) -> list[tuple[epath.Path, int]]:
    """The record files of a split, and how many records each has."""
    return [
        (epath.Path(path), count)
        for path, count in zip(split.filepaths, split.shard_lengths, strict=True)
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
