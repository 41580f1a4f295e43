"""From a folder or a CSV to the cell table.

The file ``cells.import.json`` next to ``cells.csv`` has all issues, and the measurements with size and time
of every file, by which a second import need not read unchanged files. The table is written at the end and in one step.
"""

import csv
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leukoscope import __version__
from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.core.io import write_text
from leukoscope.core.outputs import Outputs, json_with
from leukoscope.core.subjects import SubjectTable, check_spelling, read_subjects
from leukoscope.core.text import escape_surrogates, is_utf8
from leukoscope.data.cnmc import CANVAS_PX, FINAL_TEST_PX
from leukoscope.data.groups import assign_groups
from leukoscope.data.layouts import (
    EXPECTED_ISSUES,
    LABEL_TEXTS,
    Discovery,
    ImportIssue,
    IssueKind,
    LabelSource,
    Source,
    discover,
)
from leukoscope.data.measure import Measurement, Progress, map_files, measure_file
from leukoscope.data.official import OfficialFile, official_by_sha256
from leukoscope.data.table import COLUMNS, TEXT_COLUMNS, UNLABELED, cell_key, write_cells
from leukoscope.imaging.descriptors import describe_cell

GAPS = frozenset({IssueKind.UNREADABLE, IssueKind.MISSING})
"""Kinds of issues with files that could not be read; such an import exits with 1."""
_NOT_UTF8 = "the file name is not UTF-8 and cannot be written into a table; rename the file. Left out."


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
    issues: tuple[ImportIssue, ...]
    label_sources: tuple[LabelSource, ...] = ()
    is_written: bool = True
    """False if ``strict`` found issues: then there is no new table."""

    @property
    def is_complete(self) -> bool:
        """Whether every file, folder and row that was named could be read."""
        return not any(issue.kind in GAPS for issue in self.issues)

    def issue_counts(self) -> dict[str, int]:
        """Return the number of issues of each kind."""
        return dict(Counter(issue.kind.value for issue in self.issues))

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**dataclasses.asdict(self), "issue_counts": self.issue_counts()}


def report_path(table: Path) -> Path:
    """Return the path of the import report of a table: ``cells.csv`` has ``cells.import.json``."""
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
    labels: Mapping[str, str] | None = None,
    subjects: Path | None = None,
    keep_spelling: bool = False,
    announce: Callable[[Sequence[LabelSource]], None] | None = None,
    strict: bool = False,
    overwrite: bool = False,
) -> ImportReport:
    """Read a cohort and write its cell table; an earlier cell table of that name is replaced.

    Parameters
    ----------
    source
        Folder or CSV (``layouts.discover``).
    table
        The ``cells.csv`` to write.
    blast, normal
        Class names in addition to the known ones.
    classes
        Classes of the cohort; if they are not those of C-NMC, they are written next to the table.
    workers
        Threads; the number of processors where it is left out.
    progress
        Called with files done and files in all.
    labels
        Folder name or label value -> ``blast``, ``normal`` or ``none``, before the known class names.
    subjects
        CSV with the columns ``source`` and ``subject``; it counts before names and columns.
    keep_spelling
        Accept subject ids that are probably two spellings of one subject.
    announce
        Called with every source of labels before an image is read.
    strict
        Write no table if there is any issue but those of ``EXPECTED_ISSUES``.
    overwrite
        Replace files that are no cell table.

    Raises
    ------
    UsageError
        The source is not there or holds no image; the table's place is taken by another file.
    CohortError
        A label file contradicts itself, or no image could be read.
    """
    if table.is_dir() or table.suffix.lower() != ".csv":
        raise UsageError(f"{table}: the table must be named as a .csv file")
    _check_target(source, table, overwrite)
    found = discover(source, blast=blast, normal=normal, labels=labels, classes=classes)
    if announce is not None:
        announce(found.label_sources)
    if subjects is not None:
        found = _with_subjects(found, SubjectTable(read_subjects(subjects, keep_spelling=keep_spelling)))
    keys = [cell_key(item.file, table) for item in found.sources]
    stamps = {key: _stamp(item.file) for key, item in zip(keys, found.sources, strict=True)}
    known = _reusable(table, stamps)
    fresh = [item.file for key, item in zip(keys, found.sources, strict=True) if key not in known]
    measured = iter(map_files(measure_file, fresh, workers or os.cpu_count() or 1, progress))
    measurements = [known.get(key) or next(measured) for key in keys]
    frame, issues = _assemble(found, keys, measurements, classes)
    if frame.empty:
        first = next(issue.message for issue in issues if issue.kind is IssueKind.UNREADABLE)
        raise CohortError(f"{source}: none of {len(keys)} images could be read; the first: {first}")
    if not keep_spelling:
        check_spelling(frame["subject"], str(source))
    is_refused = strict and any(issue.kind not in EXPECTED_ISSUES for issue in issues)
    if not is_refused:
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
        issues=tuple(issues),
        label_sources=found.label_sources,
        is_written=not is_refused,
    )
    if is_refused:
        return report
    _write_sidecar(report, table, dict(zip(keys, measurements, strict=True)), stamps)
    return report


