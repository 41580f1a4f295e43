"""Run folders read as tables: scores, cells, split, settings and origin, checked before use."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.config import read_toml
from leukoscope.core.errors import CohortError, SplitError, UsageError
from leukoscope.core.text import TextError, read_json, read_text
from leukoscope.data.splits import SplitPlan, read_splits
from leukoscope.data.table import COLUMNS, label_numbers, logit_columns, read_cells, read_classes
from leukoscope.decision.calibration import as_matrix
from leukoscope.decision.fit import ScoredRows
from leukoscope.imaging.descriptors import Descriptors

DESCRIPTOR_NAMES = tuple(field.name for field in fields(Descriptors))
PARTS = ("train", "validation", "test")
TEXT_COLUMNS = ("cell", "sha256", "subject", "group", "fold", "part", "inner_fold")
SCORE_COLUMNS = (*TEXT_COLUMNS, "label")
"""Columns before those of the logits, ``data.table.logit_columns``."""
RUN_FILES = (
    "scores.csv",
    "cells.csv",
    "splits.json",
    "config.toml",
    "provenance.json",
    "embeddings.safetensors",
)

_NEEDED = {
    "validation": "thresholds and temperature are fitted on them; train again with inner folds",
    "test": "there is no cell to evaluate",
}


@dataclass(frozen=True)
class Run:
    """One finished run as data.

    Attributes
    ----------
    folder
        Where it was read.
    name
        The folder's name.
    split, protocol, leaks, split_seed
        From ``splits.json``.
    scores
        One row a prediction, test cells once each; columns as in ``SCORE_COLUMNS``, and ``row``: the row of
        ``embeddings``.
    embeddings : float32 (N, D)
    cells
        The cell table, indexed by cell key.
    classes
        Of the labels.
    config, provenance
        As read.
    hashes
        SHA-256 of each file read, by name.
    remarks
        Issues found and resolved while reading.
    """

    folder: Path
    name: str
    split: str
    protocol: str
    leaks: bool
    split_seed: int
    scores: pd.DataFrame
    embeddings: npt.NDArray[np.float32]
    cells: pd.DataFrame
    classes: ClassSchema
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    hashes: Mapping[str, str]
    remarks: tuple[str, ...] = field(default=())

    def part(self, name: str) -> pd.DataFrame:
        """Return the score rows of one part, joined with the descriptors of their cells."""
        rows = self.scores[self.scores["part"] == name]
        descriptors = self.cells[[name for name, kind in COLUMNS.items() if kind is not str]]
        return rows.join(descriptors, on="cell", how="left").reset_index(drop=True)


def check_finished(folder: Path) -> None:
    """Raise ``UsageError`` unless a folder holds every file of a finished run."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such run folder; give the folder that `leukoscope train` wrote")
    missing = [name for name in RUN_FILES if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            f"{folder}: not a finished run: {', '.join(missing)} missing; "
            "finish it with `leukoscope train --resume` first"
        )


def scored_rows(
    scores: pd.DataFrame,
    cells: pd.DataFrame,
    embeddings: npt.NDArray[np.floating],
    classes: ClassSchema = BINARY,
) -> ScoredRows:
    """Return score rows as the decision layer takes them.

    Parameters
    ----------
    scores
        N rows with the columns of ``SCORE_COLUMNS``.
    cells
        Cell table, indexed by cell key.
    embeddings : (N, D), row by row those of ``scores``
    classes
        Of the labels.
    """
    described = cells.loc[scores["cell"]]
    return ScoredRows(
        part=scores["part"].to_numpy(dtype=str),
        label=scores["label"].to_numpy(dtype=np.int64),
        logit=logit_matrix(scores, classes),
        group=scores["group"].to_numpy(dtype=str),
        inner_fold=scores["inner_fold"].to_numpy(dtype=str),
        embeddings=embeddings.astype(np.float32),
        descriptors={name: described[name].to_numpy(dtype=np.float64) for name in DESCRIPTOR_NAMES},
    )


def logit_matrix(scores: pd.DataFrame, classes: ClassSchema) -> npt.NDArray[np.float64]:
    """Return the logits (N, K) of score rows; of two classes [0, z]."""
    found = scores[list(logit_columns(classes))].to_numpy(dtype=np.float64)
    return as_matrix(found[:, 0] if found.shape[1] == 1 else found)


