"""Read images from a multipart request: clean names, unpack archives safely, check limits before decoding."""

import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from threading import Lock
from typing import IO

from flask import Request as FlaskRequest
from werkzeug.datastructures import FileStorage

from leukoscope.core.system_files import has_system_part
from leukoscope.imaging.foreign_formats import is_zip_archive
from leukoscope.web.problems import Problem, invalid, too_large
from leukoscope.web.settings import MEBIBYTE, Limits

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LONGEST_NAME = 255
_UNPACKED_AT_ONCE = 16 * MEBIBYTE
"""Images of an archive are unpacked so much at a time, or one by one where they are larger."""
LONGEST_SUBJECT = 120


class MemoryRequest(FlaskRequest):
    """A request whose files stay in memory: an upload is not written to disk."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        return BytesIO()


@dataclass(frozen=True, slots=True)
class Upload:
    """One image to classify.

    Attributes
    ----------
    name
        For display only.
    read
        Gives the image's bytes, at most one above the limit.
    unpacked_bytes
        Memory that ``read`` needs in addition to the request itself: none for an uncompressed file.
    """

    name: str
    read: Callable[[], bytes]
    unpacked_bytes: int = 0


def chunks(uploads: Sequence[Upload], most: int) -> Iterator[list[Upload]]:
    """Divide images into parts of at most ``most``, each small in memory when unpacked."""
    part: list[Upload] = []
    for upload in uploads:
        size = upload.unpacked_bytes + sum(other.unpacked_bytes for other in part)
        if part and (len(part) == most or size > _UNPACKED_AT_ONCE):
            yield part
            part = []
        part.append(upload)
    if part:
        yield part


def receive(files: list[FileStorage], limits: Limits, most: int) -> tuple[Upload, ...]:
    """Take the files of a request; a ZIP archive (by its content; not an office document) is replaced by its members.

    Raises
    ------
    Problem
        413 beyond a limit, 422 for an archive that cannot be opened.
    """
    uploads: list[Upload] = []
    for file in files:
        content = file.stream.read()
        file.close()  # the request would hold a second copy until its end
        if is_zip_archive(content):
            uploads += _members(content, limits)
        else:
            uploads.append(Upload(clean_name(file.filename), _constant(content)))
        if len(uploads) > most:
            raise too_large(f"More than {most} images; send fewer at a time.")
    return tuple(uploads)


def clean_name(name: str | None) -> str:
    """Return the last part of a file name without control or direction characters, at most 255 long."""
    last = (name or "").replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C")
    return unicodedata.normalize("NFC", kept).strip()[:_LONGEST_NAME] or "unnamed"


def clean_subject(text: str | None) -> str | None:
    """Return a subject's code as given, trimmed; None where it is empty.

    Raises
    ------
    Problem
        422 for a code that is too long or holds control characters.
    """
    code = (text or "").strip()
    if len(code) > LONGEST_SUBJECT:
        raise invalid(f"subject has {len(code)} characters; at most {LONGEST_SUBJECT} are taken.")
    if any(unicodedata.category(letter)[0] == "C" for letter in code):
        raise invalid("subject holds a control character; use letters, digits and signs.")
    return code or None


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _members(content: bytes, limits: Limits) -> list[Upload]:
    try:
        archive = zipfile.ZipFile(BytesIO(content))
        entries = [entry for entry in archive.infolist() if _is_candidate(entry)]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError):
        raise invalid("The archive is damaged and cannot be opened.") from None
    if len(entries) > limits.job_files:
        raise too_large(f"The archive holds {len(entries)} files; at most {limits.job_files} are taken.")
    declared = sum(entry.file_size for entry in entries)
    if declared > limits.archive_mb * MEBIBYTE:
        raise too_large(
            f"The archive unpacks to {declared // MEBIBYTE} MB; at most {limits.archive_mb} are taken."
        )
    if declared > max(len(content), 4096) * limits.archive_ratio:
        raise too_large(
            f"The archive is packed more than {limits.archive_ratio} times; this is refused as a bomb."
        )
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise invalid("The archive is encrypted; send it without a password.")
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise invalid("The archive uses a compression other than deflate; pack it as a plain ZIP.")
    lock = Lock()
    most = limits.file_mb * MEBIBYTE + 1

    def reader(entry: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            # The sizes in the directory are not trusted: reading stops at the stated size or at the limit.
            with lock:
                try:
                    with archive.open(entry) as member:
                        return member.read(min(entry.file_size, most))
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError):
                    return b""

        return read

    return [
        Upload(clean_name(entry.filename), reader(entry), min(entry.file_size, most)) for entry in entries
    ]


def _is_candidate(entry: zipfile.ZipInfo) -> bool:
    if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
        return False
    hidden = entry.filename.replace("\\", "/").rpartition("/")[2].startswith(".")
    return not hidden and not has_system_part(entry.filename)


def check_multipart(request: FlaskRequest) -> None:
    """Refuse a body that is not multipart/form-data; an absent body is a missing field."""
    if request.mimetype != "multipart/form-data":
        raise Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "Send multipart/form-data with one or more fields named 'files'.",
        )
