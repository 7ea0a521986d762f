"""Writes pairs as a TFDS data set in array_record files, with an index; goes on after a stop.

Until everything is there, it lies in ``OUT.partial``, shard by shard: a shard is there whole or not
at all, so the same command goes on with the first one that is missing.
"""

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from tensorflow_datasets.core import example_serializer

from deblur_jax.data.prepared import (
    NAME,
    VERSION,
    EncodedPair,
    features_of,
    image_size,
    index_file,
)
from deblur_jax.errors import UserError
from deblur_jax.runtime import signals
from deblur_jax.runtime.files import (
    FileError,
    FolderError,
    PathLike,
    make_folder,
    whole_file,
    write_whole,
)
from deblur_jax.runtime.names import shown
from deblur_jax.runtime.progress import progress_bar

_PLAN = "plan.json"
_INDICES = "indices"
_UNFINISHED = ".shard-"


class PairMaker(Protocol):
    """Makes the pairs of a split, each from an item: a pair of files, or a number.

    Attributes:
        items_per_shard: how many go into one file.
        identity: of the items; where it is another one than before a stop, all is made anew.
    """

    items_per_shard: int

    @property
    def identity(self) -> str:
        """See above."""

    def __len__(self) -> int: ...

    def make(self, start: int, end: int) -> Iterator[list[EncodedPair]]:
        """The pairs of the items from ``start`` to ``end``, a list for each."""


class Preparation:
    """A data set on its way to ``out``.

    Args:
        out: the folder to make, local or remote.
        command: what is being done, as JSON takes it: only the same one goes on.

    Raises:
        FolderError: if the folders can't be written to.
        FileError: if ``OUT.partial`` is there, of another command.

    Attributes:
        folder: where files may be put until the end: archives, and what was in them.
    """

    def __init__(self, out: PathLike, command: Mapping[str, Any]) -> None:
        name = os.fspath(out).rstrip("/")
        if not name:
            raise FolderError("the name of the output folder is empty: name a folder")
        self._out = epath.Path(name)
        if self._out.exists() and not self._out.is_dir():
            raise FolderError(f"{name}: can't be made a folder: File exists")
        is_remote = "://" in name
        if not is_remote and (self._out / NAME).exists():
            raise FileError(f"{self._out / NAME}: exists; nothing was overwritten")
        self.folder = self._out if is_remote else epath.Path(f"{name}.partial")
        wanted = json.loads(json.dumps(dict(command), default=str))
        self._check_plan(wanted)
        above = [] if is_remote else list(Path(self.folder).parents)
        self._made = [folder for folder in above if not folder.exists()]
        make_folder(self.folder)
        try:
            write_whole(self.folder / _PLAN, json.dumps(wanted))
        except FileError as error:
            raise FolderError(str(error)) from None

    def _check_plan(self, wanted: dict[str, Any]) -> None:
        file = self.folder / _PLAN
        if not file.exists():
            return
        try:
            stored = json.loads(file.read_text())
        except ValueError:
            stored = {}
        if stored != wanted:
            key = next((k for k in wanted if stored.get(k) != wanted[k]), "command")
            raise FileError(
                f"{self.folder}: holds what another command began ({key} {stored.get(key)}, not "
                f"{wanted[key]}): delete it, or name another folder"
            )

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """An error within the context deletes what is half made; a signal leaves it and says so."""
        stay = f"{self.folder} keeps what is done: the same command goes on from there"
        try:
            with signals.last_words(stay):
                yield
        except BaseException:
            self._clear()
            raise

    def _clear(self) -> None:
        if self.folder != self._out:
            shutil.rmtree(self.folder, ignore_errors=True)
            for folder in self._made:
                with contextlib.suppress(OSError):  # another program has put something there
                    folder.rmdir()
            return
        self._delete(_PLAN, _INDICES, NAME)

    def _delete(self, *names: str) -> None:
        for path in (self.folder / name for name in names):
            with contextlib.suppress(OSError):
                path.rmtree(missing_ok=True) if path.is_dir() else path.unlink(missing_ok=True)

    def write(
        self,
        splits: Mapping[str, PairMaker],
        *,
        several: bool = False,
        description: str = "Pairs of a blurred image and its sharp original.",
    ) -> None:
        """Writes what is missing, below ``folder/NAME``.

        Args:
            splits: what makes the pairs of each.
            several: whether each blurred image has several sharp ones.
            description: of the data set.

        Raises:
            FileError: if it can't be written, as on a full disk.
            UserError: what the makers raise.
        """
        features = features_of(several=several)
        data = self.folder / NAME / VERSION
        make_folder(data)
        make_folder(self.folder / _INDICES)
        for leftover in data.glob(f"{_UNFINISHED}*"):  # of a process that was killed
            leftover.rmtree()
        total = sum(len(maker) for maker in splits.values())
        try:
            with progress_bar(desc="preparing", unit="pair", total=total) as bar:
                infos = [
                    self._write_split(data, split, maker, features, bar)
                    for split, maker in splits.items()
                ]
            tfds.folder_dataset.write_metadata(
                data_dir=os.fspath(data),
                features=features,
                split_infos=infos,
                version=VERSION,
                check_data=False,
                description=description,
            )
        except UserError:
            raise
        except (OSError, RuntimeError) as error:  # array_record's own errors are RuntimeErrors
            raise FileError(f"{self._out}: can't be written: {_reason(error)}") from error

    def _write_split(
        self, data: epath.Path, split: str, maker: PairMaker, features: Any, bar: Any
    ) -> Any:
        template = tfds.core.ShardedFileTemplate(
            data_dir=data, dataset_name=NAME, split=split, filetype_suffix="array_record"
        )
        count = max(1, -(-len(maker) // maker.items_per_shard))
        serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
        stored = []
        self._begin_anew_if_changed(data, split, [len(maker), count, maker.identity])
        for shard in range(count):
            start = shard * maker.items_per_shard
            end = min(len(maker), start + maker.items_per_shard)
            file = epath.Path(template.sharded_filepath(shard_index=shard, num_shards=count))
            index = self.folder / _INDICES / f"{split}-{shard}.json"
            if not (file.exists() and index.exists()):
                made = maker.make(start, end)
                written = _write_shard(file, made, features, serializer, bar)
                write_whole(index, json.dumps(written))
            else:
                bar.update(end - start)
            stored.append(json.loads(index.read_text()))
        rows = [row for shard in stored for row in shard["rows"]]
        columns = {"names": [row[0] for row in rows], "sizes": [row[1:] for row in rows]}
        write_whole(index_file(data, split), json.dumps(columns))
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(shard["rows"]) for shard in stored],
            num_bytes=sum(shard["bytes"] for shard in stored),
            filename_template=template,
        )

    def _begin_anew_if_changed(self, data: epath.Path, split: str, items: list[Any]) -> None:
        """Deletes the shards of a split whose items are not those that it was begun with."""
        file = self.folder / _INDICES / f"{split}.json"
        if file.exists() and json.loads(file.read_text()) != items:
            for stale in [
                *data.glob(f"{NAME}-{split}.*"),
                *(self.folder / _INDICES).glob(f"{split}-*.json"),
            ]:
                stale.unlink()
        write_whole(file, json.dumps(items))

    def finish(self, *names: str) -> None:
        """Gives what is done its place, and deletes the rest.

        Args:
            *names: of files and folders in ``folder``.

        Raises:
            FileError: if it can't be moved.
        """
        try:
            if self.folder == self._out:
                self._delete(_INDICES, _PLAN)
                return
            make_folder(self._out)
            for name in names:
                (self.folder / name).rename(self._out / name)
            shutil.rmtree(self.folder)
        except OSError as error:
            raise FileError(f"{self._out}: can't be written: {_reason(error)}") from error


