"""``python -m deblur_jax prepare FOLDER OUT``: pairs of picture files into array_record files."""

import argparse
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from deblur_jax.data.folder import BLURRED, PairError, find_pairs
from deblur_jax.data.patches import PairFiles, encoded_pairs, encoded_patches
from deblur_jax.data.prepared import EncodedPair, PairsBuilder, is_prepared
from deblur_jax.data.sources import UNDIVIDED, available_splits

_TRAINING = ("train", UNDIVIDED)


def add_parser(commands) -> None:
    """Adds the command to ``commands``."""
    parser = commands.add_parser("prepare", help="a folder of pairs into array_record files")
    parser.add_argument(
        "folder", help="with blur/ and sharp/, or with train/, validation/, test/ that have them"
    )
    parser.add_argument("out", help="the folder to make")
    parser.add_argument(
        "--blurred",
        default=BLURRED,
        help='name of the folders with blurred pictures; GoPro has "blur_gamma" too',
    )
    parser.add_argument(
        "--patch_size", type=int, help="store patches of the training pairs, of so many pixels"
    )
    parser.add_argument("--patches_per_picture", type=int, default=16)
    parser.add_argument(
        "--augment",
        action="store_true",
        help="patches turned, mirrored, rescaled by 0.9 to 1.1, colours permuted, as SVRNN's were",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prepares every split.

    Raises:
        PairError, ImageError: if a pair is incomplete or a picture broken; nothing is left behind.
    """
    _check(args)
    splits = available_splits(args.folder, args.blurred)
    folders = {split: epath.Path(args.folder) / split for split in splits}
    pairs = {
        split: find_pairs(folder, args.blurred)
        for split, folder in (folders or {UNDIVIDED: args.folder}).items()
    }
    tfds.display_progress_bar(True)
    encoded = {split: _encoded(split, found, args) for split, found in pairs.items()}
    PairsBuilder(data_dir=args.out, splits=encoded).download_and_prepare()
    counts = ", ".join(_count(split, len(found), args) for split, found in pairs.items())
    print(f"{counts} are in {args.out}")


def _check(args: argparse.Namespace) -> None:
    if args.augment and args.patch_size is None:
        raise PairError("--augment makes patches: give --patch_size too")
    for name in ("patch_size", "patches_per_picture"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise PairError(f"--{name} must be at least 1, not {value}")
    if is_prepared(args.folder):
        raise PairError(f"{args.folder}: is prepared already")
    if is_prepared(args.out):
        raise PairError(f"{args.out}: holds a prepared data set; nothing was overwritten")


def _encoded(split: str, pairs: PairFiles, args: argparse.Namespace) -> Iterator[EncodedPair]:
    if not _is_cut(split, args):
        return encoded_pairs(pairs)
    return encoded_patches(
        pairs, size=args.patch_size, per_picture=args.patches_per_picture, augment=args.augment
    )


def _count(split: str, pairs: int, args: argparse.Namespace) -> str:
    if _is_cut(split, args):
        return f"{pairs * args.patches_per_picture} patches of {pairs} pairs ({split})"
    return f"{pairs} pairs ({split})"


def _is_cut(split: str, args: argparse.Namespace) -> bool:
    return args.patch_size is not None and split in _TRAINING
