"""Measure how steady the answers of a bundle are: cells of a table, as they are and after small changes."""

import hashlib
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from leukoscope.core.errors import CohortError, ImageError, UsageError
from leukoscope.data.table import read_cells, resolve_paths, table_sha256
from leukoscope.evaluation.robustness import (
    Answers,
    MeasuredCells,
    measure_change,
    measure_unchanged,
)
from leukoscope.imaging.decode import decode_image
from leukoscope.inference.perturbed import Outcome, Perturbation, perturbations, predict_perturbed
from leukoscope.models.files import DECISION, NOVELTY
from leukoscope.models.manifest import hash_groups
from leukoscope.models.report import Measurements, PerturbationResult, Robustness
from leukoscope.stats.intervals import BootstrapSettings

if TYPE_CHECKING:
    from leukoscope.inference.predictor import Predictor

InTraining = Literal["all", "some", "none", "unknown"]

MOST_FOLDS = 8
"""Tables of more folds are compared with the training set as a whole and fold by fold, not in every combination."""
_TRAINING_WORDS: dict[InTraining, str] = {
    "all": "The cells are of subjects in the training set: the AUC does not apply to unseen subjects.",
    "some": "Some of the cells are of subjects in the training set: the AUC does not apply to unseen subjects.",
    "none": "The cells are of subjects that are not in the training set.",
    "unknown": "Whether the subjects are in the training set is not known: it is neither the cell table nor some of "
    "its folds.",
}


def measure_robustness(
    predictor: "Predictor",
    table: Path,
    *,
    cells_per_subject: int = 20,
    fold: str | None = None,
    seed: int = 0,
    replicates: int = 2000,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Robustness, list[str]]:
    """Predict cells of a table as they are and after each small change, and compare the answers.

    Parameters
    ----------
    predictor
        A bundle at work.
    table
        Cell table of ``leukoscope data import``. Labels are needed for the AUC only.
    cells_per_subject
        Cells taken of each subject at most, >= 1. The choice depends on the seed and the files, not on the order of the
        rows. A table without any subject is measured whole.
    fold
        Only cells of this fold.
    seed
        Of the choice of cells and of the resampling.
    replicates
        Resamples of subjects for each interval.
    progress
        Called with the number of cells done and of all cells.

    Returns
    -------
    robustness : Robustness
        All shares with the same weight for each subject, and intervals that resample subjects.
    unreadable : list of str
        Cells of the table whose images could not be read, with the reason of each; they are left out.

    Raises
    ------
    UsageError
        There is no such table, or no row of the fold.
    CohortError
        The table is not a cell table, is empty, or none of its images can be read.
    EngineError
        The engine failed.
    """
    everything = read_cells(table)
    rows = _choose(everything, table, fold, cells_per_subject, seed)
    changes = perturbations(predictor.bundle.manifest.domain.form)
    outcomes: list[list[Outcome]] = []
    unreadable: dict[str, str] = {}
    for number, (cell, path) in enumerate(zip(rows["cell"], resolve_paths(rows, table), strict=True), 1):
        try:
            rgb = decode_image(path, predictor.limits)
            outcomes.append(predict_perturbed(predictor, rgb, changes, cell))
        except ImageError as error:
            unreadable[cell] = f"{cell}: {error}"
        progress(number, len(rows))
    if not outcomes:
        raise CohortError(
            f"{table}: none of its images can be read ({next(iter(unreadable.values()))}); import the cohort again"
        )
    measured = rows[~rows["cell"].isin(unreadable)]
    in_training = in_training_set(everything, measured, predictor.bundle.manifest.training.groups_sha256)
    remarks = [_TRAINING_WORDS[in_training]]
    if unreadable:
        remarks.append(f"{len(unreadable):,} images could not be read and were left out.")
    without = _without_subject(everything, fold)
    if without and (everything["subject"] != "").any():
        remarks.append(f"{without:,} cells without a subject were left out.")
    settings = BootstrapSettings(replicates=replicates, seed=seed)
    cells = _measured_cells(predictor, measured, fold or "cell table", settings)
    before, *after = (_answers(column) for column in zip(*outcomes, strict=True))
    results = [
        _result(change, measure_change(cells, before, answers))
        for change, answers in zip(changes, after, strict=True)
    ]
    robustness = Robustness(
        model=predictor.model.name,
        model_version=predictor.model.version,
        model_sha256=predictor.model.sha256,
        decision_sha256=predictor.bundle.sums[DECISION],
        novelty_sha256=predictor.bundle.sums[NOVELTY],
        operating_point=predictor.operating_point.name,
        cells_sha256=table_sha256(measured),
        fold=fold,
        cells=len(measured),
        subjects=0 if cells.subjects is None else len(np.unique(cells.subjects)),
        cells_per_subject=cells_per_subject,
        seed=seed,
        level=settings.level,
        resamples=replicates,
        in_training=in_training,
        remarks=tuple(remarks),
        unchanged=measure_unchanged(cells, before),
        perturbations=tuple(results),
    )
    return robustness, list(unreadable.values())


