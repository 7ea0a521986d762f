"""Data sets by name, their splits, and decoded images kept in memory."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from deblur_jax.data import folder
from deblur_jax.data.config import DataConfig
from deblur_jax.data.folder import FolderPairs, folder_fingerprint
from deblur_jax.data.layouts import PairError, split_folders
from deblur_jax.data.mixture import Mixture, PairSource, named_shares
from deblur_jax.data.prepared import (
    PreparedPairs,
    is_prepared,
    prepared_fingerprint,
    prepared_splits,
)
from deblur_jax.data.synthetic import SyntheticPairs

_SYNTHETIC = "synthetic:"
_SHARP = "sharp:"


def open_pairs(
    name: str,
    split: str,
    *,
    length: int = 16,
    size: int = 256,
    seed: int = 0,
    loose_names: bool = False,
) -> PairSource:
    """Opens one split of a data set.

    Args:
        name: one of
            "synthetic:FAMILY", the embedded data set;
            a folder that ``deblur-jax prepare`` made;
            a folder of pairs, or one with such folders called train/, validation/ and test/, or
            as ``layouts`` says else;
            "sharp:NAME", the sharp images of NAME twice: a network that also trains on these
            learns to leave sharp images as they are.
            A data set without splits is returned whole, whatever ``split`` is.
        split: "train", "validation" or "test".
        length: number of pairs of the embedded data set.
        size: height and width of the embedded data set's images, in pixels.
        seed: of the embedded data set.
        loose_names: of a folder, match names as ``names.match_loosely``.

    Raises:
        PairError, ImageError: if the data set is missing, broken, or has other splits only.
    """
    if name.startswith(_SHARP):
        options: dict[str, Any] = {
            "length": length,
            "size": size,
            "seed": seed,
            "loose_names": loose_names,
        }
        return SharpTwice(open_pairs(name.removeprefix(_SHARP), split, **options))
    if is_embedded(name):
        family = name.removeprefix(_SYNTHETIC)
        return SyntheticPairs(family, split, length=length, size=size, seed=seed)
    available = available_splits(name)
    if available and split not in available:
        raise PairError(f"{name}: has no split {split!r}, only {', '.join(available)}")
    if is_prepared(name):
        return PreparedPairs(name, split if available else UNDIVIDED)
    place = split_folders(name)[split] if available else name
    return FolderPairs(place, loose_names=loose_names)


def is_embedded(name: str) -> bool:
    """Whether a data set is "synthetic:FAMILY", made of the photographs in this package."""
    return name.startswith(_SYNTHETIC)


UNDIVIDED = "undivided"
"""The one split of a prepared data set that has no others (TFDS keeps "all" for itself)."""


def fingerprint(name: str) -> str | None:
    """Identifies the training images of a data set on disk, wherever it is.

    That is the SHA-256 of the names and sizes in bytes of its files; of a prepared one, of its
    index; of a mixture "A=0.7,B=0.3", of those of its parts and their shares. None for the
    embedded data set, and for one without a folder.

    Raises:
        PairError: as ``open_pairs``.
    """
    shares = named_shares(name)
    parts = [_fingerprint(part) for part, _ in shares]
    if len(parts) == 1:
        return parts[0]
    described = [
        f"{part if on_disk is None else on_disk}={share}"
        for (part, share), on_disk in zip(shares, parts, strict=True)
    ]
    return _sha256(",".join(described))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _fingerprint(name: str) -> str | None:
    if name.startswith(_SHARP):
        on_disk = _fingerprint(name.removeprefix(_SHARP))
        return None if on_disk is None else _sha256(f"{_SHARP}{on_disk}")
    if is_embedded(name):
        return None
    available = available_splits(name)
    if is_prepared(name):
        return prepared_fingerprint(name)
    return folder_fingerprint(split_folders(name).get("train", name) if available else name)


def what_is_passed_over(name: str, split: str) -> list[str]:
    """Lines on files in a data set's folders of images that are no images."""
    name = name.removeprefix(_SHARP)
    if is_embedded(name) or is_prepared(name):
        return []
    return folder.what_is_passed_over(split_folders(name).get(split, name))


def available_splits(name: str) -> list[str]:
    """The splits of a data set on disk, by our names; empty if it is one undivided set."""
    name = name.removeprefix(_SHARP)
    if is_prepared(name):
        return [split for split in prepared_splits(name) if split != UNDIVIDED]
    if not epath.Path(name).is_dir():
        raise PairError(f'{name}: no such folder, and not one of the "{_SYNTHETIC}" data sets')
    return list(split_folders(name))


