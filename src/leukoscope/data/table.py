"""The cell table, ``cells.csv``: one row per cell image (columns in docs/architecture.md, "Tables").

Subjects, groups and folds are strings, always: "11", "H11" and "h3" are three subjects.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.core.io import write_text
from leukoscope.core.terms import Label
from leukoscope.core.text import TextError, format_rows, read_table

BLAST: Final = "blast"
NORMAL: Final = "normal"
UNLABELED: Final = ""
LABEL_VALUES: Final[Mapping[str, Label]] = {BLAST: Label.BLAST, NORMAL: Label.NORMAL}

TEXT_COLUMNS: Final = ("cell", "sha256", "label", "subject", "group", "fold")
COLUMNS: Final[Mapping[str, type]] = {
    **dict.fromkeys(TEXT_COLUMNS, str),
    "width_px": int,
    "height_px": int,
    "area_px": int,
    "box_height_px": int,
    "box_width_px": int,
    "mean_r": float,
    "mean_g": float,
    "mean_b": float,
    "std_r": float,
    "std_g": float,
    "std_b": float,
    "focus": float,
    "border_contact_px": int,
    "foreground_share": float,
    "components": int,
}
"""Columns of the table in their order, with their types."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WHOLE_NUMBER = re.compile(r"\d+")
_HEADER_ROWS = 2  # row numbers in messages are the file's own: the header is row 1


def read_cells(path: Path) -> pd.DataFrame:
    """Read and check a cell table.

    Parameters
    ----------
    path
        A ``cells.csv``.

    Returns
    -------
    pandas.DataFrame
        Columns and types as in ``COLUMNS``; text columns contain strings, never missing values. Further columns of the
        file are kept, as strings.

    Raises
    ------
    UsageError
        There is no such file.
    CohortError
        Not a cell table, or a value does not have the type of its column; the message names the row.
    """
    try:
        table = read_table(path, strip=False)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{path}: no such cell table; make one with 'leukoscope data import'") from None
    except (OSError, TextError) as error:
        raise CohortError(f"{path}: not a cell table: {error}") from None
    columns = {name: [row.fields[name.casefold()] for row in table.rows] for name in table.columns}
    frame = pd.DataFrame(columns, dtype=object).astype(str)
    if table.separator == ";":  # a spreadsheet that separates with semicolons writes decimal commas
        for column in frame.columns.intersection([name for name, kind in COLUMNS.items() if kind is float]):
            frame[column] = frame[column].str.replace(",", ".", regex=False)
    missing = [column for column in COLUMNS if column not in frame.columns]
    if missing:
        raise CohortError(
            f"{path}: not a cell table: column {missing[0]!r} is missing; make it with 'leukoscope data import'"
        )
    for column, kind in COLUMNS.items():
        if kind is not str:
            frame[column] = _numbers(frame[column], kind, str(path))
    check_cells(frame, str(path), read_classes(path))
    return frame


def classes_path(path: Path) -> Path:
    """Return the path of the class schema of a table: ``cells.csv`` has ``cells.classes.json``."""
    return path.with_suffix(".classes.json")


def read_classes(path: Path) -> ClassSchema:
    """Return the classes of a cell table: those of its schema file, or those of C-NMC if there is none.

    Raises
    ------
    ConfigError
        The file is no class schema.
    """
    beside = classes_path(path)
    return ClassSchema.read(beside) if beside.is_file() else BINARY


def present_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels of a table in the order in which counts are shown: C-NMC's two always, others as they occur."""
    found = {label for label in labels if label != UNLABELED}
    return (BLAST, NORMAL) if found <= {BLAST, NORMAL} else tuple(sorted(found))


def logit_columns(classes: ClassSchema) -> tuple[str, ...]:
    """Return the columns of ``scores.csv`` that hold logits: ``logit`` for two classes, else one per class."""
    return ("logit",) if classes.size == 2 else tuple(f"logit_{name}" for name in classes.names)


def label_numbers(labels: pd.Series, classes: ClassSchema) -> npt.NDArray[np.int64]:
    """Return the number of each label's class, (N,); ``CohortError`` where a label is no class."""
    numbers = labels.map({name: number for number, name in enumerate(classes.names)})
    if numbers.isna().any():
        wrong = labels[numbers.isna()].iloc[0]
        raise CohortError(f"label {wrong!r}: expected one of {', '.join(classes.names)}")
    return np.asarray(numbers.to_numpy(dtype=np.int64))


