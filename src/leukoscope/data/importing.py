"""From a folder or a CSV to the cell table.

Beside ``cells.csv`` stands ``cells.import.json``: everything odd that was met, and the measurements with size and time
of every file, by which a second import need not read unchanged files. The table is written at the end and in one step.
"""

import csv
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leukoscope import __version__
from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.data.cnmc import CANVAS_PX, FINAL_TEST_PX
from leukoscope.data.groups import assign_groups
from leukoscope.data.layouts import LABEL_WORDS, Discovery, Oddity, OddityKind, Source, discover
from leukoscope.data.measure import Measurement, Progress, map_files, measure_file
from leukoscope.data.official import OfficialFile, official_by_sha256
from leukoscope.data.table import COLUMNS, TEXT_COLUMNS, UNLABELLED, cell_key, write_atomically, write_cells
from leukoscope.imaging.descriptors import describe_cell


@dataclasses.dataclass(frozen=True)
class ImportReport:
    """What an import found."""

    source: str
    table: str
    layouts: tuple[str, ...]
    files: int
    """Images found."""
    cells: int
    """Rows written."""
    reused: int
    """Rows taken from the previous import because size and time of the file are the same."""
    counts: dict[str, dict[str, int]]
    """Cells by fold and label."""
    subjects: int
    groups: int
    oddities: tuple[Oddity, ...]

    def oddity_counts(self) -> dict[str, int]:
        """Return the number of oddities of each kind."""
        return dict(Counter(oddity.kind.value for oddity in self.oddities))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**dataclasses.asdict(self), "oddity_counts": self.oddity_counts()}


def report_path(table: Path) -> Path:
    """Return where the import report of a table stands: ``cells.csv`` has ``cells.import.json``."""
    return table.with_suffix(".import.json")


