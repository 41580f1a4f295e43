"""Fit the rule by which a subject is called: a threshold, and the number of cells that a call needs."""

import numpy as np
import numpy.typing as npt

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.decision.calibration import Rule, choose_operating_point, group_log_odds, sigmoid
from leukoscope.decision.parameters import OperatingPoint, SubjectRule

FEWEST_SUBJECTS = 5
"""Of each class; with fewer no rule is fitted."""
CELL_COUNTS = (1, 2, 3, 5, 10, 20, 30, 50)
"""Numbers of cells that are tried."""
AGREEMENT = 0.95
"""Mean share of draws of that many cells that give the call of all of the subject's cells."""
DRAWS = 200


def fit_subject_rule(
    calibrated_logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    subjects: npt.ArrayLike,
    classes: ClassSchema = BINARY,
) -> SubjectRule | None:
    """Fit the rule on validation rows; subjects with cells of both sides are left out.

    The threshold is the one with the largest sensitivity + specificity over subjects, in the middle between the two
    neighboring subjects. The number of cells is the smallest of ``CELL_COUNTS`` of which random draws give a subject
    the call of all its cells in ``AGREEMENT`` of the cases, on average over subjects; a subject with fewer cells than
    are drawn is left out of that average.

    Parameters
    ----------
    calibrated_logits : (N, K)
    labels : (N,) of 0 to K - 1
    subjects : (N,), the merged groups of the cohort
    classes : of K classes

    Returns
    -------
    SubjectRule or None
        None without a positive group, with fewer than ``FEWEST_SUBJECTS`` on a side, or if all subjects would be
        called alike.
    """
    if not classes.positive:
        return None
    members = list(classes.positive_members)
    scores = group_log_odds(calibrated_logits, members)
    positive = np.isin(np.asarray(labels), members)
    names = np.asarray(subjects)
    cells = [np.flatnonzero(names == name) for name in np.unique(names)]
    cells = [rows for rows in cells if positive[rows].all() or not positive[rows].any()]
    truth = np.array([positive[rows[0]] for rows in cells], dtype=np.int64)
    if min(int(truth.sum()), int((1 - truth).sum())) < FEWEST_SUBJECTS:
        return None
    means = np.array([scores[rows].mean() for rows in cells])
    point = choose_operating_point(Rule("youden"), sigmoid(means), truth)
    if not isinstance(point, OperatingPoint) or point.threshold is None:
        return None
    cut = float(np.log(point.threshold) - np.log1p(-point.threshold))
    needed = next(
        (count for count in CELL_COUNTS if _agreement(scores, cells, cut, count) >= AGREEMENT),
        CELL_COUNTS[-1],
    )
    return SubjectRule(
        threshold=point.threshold,
        cells_needed=needed,
        subjects=len(cells),
        rule=f"largest sensitivity + specificity over {len(cells)} validation subjects; {needed} cells, since draws of "
        f"so many give the call of all cells in {AGREEMENT:.0%} of the cases or more",
    )


def _agreement(
    scores: npt.NDArray[np.float64], cells: list[npt.NDArray[np.intp]], cut: float, count: int
) -> float:
    """Return the mean over subjects of the share of draws of ``count`` cells that give the call of all cells."""
    rng = np.random.default_rng(0)
    shares = []
    for rows in cells:
        if len(rows) < count:
            continue
        order = rng.random((DRAWS, len(rows))).argsort(axis=1)[:, :count]
        drawn = scores[rows][order].mean(axis=1) >= cut
        shares.append(float(np.mean(drawn == (scores[rows].mean() >= cut))))
    return float(np.mean(shares)) if shares else 1.0
