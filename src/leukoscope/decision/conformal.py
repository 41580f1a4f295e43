"""Prediction sets: which classes a cell of a new subject may still belong to.

Split-conformal sets promise that the true class is missing with probability alpha at most, if the new row and
the calibration rows are exchangeable. Cells are not: those of one subject are alike. Subjects are. So the
subject is the unit: each calibration subject of a class gets the same mass, spread over its cells, and one
more subject's mass lies at infinity for the subject to come. The quantile of that distribution covers a
random cell of a new subject of the class with probability 1 - alpha at least, whatever the sizes and however
alike the cells are.

Y. Lee, R. F. Barber, R. Willett, "Distribution-free inference with hierarchical data", arXiv 2306.06342; the
problem and other answers in R. Dunn, L. Wasserman, A. Ramdas, "Distribution-free prediction sets for
two-layer hierarchical models", Journal of the American Statistical Association 118 (2023), doi
10.1080/01621459.2022.2060112.
"""

import math

import numpy as np
import numpy.typing as npt

from leukoscope.core.terms import Decision
from leukoscope.decision.parameters import ClassQuantile, ConformalQuantiles
from leukoscope.stats import metrics as discrimination


def fit_quantiles(
    calibrated_logits: npt.ArrayLike, labels: npt.ArrayLike, subjects: npt.ArrayLike, alpha: float
) -> ConformalQuantiles:
    """Fit the limit of each class on validation rows: cells of subjects that the model did not learn from.

    With fewer than 1 / alpha - 1 subjects of a class no finite limit keeps the promise; its quantile is then
    None and the class stays in every set.

    Parameters
    ----------
    calibrated_logits : (N,)
    labels : (N,) of 0 (normal) and 1 (blast)
    subjects : (N,); the merged groups of the cohort
    alpha : 0..1, ends excluded
    """
    truth, logits, _ = discrimination.checked(labels, calibrated_logits)
    names = np.asarray(subjects)
    return ConformalQuantiles(
        alpha=alpha,
        blast=subject_quantile(-logits[truth], names[truth], alpha),
        normal=subject_quantile(logits[~truth], names[~truth], alpha),
    )


def subject_quantile(nonconformity: npt.ArrayLike, subjects: npt.ArrayLike, alpha: float) -> ClassQuantile:
    """Return the smallest limit that a random cell of a new subject exceeds with probability alpha at most.

    Unit of analysis: the subject.

    Parameters
    ----------
    nonconformity : (N,), larger for cells less like the class
    subjects : (N,)
    alpha : 0..1, ends excluded
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha = {alpha}: expected an error rate between 0 and 1")
    values = np.asarray(nonconformity, dtype=np.float64)
    _, index, counts = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    groups = len(counts)
    quantile = None
    # 1e-9: (K + 1) * alpha is often a whole number that floating point misses by a hair.
    if groups and groups / (groups + 1) >= 1 - alpha - 1e-9:
        order = np.argsort(values, kind="stable")
        mass = np.cumsum(1 / counts[index[order]]) / (groups + 1)
        reached = int(np.argmax(mass >= 1 - alpha - 1e-9))
        quantile = float(values[order][reached])
    return ClassQuantile(quantile=quantile, subjects=groups, cells=len(values))


def subjects_needed(alpha: float) -> int:
    """Return how many subjects a class needs for a finite limit: 9 at 10 %, 19 at 5 %."""
    return math.ceil(1 / alpha - 1 - 1e-9)


def prediction_set(calibrated_logit: float, quantiles: ConformalQuantiles) -> tuple[Decision, ...]:
    """Return the classes that cannot be excluded at the error rate: blast, normal, both or none.

    The nonconformity of a cell with the class blast is its negative calibrated logit, with the class normal
    the logit.
    """
    blast, normal = prediction_sets(np.array([calibrated_logit]), quantiles)
    kept = ((Decision.BLAST, blast[0]), (Decision.NORMAL, normal[0]))
    return tuple(decision for decision, stays in kept if stays)


def prediction_sets(
    calibrated_logits: npt.ArrayLike, quantiles: ConformalQuantiles
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return, for each row (N,), whether blast and whether normal stay in the set."""
    logits = np.asarray(calibrated_logits, dtype=np.float64)
    blast, normal = (
        math.inf if limit.quantile is None else limit.quantile
        for limit in (quantiles.blast, quantiles.normal)
    )
    return -logits <= blast, logits <= normal
