"""Results on disk as they come: a JSON Lines file that survives a kill and can be continued."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Self

from pydantic import ValidationError

from leukoscope.core.errors import UsageError
from leukoscope.core.io import write_text
from leukoscope.inference.locking import FolderLock
from leukoscope.inference.results import CellResult

RESULTS = "results.jsonl"
SETTINGS = "predict.json"
LOCK = "predict.lock"
SYNC_ROWS = 64
SYNC_SECONDS = 2.0


class Journal:
    """``results.jsonl`` in a folder, one result a line, written through to the disk every 64 rows or 2 s.

    The folder is locked against other processes until the ``with`` block is left.

    Parameters
    ----------
    directory
        Made where it is missing.
    settings
        What the results depend on, stored with them in ``predict.json``.
    resume
        Continue after the last complete line; an incomplete line is removed. Without it the file must not exist.
    overwrite
        Delete the results that are there, and begin.

    Attributes
    ----------
    done
        Number of results that were there already.

    Raises
    ------
    UsageError
        The folder cannot be written, or another process writes there; there are results and neither ``resume`` nor
        ``overwrite`` is set; or they were made with other settings.
    """

    def __init__(
        self, directory: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool = False
    ) -> None:
        self.path = directory / RESULTS
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(directory / LOCK)
        except OSError as error:
            raise _cannot_write(directory, error) from None
        try:
            self._open(directory, settings, resume=resume, overwrite=overwrite)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, directory: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        try:
            if overwrite:
                self.path.unlink(missing_ok=True)
            if self.path.exists() and not resume:
                raise UsageError(
                    f"{self.path}: exists; continue with --resume, replace with --overwrite, or name another folder"
                )
            _keep_settings(directory / SETTINGS, settings, fresh=not self.path.exists())
            self.done = _repair(self.path) if self.path.exists() else 0
            self._file: BinaryIO = self.path.open("ab")
        except OSError as error:
            raise _cannot_write(directory, error) from None
        self._unsynced = 0
        self._synced_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        try:
            self.close()
        finally:
            self._lock.release()

    def append(self, result: CellResult) -> None:
        """Add one result."""
        self._file.write(result.model_dump_json().encode() + b"\n")
        self._unsynced += 1
        if self._unsynced >= SYNC_ROWS or time.monotonic() - self._synced_at >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush appended lines to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Flush all lines to disk and close the file; may be called again."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def results(self) -> Iterator[CellResult]:
        """Yield every result of the file from the first on."""
        if not self._file.closed:
            self._file.flush()
        return read_results(self.path)


def read_results(path: Path) -> Iterator[CellResult]:
    """Yield the results of a JSON Lines file.

    Raises
    ------
    UsageError
        A line is no result; its number is named.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield CellResult.model_validate_json(line)
            except ValidationError as error:
                text = f"{path}, line {number}: no result of this version ({error.errors()[0]['msg']})"
                raise UsageError(f"{text}; move the file away and start again") from None


def _cannot_write(directory: Path, error: OSError) -> UsageError:
    return UsageError(f"{directory}: cannot be written ({error.strerror}); name another folder")


def _keep_settings(path: Path, settings: dict[str, Any], *, fresh: bool) -> None:
    text = json.dumps(settings, indent=2) + "\n"
    if fresh:
        write_text(path, text)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError):
        raise UsageError(
            f"{path}: missing or damaged, so these results cannot be continued; start again"
        ) from None
    now = json.loads(text)
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise UsageError(
            f"{path}: made with other settings ({', '.join(changed)}); use the same, or another folder"
        )


def _repair(path: Path) -> int:
    """Cut off what follows the last line end and return the number of whole lines."""
    lines = 0
    end = position = 0
    with path.open("r+b") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block.rfind(b"\n")
            if last >= 0:
                end = position + last + 1
            position += len(block)
        if end < position:
            file.truncate(end)
            os.fsync(file.fileno())
    return lines