def in_training_set(
    everything: pd.DataFrame, measured: pd.DataFrame, groups_sha256: str | None
) -> InTraining:
    """Tell how many of the measured subjects a bundle was trained on.

    The manifest holds the digest of all training groups together. It is compared with the groups of the whole table and
    of its folds, alone and joined; if one of these is the training set, every group is known to be in it or not.

    Parameters
    ----------
    everything
        Cell table.
    measured
        Rows of it that were measured.
    groups_sha256
        ``training.groups_sha256`` of the manifest; None where it was not recorded.
    """
    folds = {fold: frozenset(rows["group"]) for fold, rows in everything.groupby("fold", sort=True)}
    sizes = range(1, len(folds) + 1) if len(folds) <= MOST_FOLDS else (1, len(folds))
    for size in sizes:
        for chosen in combinations(folds.values(), size):
            groups = frozenset().union(*chosen)
            if hash_groups(groups) == groups_sha256:
                inside = measured["group"].isin(groups)
                return "all" if inside.all() else "some" if inside.any() else "none"
    return "unknown"


def _choose(
    everything: pd.DataFrame, table: Path, fold: str | None, cells_per_subject: int, seed: int
) -> pd.DataFrame:
    """Return at most so many rows of each subject, no two with the same file, in the order of the table."""
    rows = everything if fold is None else everything[everything["fold"] == fold]
    if not len(everything):
        raise CohortError(f"{table}: the table has no row; import a cohort with 'leukoscope data import'")
    if not len(rows):
        known = ", ".join(sorted(set(everything["fold"]) - {""})) or "none"
        raise UsageError(f"--fold {fold!r}: no row of {table} is of this fold; folds: {known}")
    if not (everything["subject"] != "").any():
        return rows
    rows = rows[rows["subject"] != ""].drop_duplicates(["group", "sha256"])
    if not len(rows):
        raise CohortError(f"{table}: no cell of {fold} has a subject; add the subjects, or measure all folds")
    drawn = [hashlib.sha256(f"{seed} {digest}".encode()).hexdigest() for digest in rows["sha256"]]
    return rows.assign(drawn=drawn).sort_values("drawn").groupby("group").head(cells_per_subject).sort_index()


def _without_subject(everything: pd.DataFrame, fold: str | None) -> int:
    rows = everything if fold is None else everything[everything["fold"] == fold]
    return int((rows["subject"] == "").sum())


def _measured_cells(
    predictor: "Predictor", measured: pd.DataFrame, split: str, settings: BootstrapSettings
) -> MeasuredCells:
    known = measured["label"].isin(predictor.classes.names)
    labels = measured["label"].where(known, "").to_numpy(dtype=str)
    subjects = measured["group"].to_numpy(dtype=str) if (measured["subject"] != "").any() else None
    return MeasuredCells(subjects, labels, predictor.classes, split, settings)


def _answers(outcomes: Iterable[Outcome]) -> Answers:
    held = list(outcomes)
    return Answers(
        calls=np.array([one.call for one in held], dtype=str),
        decisions=np.array([one.decision for one in held], dtype=str),
        logits=np.array([one.logits for one in held], dtype=np.float64),
        novel=np.array([one.novel for one in held], dtype=bool),
        checked=np.array([one.checked for one in held], dtype=bool),
    )


def _result(change: Perturbation, measures: Measurements) -> PerturbationResult:
    share = measures["decisions_changed"].value
    reached = None if change.aim is None or share is None else share <= change.aim
    return PerturbationResult(
        name=change.name,
        title=change.title,
        group=change.group,
        aim=change.aim,
        reached=reached,
        measures=measures,
    )