def _with_subjects(found: Discovery, table: SubjectTable) -> Discovery:
    sources = []
    for source in found.sources:
        subject = table(str(source.file))
        official = source.official_subject if subject in (None, source.official_subject) else ""
        sources.append(
            dataclasses.replace(source, subject=subject or source.subject, official_subject=official)
        )
    return dataclasses.replace(found, sources=tuple(sources))


def _check_target(source: Path, table: Path, overwrite: bool) -> None:
    """Refuse to replace a file that this command did not write."""
    outputs = Outputs(overwrite=overwrite)
    outputs.read(source)
    outputs.file(table, "--out", own=_is_cell_table)
    is_again = table.is_file() and _is_cell_table(table)  # then even a damaged sidecar is our own
    sidecar = json_with("leukoscope", "describer")
    outputs.file(report_path(table), "--out", own=lambda path: is_again or sidecar(path))
    outputs.check()


def _is_cell_table(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        return set(TEXT_COLUMNS) <= set(next(csv.reader(file), []))


def _assemble(
    found: Discovery, keys: Sequence[str], measurements: Sequence[Measurement], classes: ClassSchema
) -> tuple[pd.DataFrame, list[ImportIssue]]:
    issues = list(found.issues)
    rows: list[dict[str, Any]] = []
    official_subjects: list[str] = []
    for source, key, measured in zip(found.sources, keys, measurements, strict=True):
        if not is_utf8(key):
            issues.append(ImportIssue(IssueKind.UNREADABLE, escape_surrogates(key), _NOT_UTF8))
            continue
        if measured.trouble:
            issues.append(ImportIssue(IssueKind.UNREADABLE, key, f"{measured.trouble} Left out."))
            continue
        issues += _size_issues(key, measured)
        known, conflicts = _recognize(source, key, measured, classes)
        issues += conflicts
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
    issues += _settle_duplicates(rows)
    groups = assign_groups(
        [row["subject"] for row in rows], [row["sha256"] for row in rows], official_subjects
    )
    for row, group in zip(rows, groups, strict=True):
        row["group"] = group
    return pd.DataFrame(rows, columns=list(COLUMNS)), issues


def _recognize(
    source: Source, key: str, measured: Measurement, classes: ClassSchema
) -> tuple[Source, list[ImportIssue]]:
    """Fill missing fields of a file from the official list; report contradictions as issues."""
    same = _official(measured)
    if not same:
        return source, []
    issues: list[ImportIssue] = []
    official = next((file for file in same if file.subject == source.subject), same[0])
    label = source.label
    if official.label is not None and classes == BINARY:
        word = LABEL_TEXTS[official.label]
        if label and label != word:
            message = (
                f"labeled {label}, but the official file {official.path} is {word}; the cell gets no label"
            )
            issues.append(ImportIssue(IssueKind.LABEL_CONFLICT, key, message))
            label = UNLABELED
        elif not label and not source.official_subject and not source.undecided:
            label = word
    if source.subject and official.subject and source.subject != official.subject:
        message = (
            f"subject {source.subject!r}, but the official file {official.path} is of {official.subject!r}"
        )
        issues.append(
            ImportIssue(IssueKind.SUBJECT_CONFLICT, key, message + "; both are merged into one group")
        )
    return (
        dataclasses.replace(
            source,
            label=label,
            subject=source.subject or official.subject,
            fold=source.fold or official.fold,
            official_subject=official.subject or source.official_subject,
        ),
        issues,
    )


def _official(measured: Measurement) -> tuple[OfficialFile, ...]:
    known = official_by_sha256()
    return known.get(measured.sha256) or known.get(measured.official_sha256) or ()


def _size_issues(key: str, measured: Measurement) -> list[ImportIssue]:
    size = (measured.width_px, measured.height_px)
    text = f"{size[0]} x {size[1]} px"
    if size == (CANVAS_PX, CANVAS_PX):
        return []
    if size == (FINAL_TEST_PX, FINAL_TEST_PX):
        return [
            ImportIssue(
                IssueKind.CROPPED, key, f"{text}, cropped around the center to {CANVAS_PX} x {CANVAS_PX} px"
            )
        ]
    message = f"{text} instead of {CANVAS_PX} x {CANVAS_PX} px: centered on the canvas, cropped where larger"
    return [ImportIssue(IssueKind.WRONG_SIZE, key, message)]


def _settle_duplicates(rows: Sequence[dict[str, Any]]) -> list[ImportIssue]:
    """Report identical files; where their labels contradict each other, none of them keeps one."""
    same: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        same.setdefault(row["sha256"], []).append(row)
    issues = []
    for copies in same.values():
        if len(copies) == 1:
            continue
        others = ", ".join(row["cell"] for row in copies[1:])
        issues.append(ImportIssue(IssueKind.DUPLICATE, copies[0]["cell"], f"identical to {others}"))
        if len({row["label"] for row in copies if row["label"]}) > 1:
            for row in copies:
                message = f"labeled {row['label'] or 'nothing'}, an identical file otherwise; the cell gets no label"
                issues.append(ImportIssue(IssueKind.LABEL_CONFLICT, row["cell"], message))
                row["label"] = UNLABELED
    return issues


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
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
            if measured.sha256 and is_utf8(key)
        },
    }
    write_text(report_path(table), json.dumps(content, ensure_ascii=False) + "\n")
