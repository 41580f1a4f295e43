"""The rules of overwriting files, for every command that writes.

1. An input of the same call is never overwritten. Files are compared by identity (device and inode), so that links,
   ``..`` and names that differ only in case on a case-insensitive file system are recognized.
2. A file that this program did not write is replaced only with ``--overwrite``. Earlier output of the same command is
   recognized by its content (``own``), not by its name, and may be replaced.
3. Two outputs of one call are two files.

All rules are checked before the work.
"""

import csv
import glob
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leukoscope.core.errors import UsageError
from leukoscope.core.io import check_output_file, check_output_folder
from leukoscope.core.places import expand_user

GENERATOR = "leukoscope"
"""Written into every image and page of the program, so that it recognizes its own files."""

Recognizer = Callable[[Path], bool]
"""Returns whether a file is earlier output of the command."""

_HEAD_BYTES = 65_536
_IMAGE_ENDINGS = (".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".zip")


class Outputs:
    """The output files and folders of one command.

    Parameters
    ----------
    overwrite
        Whether files that leukoscope did not write may be replaced; inputs never are.

    Examples
    --------
    >>> outputs = Outputs(overwrite=False)
    >>> outputs.read("cells.csv")
    >>> outputs.file(Path("splits.json"), "--out", own=json_with("protocol", "splits"))
    >>> outputs.check()
    """

    def __init__(self, *, overwrite: bool = False) -> None:
        self._overwrite = overwrite
        self._inputs: list[str] = []
        self._whole: list[str] = []
        self._files: list[_Target] = []
        self._folders: list[tuple[Path, str]] = []

    def read(self, *paths: str | os.PathLike[str] | None) -> None:
        """Name inputs: files, folders or glob patterns. None is skipped."""
        self._inputs += [os.fspath(path) for path in paths if path is not None]

    def read_whole(self, *folders: str | os.PathLike[str] | None) -> None:
        """Name folders of which every file is an input, such as a bundle. None is skipped."""
        self._whole += [os.fspath(folder) for folder in folders if folder is not None]

    def file(self, path: Path | None, option: str, own: Recognizer | None = None) -> None:
        """Name a file to be written; None is skipped.

        Parameters
        ----------
        path
            The file.
        option
            The option that names it, for messages.
        own
            Recognizes earlier output of the command, which may be replaced; None if nothing may be replaced.
        """
        if path is not None:
            self._files.append(_Target(path, option, own))

    def folder(
        self,
        path: Path | None,
        option: str,
        names: Sequence[str] = (),
        *,
        marker: str | None = None,
        own: Recognizer | None = None,
    ) -> None:
        """Name a folder to be written; None is skipped.

        Parameters
        ----------
        path
            The folder.
        option
            The option that names it, for messages.
        names
            Files and sub-folders that are written into it; other files there are left alone.
        marker, own
            A file of the folder and its recognizer: if it is recognized, the folder is the command's own.
        """
        if path is None:
            return
        self._folders.append((path, option))
        if marker is not None and own is not None and _recognized(path / marker, own):
            own = _anything
        elif marker is not None:
            own = None
        self._files += [_Target(path / name, option, own, inside=True) for name in names]

    def check(self) -> None:
        """Refuse what would lose a file.

        Raises
        ------
        UsageError
            A place cannot be written, is an input, is named twice, or contains a foreign file.
        """
        for path, _ in self._folders:
            check_output_folder(path)
        for target in self._files:
            if not target.inside:
                check_output_file(target.path)
        self._check_twice()
        for target in self._files:
            if not os.path.lexists(target.path):
                continue
            self._check_input(target)
            if self._overwrite or not _is_foreign(target):
                continue
            raise UsageError(
                f"{target.option} {target.path}: exists and was not written by this command; "
                "name another place, or replace it with --overwrite"
            )

    def _check_twice(self) -> None:
        seen: dict[str, _Target] = {}
        for target in self._files:
            place = os.path.normcase(os.path.realpath(target.path))
            if _is_device(target.path):
                continue
            other = seen.setdefault(place, target)
            if other is not target:
                raise UsageError(
                    f"{target.option} {target.path}: is written by {other.option} as well; name two places"
                )

    def _check_input(self, target: "_Target") -> None:
        if _is_device(target.path):
            return
        held_by = [given for given in self._inputs if _holds(given, target.path)]
        held_by += [folder for folder in self._whole if _is_below(target.path, Path(folder))]
        if held_by:
            raise UsageError(
                f"{target.option} {target.path}: is an input of this call ({held_by[0]}) and would be lost; "
                "name another place"
            )


@dataclass(frozen=True)
class _Target:
    path: Path
    option: str
    own: Recognizer | None
    inside: bool = False


def csv_with(columns: Iterable[str], *, more: bool = False) -> Recognizer:
    """Recognize a CSV whose header is exactly ``columns``; with ``more``, starting with them."""
    expected = list(columns)

    def own(path: Path) -> bool:
        head = _head(path).decode("utf-8-sig", "replace")
        header = next(csv.reader(io.StringIO(head, newline="")), [])
        return (header[: len(expected)] if more else header) == expected

    return own


def json_with(*keys: str) -> Recognizer:
    """Recognize a JSON object that has all of ``keys``."""

    def own(path: Path) -> bool:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return False
        return isinstance(content, dict) and set(keys) <= set(content)

    return own


def with_mark(mark: str = GENERATOR) -> Recognizer:
    """Recognize a file whose first 64 KiB contain ``mark``: pages and images name their generator."""

    def own(path: Path) -> bool:
        return mark.encode() in _head(path)

    return own


def _anything(_path: Path) -> bool:
    return True


def _recognized(path: Path, own: Recognizer) -> bool:
    try:
        return path.is_file() and own(path)
    except (OSError, ValueError):
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _is_foreign(target: _Target) -> bool:
    path = target.path
    if _is_device(path) or not path.exists():  # a dangling link holds nothing that could be lost
        return False
    if path.is_file() and not path.stat().st_size:
        return False
    if path.is_dir():
        return target.own is not _anything and any(path.iterdir())
    return target.own is None or not _recognized(path, target.own)


def _holds(given: str, path: Path) -> bool:
    """Tell whether an input is the file at ``path``, or a folder from which that file would be read."""
    place = expand_user(given)
    if not place.exists():
        matches = glob.glob(given, recursive=True) if glob.has_magic(given) else ()  # noqa: PTH207
        return any(_same(Path(match), path) for match in matches)
    if _same(place, path):
        return True
    if not place.is_dir() or path.suffix.lower() not in _IMAGE_ENDINGS or not path.is_file():
        return False
    return _is_below(path, place)


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(expand_user(folder)))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
