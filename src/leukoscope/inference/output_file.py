"""Files that the user names for results: checked before the work, complete or not there after it."""

import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from leukoscope.core.errors import UsageError


class OutputFile:
    """A file that takes its place when it is complete; what stood there stays until then.

    A device, a pipe or a link is written into and never replaced.

    Parameters
    ----------
    path
        Its folder is made where it is missing.
    binary
        Bytes instead of text in UTF-8.

    Attributes
    ----------
    stream
        Where to write.
    """

    def __init__(self, path: Path, *, binary: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        direct = path.is_symlink() or (path.exists() and not path.is_file())
        self._written = path if direct else path.with_name(path.name + ".part")
        self.stream: IO[Any] = (
            self._written.open("wb") if binary else self._written.open("w", encoding="utf-8", newline="")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def finish(self) -> None:
        """Put the file into its place."""
        self.stream.close()
        if self._written != self._path:
            self._written.replace(self._path)

    def discard(self) -> None:
        """Leave what stood there before."""
        try:
            self.stream.close()
        finally:
            if self._written != self._path:
                self._written.unlink(missing_ok=True)


def check_output_file(path: Path) -> None:
    """Refuse, before any work, a place where no file can be written.

    Raises
    ------
    UsageError
        The path is ``-`` or a folder, stands below a file, or may not be written.
    """
    if str(path) == "-":
        raise UsageError("-: standard output cannot be named here; name a file")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file")
    check_output_folder(path.parent)


def check_output_folder(path: Path) -> None:
    """Refuse, before any work, a folder that cannot be made or written.

    Raises
    ------
    UsageError
        The path or what it stands below is no folder, or may not be written.
    """
    there = next((place for place in (path, *path.parents) if place.exists()), None)
    if there is None:
        return
    if not there.is_dir():
        raise UsageError(f"{path}: cannot be a folder, {there} is a file; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {there} may not be written; name another place")