def open_training_pairs(config: DataConfig, seed: int) -> tuple[PairSource, PairSource | None]:
    """Opens what a run trains on, and what it validates on: never the test split.

    The validation pairs are those of ``config.validation``, if given; else of the data set's own
    validation split; else whole sequences cut off its training split, about
    ``config.validation_fraction`` of it; of a mixture, those of all its parts. They are None where
    that fraction is 0.

    Raises:
        PairError, ImageError: as ``open_pairs``.
    """
    options: dict[str, Any] = {"size": config.image_size, "seed": seed}
    shares = named_shares(config.train)
    parts = [open_pairs(name, "train", length=config.length, **options) for name, _ in shares]
    validation = None
    if config.validation is not None:
        validation = open_pairs(config.validation, "validation", **options)
    elif config.validation_fraction > 0:
        divided = [
            _with_validation(name, part, config, options)
            for (name, _), part in zip(shares, parts, strict=True)
        ]
        parts = [part for part, _ in divided]
        validation = _joined([held_out for _, held_out in divided], [1.0] * len(divided))
    train = _joined(parts, [share for _, share in shares])
    if validation is not None and len(validation) > config.validation_limit:
        spread = np.linspace(0, len(validation) - 1, config.validation_limit).round().astype(int)
        validation = Subset(validation, spread.tolist())
    return train, validation


def _joined(sources: Sequence[PairSource], shares: Sequence[float]) -> PairSource:
    return sources[0] if len(sources) == 1 else Mixture(sources, shares)


def _with_validation(
    name: str, train: PairSource, config: DataConfig, options: dict
) -> tuple[PairSource, PairSource]:
    if is_embedded(name.removeprefix(_SHARP)):
        return train, open_pairs(name, "validation", length=config.validation_limit, **options)
    if "validation" in available_splits(name):
        return train, open_pairs(name, "validation")
    held_out = validation_indices(train.names, config.validation_fraction)
    rest = sorted(set(range(len(train))) - set(held_out))
    return Subset(train, rest), Subset(train, held_out)


def validation_indices(names: Sequence[str], fraction: float) -> list[int]:
    """The indices of the pairs to hold out of training.

    Whole sequences are taken, from the end of the sorted names.

    A sequence is the part of a name before its last "/" or "_". Frames of one sequence are nearly
    the same image, so that splitting it would make validation too easy; only where all pairs are
    of one sequence, its last frames are taken.

    Raises:
        PairError: if nothing would be left to train on.
    """
    wanted = max(1, round(fraction * len(names)))
    by_sequence: dict[str, list[int]] = {}
    for index, name in sorted(enumerate(names), key=lambda item: item[1]):
        by_sequence.setdefault(_sequence(name), []).append(index)
    if len(names) < 2:
        raise PairError("one pair is too few for training and validation: set data.validation")
    if len(by_sequence) == 1:
        (frames,) = by_sequence.values()
        return frames[-min(wanted, len(frames) - 1) :]
    held_out: list[int] = []
    for frames in list(by_sequence.values())[:0:-1]:
        if len(held_out) >= wanted:
            break
        held_out += frames
    return sorted(held_out)


def _sequence(name: str) -> str:
    return name.rpartition("/" if "/" in name else "_")[0]


def check_sizes(pairs: PairSource, patch_size: int) -> None:
    """Checks that a patch fits into every image, where the source knows the sizes.

    Raises:
        PairError: naming all images that are smaller.
    """
    sizes = getattr(pairs, "sizes", None) or []
    small = [
        f"{name} ({width}x{height})"
        for name, (height, width) in zip(pairs.names, sizes, strict=False)
        if min(height, width) < patch_size
    ]
    if small:
        raise PairError(
            f"smaller than data.patch_size {patch_size}: {', '.join(small)}; leave them out, or "
            "train on smaller patches"
        )


class Subset:
    """Some pairs of a source, in the order given."""

    def __init__(self, source: PairSource, indices: Sequence[int]) -> None:
        self._source = source
        self._indices = indices
        self.names = [source.names[i] for i in indices]
        sizes = getattr(source, "sizes", None)
        self.sizes = None if sizes is None else [sizes[i] for i in indices]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._source[self._indices[index]]


class SharpTwice:
    """The sharp images of a source, each paired with itself."""

    def __init__(self, source: PairSource) -> None:
        self._source = source
        self.names = source.names
        self.sizes = getattr(source, "sizes", None)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        sharp = self._source[index]["sharp"]
        return {"blurred": sharp, "sharp": sharp}
