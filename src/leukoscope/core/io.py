"""Write files completely or not at all; all file replacement of the package is in this module."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from uuid import uuid4

from leukoscope.core.errors import UsageError

PART = ".part"
"""Ending of a file that is being written; after a kill the next call replaces it."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path in the folder of ``path`` to write to; it is renamed at the end, or removed on an error.

    Several processes may do so at once: each writes its own file, and the last one remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file in one step; its folder is made if it is missing."""
    with OutputFile(path, binary=True) as file:
        file.stream.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file in UTF-8 with the line ends of ``text`` in one step."""
    write_bytes(path, text.encode("utf-8"))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class OutputFile:
    """A file that is moved into place when it is complete; an existing file is kept until then.

    A device, a pipe or a link is written to and never replaced.

    Parameters
    ----------
    path
        Its folder is made if it is missing.
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
        self._written = path if direct else _part(path)
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
        try:
            self.stream.close()
        except BaseException:
            self.discard()
            raise
        if self._written != self._path:
            self._written.replace(self._path)

    def discard(self) -> None:
        """Keep the existing file."""
        try:
            self.stream.close()
        finally:
            if self._written != self._path:
                self._written.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    """Return a file name in the folder of ``path`` that is unique, also across processes."""
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}{PART}")


def check_output_file(path: Path) -> None:
    """Refuse, before any work, a place where no file can be written.

    Raises
    ------
    UsageError
        The path is ``-`` or a folder, is below a file, is a broken link, or cannot be written.
    """
    if str(path) == "-":
        raise UsageError("-: standard output cannot be named here; name a file")
    _check_name(path)
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file")
    check_output_folder(path.parent)


def _check_name(path: Path) -> None:
    """Refuse links that lead in a circle, and names that the file system cannot hold."""
    try:
        path.stat()
    except ValueError:
        raise UsageError(f"{str(path)!r}: no file can have this name; name another place") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"{path}: links that lead in a circle; name another place") from None
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{path}: the name is too long; name another place") from None


def check_output_folder(path: Path) -> None:
    """Refuse, before any work, a folder that cannot be made or written.

    Raises
    ------
    UsageError
        The path or one of its parents is not a folder, or cannot be written.
    """
    _check_name(path)
    there = next((place for place in (path, *path.parents) if place.exists()), None)
    if there is None:
        return
    if not there.is_dir():
        raise UsageError(f"{path}: cannot be a folder, {there} is a file; name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: the folder {there} cannot be written; name another place")