def _write_shard(
    file: epath.Path, made: Iterator[list[EncodedPair]], features: Any, serializer: Any, bar: Any
) -> dict[str, Any]:
    """Writes one file, whole or not at all; returns its bytes, and name and size of each pair."""
    rows, num_bytes = [], 0
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=_beside(file)) as folder:
        local = Path(folder) / file.name
        # One record a group: any of them is read without its neighbours.
        writer = array_record_module.ArrayRecordWriter(str(local), "group_size:1")
        try:
            for pairs in made:
                for name, blurred, sharp in pairs:
                    record = serializer.serialize_example(
                        features.encode_example(_example(name, blurred, sharp))
                    )
                    writer.write(record)
                    rows.append((name, *image_size(blurred)))
                    num_bytes += len(record)
                bar.update()
        finally:
            writer.close()
        if _beside(file) is None:
            with local.open("rb") as source, whole_file(file) as target:
                shutil.copyfileobj(source, target)
        else:
            local.replace(file)
    return {"rows": rows, "bytes": num_bytes}


def _beside(file: epath.Path) -> str | None:
    """The folder of a local file; None for a remote one, which is made elsewhere and copied."""
    return None if "://" in os.fspath(file) else os.fspath(file.parent)


def _example(name: str, blurred: bytes, sharp: bytes | list[bytes]) -> dict[str, Any]:
    # Encoded bytes pass through TFDS untouched; it would encode arrays with TensorFlow.
    return {
        "name": name.encode("utf-8", "surrogateescape"),
        "blurred": io.BytesIO(blurred),
        "sharp": io.BytesIO(sharp) if isinstance(sharp, bytes) else sharp,
    }


def _reason(error: BaseException) -> str:
    """What the system said, without the words of the libraries around it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    found = re.search(r"failed: ([^;]+);", text)
    return shown(found[1] if found else text[:200])
