"""The folder of an evaluation's results: of one evaluation only, and not lost when that stops."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from deblur_jax.errors import UserError
from deblur_jax.evaluation import report
from deblur_jax.evaluation.restoring import RESTORED, SHEETS, Result
from deblur_jax.runtime.files import PathLike, check_output_folder, make_folder, write_whole
from deblur_jax.runtime.names import file_name
from deblur_jax.runtime.processes import gather_bytes, wait_for_all

RESULTS = "results.json"
_UNFINISHED = "unfinished"
_IDENTITY_FILE = "identity.json"


class ResultsError(UserError, RuntimeError):
    """A folder that holds the results of something else."""


class ResultsFolder:
    """Results while they are made: each is kept in a small file of its own until all are there.

    Every process has one, perhaps on a disk of its own.

    Args:
        out: the folder; made if missing.
        described: what identifies this evaluation, by the keys of ``report.IDENTITY``.
        replace: delete the results of another evaluation there.
        skip_existing: keep the results of this evaluation that are there; else they are made anew.

    Raises:
        ResultsError: if there are results of another evaluation, and ``replace`` is False.
        FolderError: if the folder can't be written to.

    Attributes:
        path: of the folder.
        known: the rows that are kept, of all processes, by the name of the image.
    """

    def __init__(
        self,
        out: PathLike,
        described: Mapping[str, Any],
        *,
        replace: bool = False,
        skip_existing: bool = False,
    ):
        check_output_folder(out)
        self.path = epath.Path(out)
        self._unfinished = self.path / _UNFINISHED
        wanted = json.loads(report.to_json({key: described.get(key) for key in report.IDENTITY}))
        stored = self._stored_identities()
        if jax.process_index() == 0:
            self._check(stored, wanted, replace=replace)
        wait_for_all("output folder is looked at")
        if any(one != wanted for one in stored):
            _remove(self.path / RESTORED)
            _remove(self.path / SHEETS)
            with contextlib.suppress(OSError):
                (self.path / RESULTS).unlink(missing_ok=True)
        if any(one != wanted for one in stored) or not skip_existing:
            _remove(self._unfinished)
        wait_for_all("output folder is ready")
        mine = self._rows_here() if skip_existing else []
        make_folder(self._unfinished)
        write_whole(self._unfinished / _IDENTITY_FILE, json.dumps(wanted))
        self.known = {row.name: row for row in _gathered(mine) if isinstance(row, report.Row)}
        self._images_here = {file for row in mine for file in _images_of(row.name)}

    def keep(self, result: Result) -> None:
        """Keeps the result of an image."""
        if isinstance(result, report.Row):
            self._images_here.update(_images_of(result.name))
            name = hashlib.sha256(result.name.encode("utf-8", "surrogateescape")).hexdigest()
            write_whole(self._unfinished / f"{name}.json", json.dumps(result.to_dict()))

    def put_together(self, results: list[Result]) -> list[Result]:
        """Brings the results of all processes, and their images, to process 0.

        Where the processes don't share a disk, images are sent through the devices.

        Args:
            results: of this process.

        Returns:
            Those of all processes, by name.
        """
        wait_for_all("evaluated")
        of_all = {one.name: one for one in [*_gathered(results), *self.known.values()]}
        measured = (one.name for one in of_all.values() if isinstance(one, report.Row))
        self._send_to_process_0([file for name in measured for file in _images_of(name)])
        return sorted(of_all.values(), key=lambda one: one.name)

    def finish(self) -> None:
        """Removes what was kept for the case of a stop."""
        wait_for_all("results are written")
        _remove(self._unfinished)

    def _send_to_process_0(self, files: list[str]) -> None:
        missing = [name for name in files if not (self.path / name).exists()]
        missing_there = json.loads(gather_bytes(json.dumps(missing).encode())[0])
        for name in missing_there:
            file = self.path / name
            # Another process may have an image of that name from another evaluation.
            content = file.read_bytes() if name in self._images_here else b""
            sent = max(gather_bytes(content), key=len)
            if jax.process_index() == 0:
                make_folder(file.parent)
                write_whole(file, sent)

    def _stored_identities(self) -> list[Any]:
        """What evaluations the folder holds results of: a finished and an unfinished one."""
        files = (self.path / RESULTS, self._unfinished / _IDENTITY_FILE)
        return [_stored_identity(file) for file in files if file.exists()]

    def _check(self, stored: list[Any], wanted: dict[str, Any], *, replace: bool) -> None:
        other = next((one for one in stored if one != wanted), None)
        if other is not None and not replace:
            key = next(key for key in report.IDENTITY if other.get(key) != wanted[key])
            raise ResultsError(
                f"{self.path}: holds results of another evaluation ({key} {other.get(key)}, not "
                f"{wanted[key]}): choose another --out, or give --replace to delete them"
            )

    def _rows_here(self) -> list[Result]:
        """The rows that are kept here, and whose images are."""
        return [
            row
            for row in self._stored_rows()
            if all((self.path / file).exists() for file in _images_of(row.name))
        ]

    def _stored_rows(self) -> Iterator[report.Row]:
        files = self._unfinished.glob("*.json") if self._unfinished.exists() else ()
        stored: list[Any] = [_json_of(file) for file in files if file.name != _IDENTITY_FILE]
        finished = _json_of(self.path / RESULTS) if (self.path / RESULTS).exists() else {}
        stored += finished.get("per_image", [])
        fields = [field.name for field in dataclasses.fields(report.Row)]
        for one in stored:
            # An infinite number is stored as null in results.json: such an image is measured anew.
            if isinstance(one, dict) and all(one.get(name) is not None for name in fields):
                yield report.Row(**{name: one[name] for name in fields})


def _images_of(name: str) -> list[str]:
    """The files of an image, by their paths in the folder."""
    return [f"{folder}/{file_name(name, '.png')}" for folder in (RESTORED, SHEETS)]


def _gathered(results: list[Result]) -> list[Result]:
    """The results of all processes."""
    kinds = {"row": report.Row, "failure": report.Failure}
    mine = [
        ("row" if isinstance(one, report.Row) else "failure", dataclasses.asdict(one))
        for one in results
    ]
    of_all = gather_bytes(json.dumps(mine).encode())
    return [kinds[kind](**fields) for one in of_all for kind, fields in json.loads(one)]


def _stored_identity(file: epath.Path) -> Any:
    stored = _json_of(file)
    return {key: stored.get(key) for key in report.IDENTITY}


def _json_of(file: epath.Path) -> dict[str, Any]:
    """What a file holds; nothing, if it is not of this package."""
    try:
        stored = json.loads(file.read_text())
    except ValueError:
        return {}
    return stored if isinstance(stored, dict) else {}


def _remove(folder: epath.Path) -> None:
    """Removes a folder, which other processes may be removing too."""
    with contextlib.suppress(OSError):
        folder.rmtree(missing_ok=True)
