"""Audit of a cohort before training: identical images, merged subjects, imbalance, leaks."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from leukoscope.data.groups import UNKNOWN_SUBJECT_PREFIX, natural_order
from leukoscope.data.splits import Split, SplitPlan
from leukoscope.data.table import BLAST, NORMAL, UNLABELED, present_labels


@dataclasses.dataclass(frozen=True)
class DuplicateSet:
    """Cells whose files are identical."""

    sha256: str
    cells: tuple[str, ...]
    subjects: tuple[str, ...]
    """Different known subjects; more than one means duplicate ids of one subject, or a mix-up."""
    labels: tuple[str, ...]
    folds: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SubjectBalance:
    """The cells of one subject."""

    subject: str
    group: str
    folds: tuple[str, ...]
    blast: int
    normal: int
    unlabeled: int
    labels: dict[str, int]
    """Cells of each label, by its name."""


@dataclasses.dataclass(frozen=True)
class FoldOverlap:
    """Groups that are in two folds."""

    first: str
    second: str
    groups: tuple[str, ...]
    identical_files: int


@dataclasses.dataclass(frozen=True)
class SplitLeak:
    """What two sides of a split share."""

    split: str
    first: str
    second: str
    groups: tuple[str, ...]
    cells: int
    """Cells of the second side whose group or file is also on the first."""
    identical_files: int
    unknown_subjects: int
    """Cells of the second side without a subject: it cannot be shown that they are of other subjects."""


@dataclasses.dataclass(frozen=True)
class CohortAudit:
    """The audit of a cell table, splits aside."""

    cells: int
    folds: dict[str, dict[str, int]]
    """By fold: cells, those of each label and unlabeled, subjects, groups, duplicates (identical pairs within)."""
    subjects: tuple[SubjectBalance, ...]
    unknown_subjects: int
    """Labeled cells without a subject."""
    duplicates: tuple[DuplicateSet, ...]
    duplicate_counts: dict[str, int]
    """Sets of identical files: in all, within one subject, across subjects, across labels, across folds."""
    merged_groups: tuple[str, ...]
    """Groups of more than one subject id, from the imported files and the official list."""
    fold_overlaps: tuple[FoldOverlap, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the audit as plain data."""
        return dataclasses.asdict(self)


def audit_cells(cells: pd.DataFrame) -> CohortAudit:
    """Audit a cell table.

    Parameters
    ----------
    cells
        Cell table.
    """
    duplicates, labels = _duplicates(cells), present_labels(cells["label"])
    known = cells[cells["subject"].ne("")]
    subjects = known.groupby(["subject"], sort=False)
    merged = {group for group in known["group"] if "+" in group and not _is_one_subject(known, group)}
    labeled = cells["label"].ne(UNLABELED)
    return CohortAudit(
        cells=len(cells),
        folds={str(fold): _count_fold(side, duplicates, labels) for fold, side in cells.groupby("fold")},
        subjects=tuple(
            sorted(
                (_balance(side, labels) for _, side in subjects), key=lambda item: natural_order(item.subject)
            )
        ),
        unknown_subjects=int((labeled & cells["subject"].eq("")).sum()),
        duplicates=duplicates,
        duplicate_counts={
            "sets": len(duplicates),
            "within_subject": sum(len(found.subjects) == 1 for found in duplicates),
            "across_subjects": sum(len(found.subjects) > 1 for found in duplicates),
            "across_labels": sum(len(found.labels) > 1 for found in duplicates),
            "across_folds": sum(len(found.folds) > 1 for found in duplicates),
        },
        merged_groups=tuple(sorted(merged)),
        fold_overlaps=_overlaps(cells),
    )


def find_leaks(cells: pd.DataFrame, plan: SplitPlan) -> list[SplitLeak]:
    """Return the groups and files that the sides of each split share; empty for a subject-disjoint plan.

    Unlike ``check_plan`` this ignores ``leaks`` of the plan: a plan that is marked as leaking is measured, too.
    """
    return [leak for split in plan.splits for leak in _leaks_of(cells, split)]


def _leaks_of(cells: pd.DataFrame, split: Split) -> list[SplitLeak]:
    sides = {name: cells[cells["cell"].isin(set(keys))] for name, keys in split.parts().items()}
    leaks = []
    for (first, one), (second, other) in combinations(sides.items(), 2):
        groups = set(one["group"]) & set(other["group"])
        digests = set(one["sha256"]) & set(other["sha256"])
        shared = other["group"].isin(groups) | other["sha256"].isin(digests)
        unknown = int(other["group"].str.startswith(UNKNOWN_SUBJECT_PREFIX).sum()) if len(one) else 0
        if shared.any() or unknown:
            leaks.append(
                SplitLeak(
                    split=split.name,
                    first=first,
                    second=second,
                    groups=tuple(sorted(groups)),
                    cells=int(shared.sum()),
                    identical_files=len(digests),
                    unknown_subjects=unknown,
                )
            )
    return leaks


def _duplicates(cells: pd.DataFrame) -> tuple[DuplicateSet, ...]:
    repeated = cells[cells["sha256"].duplicated(keep=False)]
    return tuple(
        DuplicateSet(
            sha256=str(digest),
            cells=tuple(side["cell"]),
            subjects=tuple(sorted(set(side["subject"]) - {""})),
            labels=tuple(sorted(set(side["label"]) - {UNLABELED})),
            folds=tuple(sorted(set(side["fold"]))),
        )
        for digest, side in repeated.groupby("sha256", sort=False)
    )


def _count_fold(
    side: pd.DataFrame, duplicates: Sequence[DuplicateSet], labels: Sequence[str]
) -> dict[str, int]:
    fold = side["fold"].iloc[0]
    return {
        "cells": len(side),
        **_label_counts(side, labels),
        "subjects": int(side.loc[side["subject"].ne(""), "subject"].nunique()),
        "groups": int(side["group"].nunique()),
        "duplicates": sum(found.folds == (fold,) for found in duplicates),
    }


def _label_counts(side: pd.DataFrame, labels: Sequence[str]) -> dict[str, int]:
    counts: Mapping[str, int] = Counter(side["label"])
    return {**{label: counts.get(label, 0) for label in labels}, "unlabeled": counts.get(UNLABELED, 0)}


def _balance(side: pd.DataFrame, labels: Sequence[str]) -> SubjectBalance:
    first = side.iloc[0]
    counts = _label_counts(side, labels)
    unlabeled = counts.pop("unlabeled")
    folds = tuple(sorted(set(side["fold"])))
    of_two = counts.get(BLAST, 0), counts.get(NORMAL, 0)
    return SubjectBalance(first["subject"], first["group"], folds, *of_two, unlabeled, counts)


def _is_one_subject(known: pd.DataFrame, group: str) -> bool:
    """Tell an id that itself holds a plus sign from a merged group."""
    return bool(known.loc[known["group"] == group, "subject"].eq(group).all())


def _overlaps(cells: pd.DataFrame) -> tuple[FoldOverlap, ...]:
    sides = {str(fold): side for fold, side in cells.groupby("fold") if fold}
    overlaps = []
    for (first, one), (second, other) in combinations(sides.items(), 2):
        groups = set(one["group"]) & set(other["group"])
        if groups:
            identical = len(set(one["sha256"]) & set(other["sha256"]))
            overlaps.append(FoldOverlap(first, second, tuple(sorted(groups)), identical))
    return tuple(overlaps)
