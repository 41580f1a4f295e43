"""Notable cells: the most confident errors, and labels that the scores contradict."""

import warnings
from typing import Literal

import numpy as np
import pandas as pd

from leukoscope.models.report import CellCase, SubjectRow
from leukoscope.stats.intervals import wilson


def worst_errors(rows: pd.DataFrame, limit: int) -> tuple[CellCase, ...]:
    """Return the wrong calls of the test part, most confident first.

    Confidence is the distance of the calibrated logit from the threshold's logit.
    """
    wrong = rows[rows["called"].astype(bool) != (rows["label"] == 1)]
    order = np.argsort(-wrong["margin"].abs().to_numpy(dtype=np.float64), kind="stable")[:limit]
    return tuple(_case(row, rank) for rank, (_, row) in enumerate(wrong.iloc[order].iterrows(), start=1))


def label_suspects(rows: pd.DataFrame, limit: int) -> tuple[CellCase, ...]:
    """Return cells whose label is suspect by confident learning, least credible label first.

    Parameters
    ----------
    rows
        Cells with ``label`` and an out-of-sample ``probability``: validation rows and test rows.

    Notes
    -----
    C. G. Northcutt, L. Jiang, I. L. Chuang, Journal of Artificial Intelligence Research 70 (2021) 1373-1411,
    doi 10.1613/jair.1.12125. A label of C-NMC is the diagnosis of the subject, so a suspect may be a normal cell of
    a patient as well as a mistake.
    """
    if rows["label"].nunique() < 2:
        return ()
    # Imported here: it takes a second, and only this function needs it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

    probability = rows["probability"].to_numpy(dtype=np.float64)
    both = np.column_stack([1 - probability, probability])
    labels = rows["label"].to_numpy(dtype=np.int64)
    issues = find_label_issues(
        labels, both, filter_by="confident_learning", return_indices_ranked_by="self_confidence", n_jobs=1
    )[:limit]
    quality = get_label_quality_scores(labels, both, method="self_confidence")
    return tuple(
        _case(rows.iloc[int(index)], rank, float(quality[index]))
        for rank, index in enumerate(issues, start=1)
    )


def subject_rows(table: pd.DataFrame, rows: pd.DataFrame) -> tuple[SubjectRow, ...]:
    """Return one row per subject, from ``measures.pool_subjects`` and the classified cells."""
    right = (rows["called"].astype(bool) == (rows["label"] == 1)).groupby(rows["group"]).sum()
    result = []
    for row in table.to_dict("records"):
        cells, hits = int(row["cells"]), int(right[row["group"]])
        low, high = wilson(hits, cells)
        mixed = bool(np.isnan(row["label"]))
        label: Literal["blast", "normal", "mixed"] = (
            "mixed" if mixed else "blast" if row["label"] == 1 else "normal"
        )
        result.append(
            SubjectRow(
                subject=str(row["subject"]),
                group=str(row["group"]),
                label=label,
                cells=cells,
                accuracy=hits / cells,
                low=low,
                high=high,
                mean_probability=float(row["mean_probability"]),
                called_by_mean=None if mixed else bool(row["called_by_mean"]),
                called_by_majority=None if mixed else bool(row["called_by_majority"]),
            )
        )
    return tuple(result)


def _case(row: "pd.Series", rank: int, quality: float | None = None) -> CellCase:
    return CellCase(
        cell=str(row["cell"]),
        sha256=str(row["sha256"]),
        subject=str(row["subject"]),
        label="blast" if int(row["label"]) == 1 else "normal",
        probability=float(row["probability"]),
        part=str(row["part"]),
        split=str(row["split"]),
        rank=rank,
        quality=quality,
    )