def import_cohort(
    source: Path,
    table: Path,
    *,
    blast: Iterable[str] = (),
    normal: Iterable[str] = (),
    classes: ClassSchema = BINARY,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Read a cohort and write its cell table; an earlier cell table of that name is replaced, nothing else is.

    Parameters
    ----------
    source
        Folder or CSV (``layouts.discover``).
    table
        The ``cells.csv`` to write.
    blast, normal
        Class names beside the known ones.
    classes
        Of the cohort; others than C-NMC's are written beside the table.
    workers
        Threads; the number of processors where it is left out.
    progress
        Called with files done and files in all.

    Raises
    ------
    UsageError
        The source is not there or holds no image; the table's name is that of another file.
    CohortError
        A label file contradicts itself, or no image could be read.
    """
    if table.is_dir() or table.suffix.lower() != ".csv":
        raise UsageError(f"{table}: the table must be named as a .csv file")
    _check_target(source, table)
    found = discover(source, blast=blast, normal=normal, classes=classes)
    keys = [cell_key(item.file, table) for item in found.sources]
    stamps = {key: _stamp(item.file) for key, item in zip(keys, found.sources, strict=True)}
    known = _reusable(table, stamps)
    fresh = [item.file for key, item in zip(keys, found.sources, strict=True) if key not in known]
    measured = iter(map_files(measure_file, fresh, workers or os.cpu_count() or 1, progress))
    measurements = [known.get(key) or next(measured) for key in keys]
    frame, oddities = _assemble(found, keys, measurements, classes)
    if frame.empty:
        raise CohortError(
            f"{source}: none of {len(keys)} images could be read; the first: {oddities[0].message}"
        )
    write_cells(frame, table, classes)
    report = ImportReport(
        source=str(source),
        table=str(table),
        layouts=found.layouts,
        files=len(keys),
        cells=len(frame),
        reused=len(known),
        counts=_count(frame),
        subjects=int(frame.loc[frame["subject"].ne(""), "subject"].nunique()),
        groups=int(frame["group"].nunique()),
        oddities=tuple(oddities),
    )
    _write_sidecar(report, table, dict(zip(keys, measurements, strict=True)), stamps)
    return report


def _check_target(source: Path, table: Path) -> None:
    """Refuse to write over the user's own file; an empty one may be filled."""
    if not table.exists() or not table.stat().st_size:
        return
    if source.exists() and table.samefile(source):
        raise UsageError(
            f"{table}: is the source itself and would be overwritten; name another file with --out"
        )
    with table.open(encoding="utf-8", errors="replace", newline="") as file:
        columns = next(csv.reader(file), [])
    if not set(TEXT_COLUMNS) <= set(columns):
        raise UsageError(
            f"{table}: exists and is no cell table, it would be overwritten; name another file with --out"
        )


def _assemble(
    found: Discovery, keys: Sequence[str], measurements: Sequence[Measurement], classes: ClassSchema
) -> tuple[pd.DataFrame, list[Oddity]]:
    oddities = list(found.oddities)
    rows: list[dict[str, Any]] = []
    official_subjects: list[str] = []
    for source, key, measured in zip(found.sources, keys, measurements, strict=True):
        if measured.trouble:
            oddities.append(Oddity(OddityKind.UNREADABLE, key, f"{measured.trouble} Left out."))
            continue
        oddities += _size_oddities(key, measured)
        known, said = _recognise(source, key, measured, classes)
        oddities += said
        official_subjects.append(known.official_subject)
        rows.append(
            {
                "cell": key,
                "sha256": measured.sha256,
                "label": known.label,
                "subject": known.subject,
                "fold": known.fold,
                "width_px": measured.width_px,
                "height_px": measured.height_px,
                **measured.descriptors,
            }
        )
    oddities += _settle_duplicates(rows)
    groups = assign_groups(
        [row["subject"] for row in rows], [row["sha256"] for row in rows], official_subjects
    )
    for row, group in zip(rows, groups, strict=True):
        row["group"] = group
    return pd.DataFrame(rows, columns=list(COLUMNS)), oddities


def _recognise(
    source: Source, key: str, measured: Measurement, classes: ClassSchema
) -> tuple[Source, list[Oddity]]:
    """Fill what the place of a file leaves open from the official list; say where the two contradict each other."""
    same = _official(measured)
    if not same:
        return source, []
    oddities: list[Oddity] = []
    official = next((file for file in same if file.subject == source.subject), same[0])
    label = source.label
    if official.label is not None and classes == BINARY:
        word = LABEL_WORDS[official.label]
        if label and label != word:
            message = (
                f"labelled {label}, but the official file {official.path} is {word}; the cell gets no label"
            )
            oddities.append(Oddity(OddityKind.LABEL_CONFLICT, key, message))
            label = UNLABELLED
        elif not label and not source.official_subject:
            label = word
    if source.subject and official.subject and source.subject != official.subject:
        message = (
            f"subject {source.subject!r}, but the official file {official.path} is of {official.subject!r}"
        )
        oddities.append(
            Oddity(OddityKind.SUBJECT_CONFLICT, key, message + "; both are merged into one group")
        )
    return (
        dataclasses.replace(
            source,
            label=label,
            subject=source.subject or official.subject,
            fold=source.fold or official.fold,
            official_subject=official.subject or source.official_subject,
        ),
        oddities,
    )


def _official(measured: Measurement) -> tuple[OfficialFile, ...]:
    known = official_by_sha256()
    return known.get(measured.sha256) or known.get(measured.official_sha256) or ()


def _size_oddities(key: str, measured: Measurement) -> list[Oddity]:
    size = (measured.width_px, measured.height_px)
    text = f"{size[0]} x {size[1]} px"
    if size == (CANVAS_PX, CANVAS_PX):
        return []
    if size == (FINAL_TEST_PX, FINAL_TEST_PX):
        return [
            Oddity(
                OddityKind.CROPPED, key, f"{text}, cropped around the centre to {CANVAS_PX} x {CANVAS_PX} px"
            )
        ]
    message = f"{text} instead of {CANVAS_PX} x {CANVAS_PX} px: centred on the canvas, cropped where larger"
    return [Oddity(OddityKind.WRONG_SIZE, key, message)]


def _settle_duplicates(rows: Sequence[dict[str, Any]]) -> list[Oddity]:
    """Report identical files; where their labels contradict each other, none of them keeps one."""
    same: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        same.setdefault(row["sha256"], []).append(row)
    oddities = []
    for copies in same.values():
        if len(copies) == 1:
            continue
        others = ", ".join(row["cell"] for row in copies[1:])
        oddities.append(Oddity(OddityKind.DUPLICATE, copies[0]["cell"], f"identical to {others}"))
        if len({row["label"] for row in copies if row["label"]}) > 1:
            for row in copies:
                message = f"labelled {row['label'] or 'nothing'}, an identical file otherwise; the cell gets no label"
                oddities.append(Oddity(OddityKind.LABEL_CONFLICT, row["cell"], message))
                row["label"] = UNLABELLED
    return oddities


def _count(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for fold, label in zip(frame["fold"], frame["label"], strict=True):
        of_fold = counts.setdefault(fold, {})
        of_fold[label] = of_fold.get(label, 0) + 1
    return {fold: dict(sorted(of_fold.items())) for fold, of_fold in sorted(counts.items())}


def _stamp(file: Path) -> list[int]:
    try:
        status = file.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _describer() -> str:
    """Fingerprint the descriptors' definition, so that rows of an older one are not reused."""
    rows, columns = np.mgrid[:CANVAS_PX, :CANVAS_PX]
    disc = (rows - 200) ** 2 + (columns - 230) ** 2 < 80**2
    rgb = np.stack([disc * ((rows * factor + columns) % 199 + 30) for factor in (3, 5, 7)], axis=-1)
    frames = (rgb, rgb[130:, 160:])  # of the canvas' size, and a smaller one that cuts the disc off
    values = [dataclasses.asdict(describe_cell(frame.astype(np.uint8))) for frame in frames]
    return hashlib.sha256(json.dumps(values, default=float).encode()).hexdigest()


def _reusable(table: Path, stamps: Mapping[str, Sequence[int]]) -> dict[str, Measurement]:
    """Return the measurements of the previous import for files whose size and time are the same."""
    try:
        sidecar = json.loads(report_path(table).read_text(encoding="utf-8"))
        if sidecar["describer"] != _describer() or not table.is_file():
            return {}
        return {
            key: Measurement(**sidecar["files"][key]["measurement"])
            for key, stamp in stamps.items()
            if stamp and key in sidecar["files"] and sidecar["files"][key]["stamp"] == list(stamp)
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # no previous import, or not one of this release: every file is read


def _write_sidecar(
    report: ImportReport,
    table: Path,
    measurements: Mapping[str, Measurement],
    stamps: Mapping[str, Sequence[int]],
) -> None:
    content = {
        "leukoscope": __version__,
        "describer": _describer(),
        "report": report.to_json(),
        "files": {
            key: {"stamp": stamps[key], "measurement": dataclasses.asdict(measured)}
            for key, measured in measurements.items()
            if measured.sha256
        },
    }
    write_atomically(report_path(table), json.dumps(content, ensure_ascii=False) + "\n")