def read_run(folder: Path) -> Run:
    """Read and check one run folder.

    Raises
    ------
    UsageError
        The folder or one of its files is missing.
    CohortError
        A table lacks columns, has impossible values, or the tables disagree.
    SplitError
        A group is on both sides although the split is not marked as leaking.
    """
    check_finished(folder)
    classes = read_classes(folder / "cells.csv")
    scores, remarks = _read_scores(folder / "scores.csv", classes)
    embeddings = _read_embeddings(folder / "embeddings.safetensors", int(scores["row"].max()) + 1)
    table = read_cells(folder / "cells.csv")
    plan = read_splits(folder / "splits.json", table)
    if len(plan.splits) != 1:
        raise CohortError(f"{folder / 'splits.json'}: a run has one split, found {len(plan.splits)}")
    cells = table.set_index("cell", drop=False).rename_axis(None)
    _check_agreement(folder, scores, cells, plan, classes)
    return Run(
        folder=folder,
        name=folder.resolve().name,
        split=plan.splits[0].name,
        protocol=plan.protocol,
        leaks=plan.leaks,
        split_seed=plan.seed,
        scores=scores,
        embeddings=embeddings,
        cells=cells,
        classes=classes,
        config=read_toml(folder / "config.toml"),
        provenance=_read_json(folder / "provenance.json"),
        hashes={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RUN_FILES},
        remarks=tuple(remarks),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except TextError as error:
        raise CohortError(str(error)) from None
    if not isinstance(content, dict):
        raise CohortError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def _read_table(path: Path, columns: tuple[str, ...], text: tuple[str, ...]) -> pd.DataFrame:
    try:
        # Subject "NA" or "1" must stay text: nothing is guessed to be missing or a number.
        table = pd.read_csv(
            io.StringIO(read_text(path), newline=""), dtype=dict.fromkeys(text, str), keep_default_na=False
        )
    except ValueError as error:
        raise CohortError(f"{path}: not a readable table: {error}") from None
    except TextError as error:
        raise CohortError(str(error)) from None
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise CohortError(f"{path}: column {', '.join(absent)} missing")
    if table.empty:
        raise CohortError(f"{path}: the table has no rows")
    return table


def _numbers(path: Path, table: pd.DataFrame, column: str) -> pd.Series:
    values = pd.to_numeric(table[column], errors="coerce")
    bad = ~np.isfinite(values.to_numpy(dtype=np.float64))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise CohortError(
            f"{path}: line {row + 2}: {column} = {table[column].iloc[row]!r}, expected a finite number"
        )
    return values


def _read_scores(path: Path, classes: ClassSchema) -> tuple[pd.DataFrame, list[str]]:
    table = _read_table(path, (*SCORE_COLUMNS, *logit_columns(classes)), TEXT_COLUMNS)
    for column in logit_columns(classes):
        table[column] = _numbers(path, table, column).astype(np.float64)
    labels = _numbers(path, table, "label")
    known = labels.isin(range(classes.size))
    if not known.all():
        expected = ", ".join(f"{number} ({name})" for number, name in enumerate(classes.names))
        raise CohortError(f"{path}: label = {labels[~known].iloc[0]}, expected {expected}")
    table["label"] = labels.astype(np.int64)
    unknown = sorted(set(table["part"]) - set(PARTS))
    if unknown:
        raise CohortError(f"{path}: part {unknown[0]!r}, expected one of {', '.join(PARTS)}")
    for part in ("validation", "test"):
        if not (table["part"] == part).any():
            raise CohortError(f"{path}: no {part} rows; {_NEEDED[part]}")
    if (table["group"] == "").any():
        raise CohortError(f"{path}: a row without a group; groups are the unit of evidence")
    # A cell of an unknown subject counts as a separate subject, as its group does.
    table["subject"] = table["subject"].where(table["subject"] != "", table["group"])
    repeated = table.duplicated(["cell", "part", "inner_fold"])
    if repeated.any():
        raise CohortError(f"{path}: cell {table.loc[repeated, 'cell'].iloc[0]!r} occurs twice in one part")
    table["row"] = np.arange(len(table))
    return _average_test_rows(table)


def _average_test_rows(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Give each test cell one row: the mean logit where several inner models predicted it."""
    test = table["part"] == "test"
    several = int(table.loc[test].groupby("cell").size().max())
    if several == 1:
        return table, []
    first = table.loc[test].drop_duplicates("cell").copy()
    for column in [name for name in table.columns if name.startswith("logit")]:
        first[column] = first["cell"].map(table.loc[test].groupby("cell")[column].mean())
    first["inner_fold"] = ""
    remark = f"Test cells were predicted by up to {several} inner models; their mean logit is classified."
    return pd.concat([table.loc[~test], first], ignore_index=True), [remark]


def _read_embeddings(path: Path, least: int) -> npt.NDArray[np.float32]:
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CohortError(f"{path}: not a safetensors file: {error}") from None
    if "embeddings" not in tensors:
        raise CohortError(f"{path}: no tensor 'embeddings', found {', '.join(tensors) or 'none'}")
    embeddings = tensors["embeddings"].astype(np.float32)
    if embeddings.ndim != 2 or len(embeddings) < least or not np.isfinite(embeddings).all():
        raise CohortError(
            f"{path}: embeddings of shape {embeddings.shape}: expected one row of finite numbers for each of the "
            f"{least} rows of scores.csv"
        )
    return embeddings


def _check_agreement(
    folder: Path, scores: pd.DataFrame, cells: pd.DataFrame, plan: SplitPlan, classes: ClassSchema
) -> None:
    absent = sorted(set(scores["cell"]) - set(cells.index))
    if absent:
        raise CohortError(
            f"{folder}: {len(absent)} scored cells are not in cells.csv, for instance {absent[0]!r}"
        )
    rows = cells.loc[scores["cell"]]
    for column, stated in (
        ("sha256", rows["sha256"]),
        ("group", rows["group"]),
        ("subject", rows["subject"].where(rows["subject"] != "", rows["group"])),
        ("label", pd.Series(label_numbers(rows["label"], classes))),
    ):
        differs = scores[column].to_numpy() != stated.to_numpy()
        if differs.any():
            cell = scores["cell"].to_numpy()[differs][0]
            raise CohortError(f"{folder}: {column} of {cell!r} differs between scores.csv and cells.csv")
    declared = set(plan.splits[0].test)
    scored = set(scores.loc[scores["part"] == "test", "cell"])
    if declared != scored:
        raise CohortError(
            f"{folder}: splits.json names {len(declared)} test cells, scores.csv has {len(scored)}, "
            f"{len(declared & scored)} are common; every test cell must be scored, and no other"
        )
    tested = set(scores.loc[scores["part"] == "test", "group"])
    learned = set(scores.loc[scores["part"] != "test", "group"])
    both = sorted(tested & learned)
    if both and not plan.leaks:
        raise SplitError(
            f"{folder}: group {both[0]!r} and {len(both) - 1} others have rows in test and in training or "
            "validation, but splits.json does not mark the split as leaking"
        )
