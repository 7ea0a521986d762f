"""``deblur-jax prepare SOURCE [OUT]``: pairs of image files into array_record files."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from etils import epath

import deblur_jax
from deblur_jax.commands import synthesize
from deblur_jax.commands.flags import say
from deblur_jax.data.archives import ArchiveError, download, is_archive, unpack
from deblur_jax.data.benchmarks import BENCHMARKS, Benchmark, FoundSplits, Splits
from deblur_jax.data.folder import find_pairs, what_is_passed_over
from deblur_jax.data.layouts import PairError, find_sides, split_folders
from deblur_jax.data.patches import PairFiles, Patches, WholePairs
from deblur_jax.data.prepared import NAME, is_prepared
from deblur_jax.data.preparing import PairMaker, Preparation
from deblur_jax.data.sources import UNDIVIDED
from deblur_jax.runtime.files import check_utf_8, make_folder

_TRAINING = ("train", UNDIVIDED)
_UNPACKED, _DOWNLOADS = "unpacked", "downloads"
_NAMED = 5
_NOT_OF_THE_PAIRS = ("run", "command", "password")


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Says what the command takes."""
    if synthesize.ACTION in words and words[words.index(synthesize.ACTION) - 1] == "prepare":
        synthesize.add_arguments(parser)
        return
    parser.add_argument(
        "source",
        help=f"a benchmark ({', '.join(BENCHMARKS)}), or a folder with blur/ and sharp/, or input/ "
        "and target/, or with train/, validation/, test/ that have them; or `synthesize SOURCES "
        "OUT`, which makes pairs of photographs and footage and has a --help of its own",
    )
    parser.add_argument("out", nargs="?", help="the folder to make (benchmarks: data/NAME)")
    parser.add_argument(
        "--manual_dir", help="of a benchmark: its archive, unpacked folder, or the folder of them"
    )
    parser.add_argument("--password", help="of an encrypted zip")
    parser.add_argument(
        "--blurred",
        help='name of the folders with blurred images, if it is not "blur", "input" or another '
        'that is known; GoPro has "blur_gamma" too',
    )
    parser.add_argument(
        "--patch_size", type=int, help="store patches of the training pairs, of so many pixels"
    )
    parser.add_argument("--patches_per_image", type=int, default=16)
    parser.add_argument(
        "--augment",
        action="store_true",
        help="patches rotated, reflected, rescaled by 0.9 to 1.1, colours permuted, as in SVRNN",
    )


def run(args: argparse.Namespace) -> None:
    """Prepares every split.

    Raises:
        PairError, ImageError: if a pair is incomplete or an image broken; nothing is left behind.
        FileError: if another command began in OUT.partial.
        ArchiveError: if an archive is missing, damaged or hostile.
    """
    if hasattr(args, "action"):
        synthesize.run(args)
        return
    benchmark = BENCHMARKS.get(args.source) if not Path(args.source).is_dir() else None
    if benchmark is not None and args.out is None:
        args.out = f"data/{args.source}"
    _check(args, benchmark)
    check_utf_8(args.out)
    same = {name: value for name, value in vars(args).items() if name not in _NOT_OF_THE_PAIRS}
    preparation = Preparation(args.out, {"version": deblur_jax.__version__, **same})
    with preparation.going_on():
        if benchmark is None:
            found = _find_in_folder(args.source, args.blurred)
        else:
            found = _find_benchmark(benchmark, args, Path(preparation.folder))
        splits = found.splits
        title = args.source if benchmark is None else benchmark.title
        counts = " + ".join(f"{len(pairs):,} ({split})" for split, pairs in splits.items())
        print(f"{title}: {found.layout} layout, {counts} pairs", file=sys.stderr)
        preparation.write(
            {split: _maker(split, pairs, args) for split, pairs in splits.items()},
            several=any(isinstance(sharp, tuple) for _, sharp in _all_pairs(splits)),
            **({"description": benchmark.title} if benchmark else {}),
        )
        preparation.finish(NAME)
    counts = ", ".join(_count(split, len(pairs), args) for split, pairs in splits.items())
    print(f"{counts} are in {args.out}")
    if benchmark is not None:
        _warn_of_missing(benchmark, found)


