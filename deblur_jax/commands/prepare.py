"""``python -m deblur_jax prepare FOLDER OUT``: pairs of picture files into array_record files."""

import argparse

import tensorflow_datasets as tfds
from etils import epath

from deblur_jax.data.folder import PairError, find_pairs
from deblur_jax.data.prepared import PairsBuilder, is_prepared
from deblur_jax.data.sources import UNDIVIDED, available_splits


def add_parser(commands) -> None:
    """Adds the command to ``commands``."""
    parser = commands.add_parser("prepare", help="a folder of pairs into array_record files")
    parser.add_argument(
        "folder", help="with blur/ and sharp/, or with train/, validation/, test/ that have them"
    )
    parser.add_argument("out", help="the folder to make")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prepares every split.

    Raises:
        PairError, ImageError: if a pair is incomplete or a picture broken; nothing is left behind.
    """
    if is_prepared(args.folder):
        raise PairError(f"{args.folder}: is prepared already")
    if is_prepared(args.out):
        raise PairError(f"{args.out}: holds a prepared data set; nothing was overwritten")
    splits = available_splits(args.folder)
    folders = {split: epath.Path(args.folder) / split for split in splits}
    pairs = {
        split: find_pairs(folder) for split, folder in (folders or {UNDIVIDED: args.folder}).items()
    }
    tfds.display_progress_bar(True)
    PairsBuilder(data_dir=args.out, splits=pairs).download_and_prepare()
    counts = ", ".join(f"{len(found)} pairs ({split})" for split, found in pairs.items())
    print(f"{counts} are in {args.out}")
