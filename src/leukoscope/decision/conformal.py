"""Prediction sets: which classes a cell of a new subject may still belong to.

Split-conformal sets guarantee that the true class is missing with probability alpha at most, if the new row and
the calibration rows are exchangeable. Cells are not: those of one subject are alike. Subjects are. So the
subject is the unit: each calibration subject of a class gets the same mass, spread over its cells, and one
more subject's mass is at infinity, for the new subject. The quantile of that distribution covers a
random cell of a new subject of the class with probability 1 - alpha at least, for any number of cells per subject and
however alike the cells are.

Y. Lee, R. F. Barber, R. Willett, "Distribution-free inference with hierarchical data", arXiv 2306.06342; the
problem and other answers in R. Dunn, L. Wasserman, A. Ramdas, "Distribution-free prediction sets for
two-layer hierarchical models", Journal of the American Statistical Association 118 (2023), doi
10.1080/01621459.2022.2060112.
"""

import math

import numpy as np
import numpy.typing as npt

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.decision.calibration import as_matrix, class_log_odds
from leukoscope.decision.parameters import ClassQuantile, ConformalQuantiles
from leukoscope.stats.metrics import checked_classes


def fit_quantiles(
    calibrated_logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    subjects: npt.ArrayLike,
    alpha: float,
    classes: ClassSchema = BINARY,
) -> ConformalQuantiles:
    """Fit the limit of each class on validation rows: cells of subjects that the model did not learn from.

    With fewer than 1 / alpha - 1 subjects of a class no finite limit gives the guarantee; its quantile is then
    None and the class stays in every set. The nonconformity of a cell with a class is the calibrated log-odds
    against the class.

    Parameters
    ----------
    calibrated_logits : (N, K), or (N,) log-odds of the second of two classes
    labels : (N,) of 0 to K - 1
    subjects : (N,); the merged groups of the cohort
    alpha : 0..1, ends excluded
    classes : of K classes
    """
    against = -class_log_odds(as_matrix(calibrated_logits, classes.size))
    truth = checked_classes(labels, classes.size)
    names = np.asarray(subjects)
    return ConformalQuantiles(
        alpha=alpha,
        classes={
            name: subject_quantile(against[truth == member, member], names[truth == member], alpha)
            for member, name in enumerate(classes.names)
        },
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


def prediction_set(
    calibrated_logits: npt.ArrayLike,
    quantiles: ConformalQuantiles,
    classes: ClassSchema = BINARY,
    called: str | None = None,
) -> tuple[str, ...]:
    """Return the classes of one cell (K,) that cannot be excluded at the error rate, the likeliest first.

    Parameters
    ----------
    called : the class that the operating point calls; see ``prediction_sets``
    """
    logits = np.asarray(calibrated_logits, dtype=np.float64)[None]
    calls = None if called is None else np.array([classes.index(called)])
    stays = prediction_sets(logits, quantiles, classes, calls)[0]
    order = np.argsort(-logits[0], kind="stable")
    return tuple(classes.names[member] for member in order if stays[member])


def prediction_sets(
    calibrated_logits: npt.ArrayLike,
    quantiles: ConformalQuantiles,
    classes: ClassSchema = BINARY,
    calls: npt.ArrayLike | None = None,
) -> npt.NDArray[np.bool_]:
    """Return, for each row and class (N, K), whether the class stays in the set.

    Parameters
    ----------
    calibrated_logits : (N, K), or (N,) log-odds of the second of two classes
    calls : (N,) of 0 to K - 1, the classes that the operating point calls: they join sets that are not empty, so that
        no set contradicts the call. Larger sets cover no less.
    """
    found = (quantiles.classes[name].quantile for name in classes.names)
    limits = np.array([math.inf if limit is None else limit for limit in found])
    stays = np.asarray(-class_log_odds(as_matrix(calibrated_logits, classes.size)) <= limits)
    if calls is not None:
        rows = np.flatnonzero(stays.any(axis=1))
        stays[rows, np.asarray(calls, dtype=np.intp)[rows]] = True
    return stays