def check_cells(frame: pd.DataFrame, where: str = "cell table", classes: ClassSchema = BINARY) -> None:
    """Check the values of a table in memory.

    Raises
    ------
    CohortError
        A column is missing; a key is empty or occurs twice; a label or a digest has another form; the subject of a
        row is not in its group.
    """
    for column in COLUMNS:
        if column not in frame.columns:
            raise CohortError(f"{where}: column {column!r} is missing")
    for position, row in enumerate(zip(*(frame[column] for column in TEXT_COLUMNS), strict=True)):
        _check_row(row, f"{where}: row {position + _HEADER_ROWS}", classes)
    repeated = frame["cell"].duplicated()
    if repeated.any():
        position = int(repeated.to_numpy().argmax())
        raise CohortError(
            f"{where}: row {position + _HEADER_ROWS}: the cell {frame['cell'].iloc[position]!r} occurs twice"
        )


def write_cells(frame: pd.DataFrame, path: Path, classes: ClassSchema = BINARY) -> None:
    """Check a table and write it as UTF-8 CSV with LF line ends; an interrupted write leaves the old file in place.

    Classes other than those of C-NMC are written next to it.
    """
    check_cells(frame, classes=classes)
    if classes == BINARY:
        classes_path(path).unlink(missing_ok=True)
    else:
        write_text(classes_path(path), classes.to_json())
    extra = [column for column in frame.columns if column not in COLUMNS]
    ordered = frame[[*COLUMNS, *extra]]
    write_text(path, format_rows([tuple(ordered.columns), *ordered.itertuples(index=False, name=None)]))


def resolve_paths(frame: pd.DataFrame, table_path: Path) -> list[Path]:
    """Return the file of every row; keys are relative to the folder of the table, or absolute."""
    folder = table_path.parent
    return [folder / cell for cell in frame["cell"]]


def cell_key(file: Path, table_path: Path) -> str:
    """Return the key of a file in a table: relative to the table's folder, or absolute if it is elsewhere."""
    folder, absolute = table_path.parent.resolve(), file.absolute()
    # Only the folder is resolved: a link to an image keeps its own name.
    located = absolute.parent.resolve() / absolute.name
    return (located.relative_to(folder) if located.is_relative_to(folder) else located).as_posix()


def table_sha256(frame: pd.DataFrame) -> str:
    """Hash the identity of the rows: cell, file digest, label, subject, group, fold.

    The order of the rows and the descriptors do not matter.
    """
    rows = sorted("\x1f".join(row) for row in zip(*(frame[column] for column in TEXT_COLUMNS), strict=True))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def labeled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that have a label."""
    return frame[frame["label"] != UNLABELED]


def _check_row(row: tuple[str, ...], where: str, classes: ClassSchema) -> None:
    cell, sha256, label, subject, group, _ = row
    if not all(isinstance(value, str) for value in row):
        raise CohortError(f"{where}: {row!r}: the text columns must hold strings")
    if not cell:
        raise CohortError(f"{where}: the cell key is empty")
    if not _SHA256.fullmatch(sha256):
        raise CohortError(f"{where}: sha256 {sha256!r}: expected 64 lower-case hexadecimal digits")
    if label and label not in classes.names:
        raise CohortError(
            f"{where}: label {label!r}: expected {', '.join(map(repr, classes.names))} or nothing"
        )
    if not group:
        raise CohortError(f"{where}: the group is empty; make the table with 'leukoscope data import'")
    if subject and f"+{subject}+" not in f"+{group}+":
        raise CohortError(f"{where}: subject {subject!r} is not in its group {group!r}")


def _numbers(column: pd.Series, kind: type, where: str) -> pd.Series:
    def trouble(position: int, value: str) -> CohortError:
        wanted = "a whole number from 0" if kind is int else "a finite number"
        return CohortError(
            f"{where}: row {position + _HEADER_ROWS}: {column.name} {value!r}: expected {wanted}"
        )

    if kind is int:
        for position, value in enumerate(column):
            if not _WHOLE_NUMBER.fullmatch(value):
                raise trouble(position, value)
        return column.astype("int64")
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    wrong = numbers.isna() | numbers.abs().eq(float("inf"))
    if wrong.any():
        position = int(wrong.to_numpy().argmax())
        raise trouble(position, column.iloc[position])
    return numbers