def _check(args: argparse.Namespace, benchmark: Benchmark | None) -> None:
    if args.out is None:
        raise PairError("OUT is missing: the folder to make")
    if benchmark is None and args.manual_dir is not None:
        raise PairError(f"{args.source}: --manual_dir is for a benchmark: {', '.join(BENCHMARKS)}")
    if args.augment and args.patch_size is None:
        raise PairError("--augment makes patches: give --patch_size too")
    for name in ("patch_size", "patches_per_image"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise PairError(f"--{name} must be at least 1, not {value}")
    if benchmark is None and is_prepared(args.source):
        raise PairError(f"{args.source}: is prepared already")
    if is_prepared(args.out):
        raise PairError(f"{args.out}: holds a prepared data set; nothing was overwritten")


def _warn_of_missing(benchmark: Benchmark, found: FoundSplits) -> None:
    """Says where there are fewer pairs than the benchmark has."""
    for split, pairs in found.splits.items():
        count = benchmark.counts.get(split, 0)
        if len(pairs) >= count:
            continue
        names = found.missing.get(split, [])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        which = f": missing {', '.join(names[:_NAMED])}{more}" if names else ""
        print(
            f"warning: incomplete: {len(pairs):,} of the {count:,} pairs of {benchmark.title}, "
            f"{split}{which}; `evaluate --protocol` needs --allow_incomplete for it",
            file=sys.stderr,
        )


def _find_in_folder(source: str, blurred: str | None) -> FoundSplits:
    if not Path(source).is_dir():
        raise PairError(f"{source}: no such folder, and not one of {', '.join(BENCHMARKS)}")
    folders = split_folders(source) or {UNDIVIDED: epath.Path(source)}
    splits: Splits = {split: find_pairs(folder, blurred) for split, folder in folders.items()}
    say(line for folder in folders.values() for line in what_is_passed_over(folder, blurred))
    sides = find_sides(next(iter(folders.values())), blurred)
    return FoundSplits(splits, "/".join(sides or ()))


def _find_benchmark(benchmark: Benchmark, args: argparse.Namespace, folder: Path) -> FoundSplits:
    """Finds the pairs in what was given or fetched; it is unpacked in ``folder``."""
    if args.manual_dir is not None:
        source = Path(args.manual_dir)
        if not source.exists():
            raise ArchiveError(f"{source}: no such file or folder")
    elif benchmark.downloads:
        source = folder / _DOWNLOADS
        make_folder(source)
        for wanted in benchmark.downloads:
            download(wanted, source)
    else:
        raise ArchiveError(
            f"{args.source} has no stable address: get it from {benchmark.homepage}, and give "
            "--manual_dir ARCHIVE_OR_FOLDER"
        )
    if source.is_dir() and (found := benchmark.find(source, args.blurred)):
        return found
    archives = [source] if source.is_file() else sorted(filter(is_archive, source.iterdir()))
    unpacked = folder / _UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was stopped
    for archive in archives:
        unpack(archive, unpacked, password=args.password)
    found = benchmark.find(unpacked, args.blurred)
    if found is None:
        raise PairError(
            f"{source}: holds no pairs of {args.source} in a layout that is known; it comes from "
            f"{benchmark.homepage}"
        )
    return found


def _all_pairs(splits: Splits) -> Iterator[tuple]:
    return (pair for found in splits.values() for pair in found.values())


def _maker(split: str, pairs: PairFiles, args: argparse.Namespace) -> PairMaker:
    if not _is_cut(split, args):
        return WholePairs(pairs)
    return Patches(
        pairs, size=args.patch_size, per_image=args.patches_per_image, augment=args.augment
    )


def _count(split: str, pairs: int, args: argparse.Namespace) -> str:
    if _is_cut(split, args):
        return f"{pairs * args.patches_per_image} patches of {pairs} pairs ({split})"
    return f"{pairs} pairs ({split})"


def _is_cut(split: str, args: argparse.Namespace) -> bool:
    return args.patch_size is not None and split in _TRAINING
