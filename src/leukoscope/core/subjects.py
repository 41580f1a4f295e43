"""Subject ids: always strings; spellings that are probably one subject; tables of the subjects of images."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from leukoscope.core.errors import CohortError, UsageError
from leukoscope.core.places import expand_user
from leukoscope.core.text import read_table

_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f"))
_SEPARATORS = re.compile(r"[\s_.\-\u2010-\u2015\u2212/\\]+")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_LETTER_DIGIT = re.compile(r"(?<=[^\W\d])-(?=\d)|(?<=\d)-(?=[^\W\d])")
_SHOWN = 5


def normalize_subject(subject: str) -> str:
    """Return an id without outer spaces and invisible characters, in Unicode's composed form (NFC).

    Nothing else is changed: "11", "H11" and "h3" are three subjects.
    """
    return unicodedata.normalize("NFC", subject.translate(_INVISIBLE)).strip()


def spelling_key(subject: str) -> str:
    """Return what likely equal spellings share.

    Case, leading zeros, full-width and other compatible characters, kinds of separators, and a separator between a
    letter and a digit do not matter.

    Examples
    --------
    >>> {spelling_key(name) for name in ("P1", "p1", "P01", "P-1", "P_1", "\uff30\uff11")}
    {'p1'}
    >>> spelling_key("11") == spelling_key("H11")
    False
    """
    text = unicodedata.normalize("NFKC", normalize_subject(subject)).casefold()
    text = _SEPARATORS.sub("-", text).strip("-")
    return _ZEROS.sub("", _LETTER_DIGIT.sub("", text))


def likely_equal(subjects: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the sets of different ids that are probably the same subject, in sorted order."""
    spellings: dict[str, set[str]] = {}
    for subject in set(subjects) - {""}:
        spellings.setdefault(spelling_key(subject), set()).add(subject)
    return sorted(tuple(sorted(same)) for same in spellings.values() if len(same) > 1)


def check_spelling(subjects: Iterable[str], where: str) -> None:
    """Refuse ids that are probably the same subject: they could be on two sides of a split.

    Parameters
    ----------
    subjects
        The id of every row.
    where
        What they belong to, for the message.

    Raises
    ------
    CohortError
        Two ids differ in their spelling only.
    """
    counts = Counter(subjects)
    same = likely_equal(counts)
    if not same:
        return
    shown = "; ".join(
        " and ".join(f"{subject!r} ({counts[subject]:,})" for subject in one) for one in same[:_SHOWN]
    )
    more = f"; and {len(same) - _SHOWN} more" if len(same) > _SHOWN else ""
    raise CohortError(
        f"{where}: ids that are probably two spellings of one subject (images): {shown}{more}; use one spelling, "
        "give one spelling with --subjects TABLE, or keep them apart with --keep-spelling"
    )


def read_subjects(path: Path, *, keep_spelling: bool = False) -> dict[str, str]:
    """Read a CSV with the columns ``source`` (or ``file``, ``cell``, ``image``, ``path``) and ``subject``.

    Parameters
    ----------
    path
        The table.
    keep_spelling
        Accept ids that are probably two spellings of one subject.

    Returns
    -------
    dict
        Name as written -> subject.

    Raises
    ------
    UsageError
        The file cannot be read, lacks a column, or gives one image two subjects.
    CohortError
        Two ids are probably the same subject.
    """
    try:
        table = read_table(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    key = table.find(("source", "file", "cell", "image", "path"))
    person = table.find(("subject", "patient", "subject_id", "patient_id"))
    if key is None or person is None:
        raise UsageError(
            f"{path}: columns {', '.join(table.columns) or 'none'}; expected source (or file) and subject"
        )
    subjects: dict[str, str] = {}
    for row in table.rows:
        name, subject = row.fields[key], normalize_subject(row.fields[person])
        if not name or not subject:
            continue
        if subjects.setdefault(name, subject) != subject:
            raise UsageError(
                f"{path}, line {row.line}: {name} has two subjects, {subjects[name]} and {subject}"
            )
    if not keep_spelling:
        check_spelling(subjects.values(), str(path))
    return subjects


class SubjectTable:
    """Finds the subject of an image by its path, and counts rows and images without a match.

    A row matches an image whose path ends with the row's path, whole folder names at a time; if several rows match, the
    longest path counts. So a row without a folder matches that file name in any folder.

    Parameters
    ----------
    subjects
        Name as written in the table -> subject.

    Attributes
    ----------
    unmatched_images
        Images that no row matches.

    Raises
    ------
    UsageError
        Two spellings of one path have two subjects.
    """

    def __init__(self, subjects: Mapping[str, str]) -> None:
        self._subjects: dict[tuple[str, ...], str] = {}
        for name, subject in subjects.items():
            if self._subjects.setdefault(_path_parts(name), subject) != subject:
                raise UsageError(f"subject table: {name} occurs in two spellings with two subjects")
        self._here = _path_parts(str(Path.cwd()))
        self._matched: set[tuple[str, ...]] = set()
        self.unmatched_images = 0

    @property
    def unmatched_rows(self) -> int:
        """Rows that fitted no image so far."""
        return len(self._subjects) - len(self._matched)

    def __call__(self, name: str) -> str | None:
        """Return the subject, or None if no row fits."""
        parts = _path_parts(name)
        if not os.path.isabs(name):  # noqa: PTH117 - a plain string
            parts = self._here + parts
        for start in range(len(parts)):
            if parts[start:] in self._subjects:
                self._matched.add(parts[start:])
                return self._subjects[parts[start:]]
        self.unmatched_images += 1
        return None


def _path_parts(name: str) -> tuple[str, ...]:
    if name.startswith("~"):
        with suppress(UsageError):
            name = str(expand_user(name))
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
