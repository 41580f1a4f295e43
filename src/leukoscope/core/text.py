"""Read text files of any origin: encodings, line ends, separators, names."""

import codecs
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leukoscope.core.errors import UsageError
from leukoscope.core.places import expand_user

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS = (",", ";", "\t", "|")
_MAX_FIELD = 1_000_000
MAX_TEXT_BYTES = 256 * 1024 * 1024
"""Of a text file; a table of a million cells has about 200 MB."""


class TextError(UsageError):
    """A text has an encoding or a form that is not read."""


@dataclass(frozen=True)
class Row:
    """One record of a CSV.

    Attributes
    ----------
    line
        Line of the file on which the record ends; the header is on line 1.
    fields
        Header in lower case without outer spaces -> value without outer spaces.
    """

    line: int
    fields: dict[str, str]


@dataclass(frozen=True)
class TextTable:
    """A CSV as text.

    Attributes
    ----------
    columns
        The header as written, without outer spaces.
    rows
        The records; empty lines are skipped.
    separator
        The separator that was found.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    separator: str

    def find(self, names: Iterable[str]) -> str | None:
        """Return the key of the first of ``names`` that is a column, in any case; None if none is."""
        keys = {column.casefold() for column in self.columns}
        return next((name.casefold() for name in names if name.casefold() in keys), None)


def decode_text(content: bytes, where: str) -> str:
    """Decode UTF-8 with or without byte-order mark, UTF-16 and UTF-32 with one, and UTF-16 without.

    Parameters
    ----------
    content
        The file's bytes.
    where
        Its name, for the error.

    Raises
    ------
    TextError
        Another encoding; the first wrong byte and its line are named.
    """
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), None) or _guess(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TextError(
            f"{where}, line {line}: byte 0x{content[error.start]:02x} at offset {error.start:,} is not "
            f"{encoding.upper()}; save the file as UTF-8 (spreadsheets: 'CSV UTF-8')"
        ) from None
    if "\0" in text:
        raise TextError(f"{where}: holds NUL characters, so it is no text; save the file as UTF-8")
    return text


def read_text(path: Path) -> str:
    """Read a text file; see ``decode_text``.

    Raises
    ------
    OSError
        The file cannot be read.
    TextError
        Its encoding is not known, or it has more than ``MAX_TEXT_BYTES``: a device may have no end.
    """
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise TextError(
            f"{path}: has more than {MAX_TEXT_BYTES // 1024**2} MiB, the limit for a text file; name the table itself"
        )
    return decode_text(content, str(path))


def read_json(path: Path) -> Any:
    """Read a JSON file in any encoding of ``decode_text``.

    Raises
    ------
    OSError
        The file cannot be read.
    TextError
        It is not JSON; line and column are named.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{path}: not JSON: {error}") from None


def read_table(path: Path, *, strip: bool = True) -> TextTable:
    """Read a CSV file; see ``parse_table``."""
    return parse_table(read_text(path), str(path), strip=strip)


def parse_table(text: str, where: str, *, strip: bool = True) -> TextTable:
    r"""Read a CSV with commas, semicolons, tabs or bars, any line ends, and quotes.

    Parameters
    ----------
    text
        The decoded file. A first line ``sep=;`` as spreadsheets write it is understood.
    where
        Its name, for errors.
    strip
        Remove outer spaces of values.

    Raises
    ------
    TextError
        No header, a column named twice, a row with more fields than the header, or broken quotes.

    Examples
    --------
    >>> parse_table("File;Label\r\na.png;blast\r\n", "t.csv").rows[0].fields
    {'file': 'a.png', 'label': 'blast'}
    """
    separator = None
    if text[:4].casefold() == "sep=" and text[5:6] in ("\r", "\n"):
        separator, text = text[4], text[5:].lstrip("\r\n")
    separator = separator or _find_separator(text)
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=strip, strict=True
    )
    header: tuple[str, ...] | None = None
    rows = []
    try:
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = tuple(field.strip() for field in fields)
                _check_header(header, where)
                continue
            if any(field.strip() for field in fields[len(header) :]):
                raise TextError(
                    f"{where}, line {reader.line_num}: {len(fields)} fields, the header has {len(header)}; "
                    f"quote values that hold the separator {separator!r}"
                )
            values = [field.strip() if strip else field for field in fields[: len(header)]]
            values += [""] * (len(header) - len(values))
            keys = (name.casefold() for name in header)
            rows.append(Row(reader.line_num, dict(zip(keys, values, strict=True))))
    except csv.Error as error:
        raise TextError(f"{where}, line {reader.line_num}: not CSV ({error})") from None
    if header is None:
        raise TextError(f"{where}: the table is empty")
    return TextTable(header, tuple(rows), separator)


def format_rows(rows: Iterable[Sequence[object]]) -> str:
    r"""Write records as CSV with LF line ends; a record that holds a carriage return is quoted as a whole.

    ``csv`` quotes what holds the line end of the file, but readers end lines at a lone ``\r`` as well.
    """
    stream = io.StringIO(newline="")
    plain = csv.writer(stream, lineterminator="\n")
    quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in str(value) for value in row) else plain).writerow(row)
    return stream.getvalue()


def escape_surrogates(text: str) -> str:
    """Return a name that can be written as UTF-8: bytes of the file system that are not UTF-8 are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_utf8(name: str) -> bool:
    """Tell whether a file name can be written as UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_utf8(text: str, what: str) -> None:
    """Refuse a text that came from bytes that are not UTF-8, and NUL characters.

    Parameters
    ----------
    text
        The text.
    what
        What it is, for the message: an option or a key.

    Raises
    ------
    UsageError
        It cannot be written as UTF-8, or holds NUL.
    """
    if "\0" in text:
        raise UsageError(f"{what} {text!r}: holds a NUL character; leave it out")
    if not is_utf8(text):
        raise UsageError(f"{what} {text!r}: is not UTF-8; write it in UTF-8")


def find_file(name: str, folder: Path) -> Path | None:
    r"""Return the file that a table names: relative to its folder, with ``/`` or Windows' ``\\``, or below ``~``.

    None if there is no such file.
    """
    forms = [name]
    if "\\" in name:
        forms.append(name.replace("\\", "/"))
    for form in forms:
        try:
            place = folder / form
            if place.is_file():
                return place
            if form.startswith("~") and (place := expand_user(form)).is_file():
                return place
        except (OSError, ValueError, UsageError):  # too long, NUL, no such user
            continue
    return None


def _guess(content: bytes) -> str:
    """Tell UTF-16 without a mark by its zero bytes: ASCII text has one in every pair."""
    head = content[:2000]
    if len(head) < 4 or (len(head) % 2 and len(head) == len(content)):
        return "utf-8"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > 0.4 * len(head) / 2 and not even:
        return "utf-16-le"
    if even > 0.4 * len(head) / 2 and not odd:
        return "utf-16-be"
    return "utf-8"


def _find_separator(text: str) -> str:
    """Return the separator that divides the header into most fields."""
    counts = {}
    for separator in _SEPARATORS:
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
            counts[separator] = len(next((row for row in reader if row), []))
        except csv.Error:
            counts[separator] = 0
    return max(_SEPARATORS, key=lambda separator: counts[separator])


def _check_header(header: Sequence[str], where: str) -> None:
    keys = [name.casefold() for name in header if name]
    twice = next((name for name in keys if keys.count(name) > 1), None)
    if twice is not None:
        raise TextError(f"{where}: two columns are named {twice!r}; rename one of them")
