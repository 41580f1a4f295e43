"""Iterate over images from files, folders, globs, ZIP archives and standard input, one at a time."""

import codecs
import glob
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from leukoscope.core.errors import ImageError, UsageError
from leukoscope.core.system_files import has_system_part, is_system_name
from leukoscope.core.terms import Reason
from leukoscope.core.text import decode_text, escape_surrogates
from leukoscope.imaging.decode import DecodeLimits
from leukoscope.inference.cells import Source

SUFFIXES = frozenset({".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
"""Endings of images in folders and archives; a file that is given directly is read with any name."""

_RESULT_SETTINGS, _RESULT_PICTURES = "predict.json", "heat_maps"  # of a folder that predict --out has written

STDIN = "-"
STDIN_NAME = "<stdin>"
MAX_LINE = 32_768


@dataclass(frozen=True)
class ArchiveLimits:
    """Limits of a ZIP archive.

    Attributes
    ----------
    max_members
        Entries in the archive's directory.
    max_ratio
        Unpacked by packed size of all images together. BMP files of single cells on black reach about 15.
    free_bytes
        Unpacked size that is accepted at any ratio.
    """

    max_members: int = 200_000
    max_ratio: float = 200.0
    free_bytes: int = 256 * 1024 * 1024


@dataclass
class Ignored:
    """Non-image files (by name) in folders and archives: count and first names; empty folders."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    system: int = 0
    system_examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one name."""
        self.count += 1
        if len(self.examples) < 3:
            self.examples.append(escape_surrogates(name))

    def add_system(self, name: str) -> None:
        """Count one file or folder of an operating system or archiver."""
        self.system += 1
        if len(self.system_examples) < 3:
            self.system_examples.append(escape_surrogates(name))


def iterate_sources(
    arguments: Iterable[str] | str | os.PathLike[str],
    *,
    subject_of: Callable[[str], str | None] = lambda _: None,
    stdin: BinaryIO | None = None,
    ignored: Ignored | None = None,
    limits: DecodeLimits | None = None,
    archive_limits: ArchiveLimits | None = None,
    suffixes: frozenset[str] = SUFFIXES,
) -> Iterator[Source]:
    """Yield the images that the arguments name, in their order; folders, globs and lists sorted by name.

    Parameters
    ----------
    arguments
        Paths of images, folders (read recursively, links not followed), ZIP archives, glob patterns (``**`` for any
        depth), or ``-`` for one image on standard input.
    subject_of
        Returns the subject of an image by its name.
    stdin
        Read where ``-`` is named.
    ignored
        Counts what was skipped in folders and archives, and names folders without an image.
    limits, archive_limits
        Limits of archives.
    suffixes
        Names that are taken from folders and archives.

    Yields
    ------
    Source
        Its content is a path, bytes, or the ``ImageError`` that kept it from being read.

    Raises
    ------
    UsageError
        A pattern without an image, no image in all, ``-`` more than once.
    """
    if isinstance(arguments, str | os.PathLike):
        arguments = [os.fspath(arguments)]  # a single path, not an iterable of paths
    ignored = ignored if ignored is not None else Ignored()
    limits = limits or DecodeLimits()
    archive_limits = archive_limits or ArchiveLimits()
    stdin_taken = False
    found = False

    def source(name: str, content: bytes | Path | ImageError) -> Source:
        nonlocal found
        found = True
        return Source(name, content, subject_of(name))

    for argument in arguments:
        if argument == STDIN:
            if stdin is None or stdin_taken:
                raise UsageError("- (standard input) can be named once; give the other images as files")
            stdin_taken = True
            # One byte more than the limit, so that the decoder sees that it is too large.
            yield source(STDIN_NAME, stdin.read(limits.max_bytes + 1))
            continue
        for path in _expand(argument, ignored, suffixes):
            if isinstance(path, _Unreadable):
                yield source(str(path.path), path.error)
            elif _is_archive(path):
                for name, content in _iterate_archive(path, limits, archive_limits, ignored, suffixes):
                    yield source(name, content)
            else:
                yield source(str(path), path)
    if not found:
        where = ", ".join(ignored.empty[:3]) or "the list"
        raise UsageError(
            f"{where}: no image ({', '.join(sorted(suffixes))}); name cell images or folders of them"
        )


def count_sources(arguments: Iterable[str]) -> int:
    """Count what ``iterate_sources`` will yield, for a progress bar; no image is opened.

    An archive that is refused counts as one. Errors are left to ``iterate_sources``.
    """
    total = 0
    ignored = Ignored()
    for argument in arguments:
        try:
            for path in (Path(argument),) if argument == STDIN else _expand(argument, ignored, SUFFIXES):
                is_archive = isinstance(path, Path) and _is_archive(path)
                total += _count_archive(path, ignored) if is_archive else 1  # type: ignore[arg-type]
        except UsageError:
            continue
    return total


def read_list(stdin: BinaryIO) -> Iterator[str]:
    """Yield the paths of a list, one per line; empty lines are skipped.

    UTF-8 with or without byte-order mark, or UTF-16 with one; any line ends.

    Raises
    ------
    UsageError
        A line is in another encoding or too long for a path.
    """
    number = 0
    first = stdin.readline(MAX_LINE + 1)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as some shells write a pipe
        yield from filter(None, decode_text(first + stdin.read(), "the list").splitlines())
        return
    line = first.removeprefix(codecs.BOM_UTF8)
    while line:
        number += 1
        if len(line) > MAX_LINE:
            raise UsageError(
                f"line {number} of the list has more than {MAX_LINE:,} bytes; give one path per line"
            )
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = os.fsdecode(line)  # a file name with bytes that are not UTF-8
            if not os.path.lexists(text.rstrip("\r\n")):
                raise UsageError(
                    f"line {number} of the list is not UTF-8, and no file has this name; give one path per line"
                ) from None
        if text := text.rstrip("\r\n"):
            yield text
        line = stdin.readline(MAX_LINE + 1)


def _file_name(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _expand(argument: str, ignored: Ignored, suffixes: frozenset[str]) -> Iterator["Path | _Unreadable"]:
    if not argument:
        raise UsageError("'': an empty path; give the path of an image or folder")
    path = Path(argument)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        if glob.has_magic(argument):
            yield from _glob(argument, ignored, suffixes)
        else:
            yield path  # the decoder reports the error
        return
    if not stat.S_ISDIR(mode):
        yield path
        return
    found = False
    for file in _walk(path, ignored, suffixes):
        found = True
        yield file
    if not found:
        ignored.empty.append(argument)


def _glob(pattern: str, ignored: Ignored, suffixes: frozenset[str]) -> Iterator["Path | _Unreadable"]:
    found = False
    for name in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207 - patterns may be absolute
        path = Path(name)
        if path.is_dir():
            continue
        if has_system_part(name):
            ignored.add_system(name)
        elif _is_image_name(name, suffixes) or _is_archive(path):
            found = True
            yield path
        else:
            ignored.add(name)
    if not found:
        raise UsageError(f"{pattern}: the pattern matches no image ({', '.join(sorted(suffixes))})")


def _walk(directory: Path, ignored: Ignored, suffixes: frozenset[str]) -> Iterator["Path | _Unreadable"]:
    """Yield the images below a folder, sorted within each folder; links to folders are not followed."""
    try:
        with os.scandir(directory) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield _Unreadable(directory, error.strerror or str(error))
        return
    results = any(entry.name == _RESULT_SETTINGS for entry in ordered)
    for entry in ordered:
        if is_system_name(entry.name):
            ignored.add_system(entry.path)
        elif results and entry.name == _RESULT_PICTURES:
            ignored.add(entry.path)  # heat maps of an earlier call, no cells
        elif entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), ignored, suffixes)
        elif _is_image_name(entry.name, suffixes) and not entry.is_dir():
            yield Path(entry.path)
        elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - a plain string
            yield Path(entry.path)  # the decoder reports that it is a dead link
        else:
            ignored.add(entry.path)


@dataclass(frozen=True)
class _Unreadable:
    """A folder that cannot be listed, as a separate result, so that it is not missed."""

    path: Path
    why: str

    @property
    def error(self) -> ImageError:
        text = f"the folder cannot be read ({self.why}); the images in it are missing from the results"
        return ImageError(Reason.UNREADABLE, text)


def _is_image_name(name: str, suffixes: frozenset[str]) -> bool:
    file = _file_name(name)
    return not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes  # noqa: PTH122 - a plain string


def _is_archive(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def _iterate_archive(
    path: Path,
    limits: DecodeLimits,
    archive_limits: ArchiveLimits,
    ignored: Ignored,
    suffixes: frozenset[str],
) -> Iterator[tuple[str, bytes | ImageError]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive, archive_limits, ignored, suffixes)
            if isinstance(members, ImageError):
                yield str(path), members
                return
            for member in members:
                yield f"{path}/{_printable(member.filename)}", _read_member(archive, member, limits)
    except OSError as error:
        yield (
            str(path),
            ImageError(Reason.UNREADABLE, f"the archive cannot be read ({error.strerror}); copy it again"),
        )
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        yield str(path), ImageError(Reason.UNREADABLE, f"the archive is damaged ({error}); copy it again")


def _count_archive(path: Path, ignored: Ignored) -> int:
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive, ArchiveLimits(), ignored, SUFFIXES)
            return 1 if isinstance(members, ImageError) else len(members)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return 1


def _members(
    path: Path,
    archive: zipfile.ZipFile,
    limits: ArchiveLimits,
    ignored: Ignored,
    suffixes: frozenset[str],
) -> list[zipfile.ZipInfo] | ImageError:
    entries = archive.infolist()
    if len(entries) > limits.max_members:
        text = f"the archive has {len(entries):,} entries, the limit is {limits.max_members:,}; split it"
        return ImageError(Reason.FILE_TOO_LARGE, text)
    members = []
    for entry in entries:
        if entry.is_dir():
            continue
        if has_system_part(entry.filename):
            ignored.add_system(f"{path}/{_printable(entry.filename)}")
        elif _is_image_name(entry.filename, suffixes):
            members.append(entry)
        else:
            ignored.add(f"{path}/{_printable(entry.filename)}")
    if not members:
        return ImageError(
            Reason.EMPTY_FILE, "the archive holds no image; name one with BMP, PNG, JPEG, TIFF or WebP files"
        )
    unpacked = sum(entry.file_size for entry in members)
    packed = max(1, min(path.stat().st_size, sum(entry.compress_size for entry in members)))
    if unpacked > limits.free_bytes and unpacked > limits.max_ratio * packed:
        text = f"the archive unpacks to {unpacked / packed:,.0f} times its size, the limit is {limits.max_ratio:g}"
        return ImageError(Reason.FILE_TOO_LARGE, f"{text}; unpack it yourself if you trust it")
    return members


def _read_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: DecodeLimits
) -> bytes | ImageError:
    if member.flag_bits & 0x1:
        return ImageError(
            Reason.UNREADABLE, "the file is encrypted; unpack the archive with its password first"
        )
    if member.file_size > limits.max_bytes:
        text = (
            f"the file has {member.file_size:,} bytes, the limit is {limits.max_bytes:,}; give one cell image"
        )
        return ImageError(Reason.FILE_TOO_LARGE, text)
    try:
        with archive.open(member) as file:
            return file.read(limits.max_bytes + 1)  # the declared size may be a lie
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        detail = str(error)[:200] or type(error).__name__
        return ImageError(Reason.UNREADABLE, f"the archive is damaged here ({detail}); copy it again")


def _printable(name: str) -> str:
    """Return a member's name without control characters, which could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:500]
