"""Slices of a test part: where the model is better or worse than on the whole."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from leukoscope.evaluation.metrics_table import Context, measure_some, score_cells
from leukoscope.models.report import SubgroupResult

SUBGROUP_MEASURES = ("roc_auc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
_THIRDS = ("lowest third", "middle third", "highest third")


def measure_subgroups(rows: pd.DataFrame, context: Context) -> tuple[SubgroupResult, ...]:
    """Measure every slice by area, brightness, fold and number of cells per subject.

    Parameters
    ----------
    rows
        Classified test cells with their descriptors.
    """
    results = []
    for dimension, name, description, mask in _slices(rows):
        part = score_cells(rows[mask])
        results.append(
            SubgroupResult(
                dimension=dimension,
                name=name,
                description=description,
                cells=part.n_cells,
                subjects=part.n_subjects,
                measures=measure_some(part, context, SUBGROUP_MEASURES),
            )
        )
    return tuple(results)


def _slices(rows: pd.DataFrame) -> Iterator[tuple[str, str, str, "pd.Series[bool]"]]:
    area = rows["area_px"]
    yield from _thirds("Area", area, "foreground {low:,.0f} to {high:,.0f} px")
    brightness = rows[["mean_r", "mean_g", "mean_b"]].mean(axis=1)
    yield from _thirds("Brightness", brightness, "mean color {low:.0f} to {high:.0f} of 255")
    folds = sorted(set(rows["fold"]) - {""})
    if len(folds) > 1:
        for fold in folds:
            yield "Fold", fold, f"cells of {fold}", rows["fold"] == fold
    cells = rows.groupby("subject")["cell"].transform("size")
    yield from _thirds(
        "Cells per subject", cells, "{low:.0f} to {high:.0f} cells", by_subject=rows["subject"]
    )


def _thirds(
    dimension: str, values: "pd.Series[float]", words: str, by_subject: "pd.Series[str] | None" = None
) -> Iterator[tuple[str, str, str, "pd.Series[bool]"]]:
    """Cut at the thirds of cells, or of subjects where the value belongs to the subject."""
    basis = values if by_subject is None else values.groupby(by_subject).first()
    borders = np.quantile(basis.to_numpy(dtype=np.float64), [1 / 3, 2 / 3])
    place = np.searchsorted(borders, values.to_numpy(dtype=np.float64), side="left")
    for third, name in enumerate(_THIRDS):
        mask = pd.Series(place == third, index=values.index)
        if mask.any():
            inside = values[mask]
            yield dimension, name, words.format(low=inside.min(), high=inside.max()), mask
