"""Metrics with subjects as the unit of evidence: arrays in, a number or an estimate with its interval out.

Every function takes ``subjects``. With it each subject has the same weight within its class, however many cells it
has (*subject-balanced*); without it every row has the same weight. Labels of binary metrics are 0 and 1, 1 being
the positive class (blast). A metric that is not defined (one class only, 0 / 0) is ``nan``; ``bootstrap_ci`` gives the
reason instead.

>>> import numpy as np
>>> y_true = np.array([0, 0, 0, 0, 1, 1, 1, 1])
>>> y_score = np.array([0.1, 0.6, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7])
>>> subjects = np.array(["H1", "H1", "H2", "H2", "P1", "P2", "P2", "P2"])
>>> round(roc_auc(y_true, y_score), 4)
0.9375
>>> round(roc_auc(y_true, y_score, subjects=subjects), 4)
0.875
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from leukoscope.stats import metrics as _metrics
from leukoscope.stats import reliability as _reliability
from leukoscope.stats.intervals import BootstrapSettings, Estimate, bootstrap, clopper_pearson, wilson
from leukoscope.stats.resampling import Statistic, SubjectSample

__all__ = [
    "Estimate",
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "bootstrap_ci",
    "brier",
    "clopper_pearson",
    "confusion_matrix",
    "ece",
    "f1",
    "log_loss",
    "mcc",
    "npv",
    "ppv",
    "roc_auc",
    "sensitivity",
    "specificity",
    "subject_weights",
    "wilson",
]

Array = npt.ArrayLike
Metric = Callable[..., float]


def subject_weights(y_true: Array, subjects: Array) -> npt.NDArray[np.float64]:
    """Return row weights that give each subject the same weight within its class.

    Parameters
    ----------
    y_true
        (N,) labels of any kind.
    subjects
        (N,) subject of each row.

    Returns
    -------
    numpy.ndarray
        float64 (N,): 1 / (rows of that subject and class).

    Examples
    --------
    >>> subject_weights([1, 1, 1, 0], ["P1", "P1", "P2", "H1"]).tolist()
    [0.5, 0.5, 1.0, 1.0]
    """
    labels, names = _column(y_true, "y_true"), _column(subjects, "subjects")
    _same_length(y_true=labels, subjects=names)
    _, label_index = np.unique(labels, return_inverse=True)
    _, subject_index = np.unique(names, return_inverse=True)
    pairs = subject_index * (int(label_index.max(initial=0)) + 1) + label_index
    _, index, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    return np.asarray(1 / counts[index], dtype=np.float64)


def roc_auc(
    y_true: Array, y_score: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the area under the ROC curve, 0..1; ties count half.

    Parameters
    ----------
    y_true
        (N,) of 0 and 1.
    y_score
        (N,), larger for class 1: logits, probabilities or any score.
    subjects
        (N,) subject of each row: each subject then has the same weight within its class.
    sample_weight
        (N,) >= 0, multiplied with the subjects' weights.
    """
    return _metrics.roc_auc(y_true, y_score, _weights(y_true, subjects, sample_weight))


def average_precision(
    y_true: Array, y_score: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the area under the precision-recall steps, 0..1. Parameters: see ``roc_auc``."""
    return _metrics.average_precision(y_true, y_score, _weights(y_true, subjects, sample_weight))


def brier(
    y_true: Array, y_prob: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the mean squared difference of probability and label, 0 (perfect) to 1.

    ``y_prob`` is (N,) in 0..1; other parameters: see ``roc_auc``.
    """
    return _reliability.brier(y_true, y_prob, _weights(y_true, subjects, sample_weight))


def log_loss(
    y_true: Array, y_prob: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the mean negative log-likelihood in nats, >= 0. Parameters: see ``brier``."""
    return _reliability.log_loss(y_true, y_prob, _weights(y_true, subjects, sample_weight))


def ece(
    y_true: Array,
    y_prob: Array,
    *,
    bins: int = _reliability.DEFAULT_BINS,
    subjects: Array | None = None,
    sample_weight: Array | None = None,
) -> float:
    """Return the expected calibration error over bins of equal counts, 0..1. Parameters: see ``brier``."""
    return _reliability.ece(y_true, y_prob, bins, _weights(y_true, subjects, sample_weight))


def sensitivity(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the share of rows of class 1 that are predicted as 1 (recall), 0..1.

    ``y_pred`` is (N,) of 0 and 1 or bool; other parameters: see ``roc_auc``.
    """
    return float(_metrics.sensitivity(_counts(y_true, y_pred, subjects, sample_weight)))


def specificity(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the share of rows of class 0 that are predicted as 0, 0..1. Parameters: see ``sensitivity``."""
    return float(_metrics.specificity(_counts(y_true, y_pred, subjects, sample_weight)))


def ppv(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the positive predictive value (precision), 0..1. Parameters: see ``sensitivity``."""
    return float(_metrics.ppv(_counts(y_true, y_pred, subjects, sample_weight)))


def npv(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the negative predictive value, 0..1. Parameters: see ``sensitivity``."""
    return float(_metrics.npv(_counts(y_true, y_pred, subjects, sample_weight)))


def mcc(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return Matthews' correlation coefficient, -1..1. Parameters: see ``sensitivity``."""
    return float(_metrics.mcc(_counts(y_true, y_pred, subjects, sample_weight)))


def f1(
    y_true: Array,
    y_pred: Array,
    *,
    average: str = "binary",
    subjects: Array | None = None,
    sample_weight: Array | None = None,
) -> float:
    """Return the F1 score, 0..1.

    Parameters
    ----------
    y_true, y_pred
        (N,) class labels of any kind; 0 and 1 with ``average="binary"``.
    average
        ``binary`` (class 1), ``macro`` (mean over classes) or ``weighted`` (by the classes' shares, the measure of the
        C-NMC challenge).
    subjects, sample_weight
        See ``roc_auc``.
    """
    if average not in ("binary", "macro", "weighted"):
        raise ValueError(f"average = {average!r}: expected 'binary', 'macro' or 'weighted'")
    if average == "binary":
        return float(_metrics.f1_blast(_counts(y_true, y_pred, subjects, sample_weight)))
    matrix, _ = confusion_matrix(y_true, y_pred, subjects=subjects, sample_weight=sample_weight)
    present = matrix.sum(axis=1)
    with np.errstate(invalid="ignore"):
        scores = 2 * np.diag(matrix) / (present + matrix.sum(axis=0))
    if average == "macro":
        return float(np.nanmean(scores)) if len(scores) else float("nan")
    known = present > 0
    return float(scores[known] @ present[known] / present.sum()) if present.sum() > 0 else float("nan")


def accuracy(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the share of right predictions, 0..1; (N,) class labels of any kind. Weights: see ``roc_auc``."""
    matrix, _ = confusion_matrix(y_true, y_pred, subjects=subjects, sample_weight=sample_weight)
    return float(np.trace(matrix) / matrix.sum()) if matrix.sum() > 0 else float("nan")


def balanced_accuracy(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> float:
    """Return the mean recall over the classes of ``y_true``, 0..1; any number of classes."""
    matrix, _ = confusion_matrix(y_true, y_pred, subjects=subjects, sample_weight=sample_weight)
    present = matrix.sum(axis=1)
    known = present > 0
    return float((np.diag(matrix)[known] / present[known]).mean()) if known.any() else float("nan")


def confusion_matrix(
    y_true: Array, y_pred: Array, *, subjects: Array | None = None, sample_weight: Array | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Return the (K, K) matrix of weights, true classes as rows, and the K class labels in sorted order."""
    truth, called = _column(y_true, "y_true"), _column(y_pred, "y_pred")
    _same_length(y_true=truth, y_pred=called)
    classes = np.unique(np.concatenate([truth, called]))
    weights = _weights(truth, subjects, sample_weight)
    mass = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    place = np.searchsorted(classes, truth) * len(classes) + np.searchsorted(classes, called)
    counts = np.bincount(place, mass, minlength=len(classes) ** 2)
    return counts.reshape(len(classes), len(classes)).astype(np.float64), classes


def bootstrap_ci(
    metric: Metric,
    y_true: Array,
    y_score: Array,
    subjects: Array,
    *,
    balanced: bool = True,
    n_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    minus: Array | None = None,
) -> Estimate:
    """Estimate a metric with an interval over subjects.

    Subjects are drawn with replacement within their class, with all their rows; the interval is the expanded
    percentile interval for few clusters (Hesterberg 2015, doi 10.1080/00031305.2015.1089789).

    Parameters
    ----------
    metric
        A function ``metric(y_true, y_score, sample_weight=...)`` such as those of this module or of scikit-learn.
    y_true
        (N,) of 0 and 1.
    y_score
        (N,) scores, probabilities or predictions, as ``metric`` requires.
    subjects
        (N,) subject of each row, the unit of analysis.
    balanced
        Whether each subject has the same weight within its class.
    n_resamples, level, seed
        Of the bootstrap.
    minus
        (N,) scores of another model on the same rows: the estimate is then the paired difference.

    Returns
    -------
    Estimate
        ``value``, ``low``, ``high``, ``n_cells``, ``n_subjects``, ``method``; a missing value or interval has a
        ``reason``.

    Examples
    --------
    >>> y = [0, 0, 0, 1, 1, 1]
    >>> names = ["H1", "H2", "H3", "P1", "P2", "P3"]
    >>> estimate = bootstrap_ci(roc_auc, y, [0.1, 0.5, 0.3, 0.4, 0.8, 0.9], names, n_resamples=500)
    >>> round(estimate.value, 3), estimate.n_subjects
    (0.889, 6)
    """
    truth, names = _column(y_true, "y_true"), _column(subjects, "subjects")
    sample = SubjectSample.of(truth, names)
    base = subject_weights(truth, names) if balanced else np.ones(len(truth))

    def statistic(scores: Array) -> Statistic:
        values = np.asarray(scores)
        _same_length(y_true=truth, y_score=values)

        def figure(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            weights = counts[:, sample.index] * base
            return np.array([_defined(metric, truth, values, row) for row in weights])

        return Statistic(figure)

    settings = BootstrapSettings(replicates=n_resamples, level=level, seed=seed)
    return bootstrap(sample, statistic(y_score), settings, None if minus is None else statistic(minus))


def _defined(metric: Metric, truth: Any, values: Any, weights: npt.NDArray[np.float64]) -> float:
    """Return the metric on the rows that were drawn; ``nan`` if a class is missing among them."""
    drawn = weights > 0
    if len(np.unique(truth[drawn])) < 2:
        return float("nan")
    return float(metric(truth[drawn], values[drawn], sample_weight=weights[drawn]))


def _weights(y_true: Array, subjects: Array | None, sample_weight: Array | None) -> Array | None:
    if subjects is None:
        return sample_weight
    balanced = subject_weights(y_true, subjects)
    return balanced if sample_weight is None else balanced * np.asarray(sample_weight, dtype=np.float64)


def _counts(
    y_true: Array, y_pred: Array, subjects: Array | None, sample_weight: Array | None
) -> _metrics.Confusion:
    called = np.asarray(y_pred)
    if called.dtype != bool and not np.isin(called, (0, 1)).all():
        raise ValueError("y_pred: expected 0 and 1 or bool; compare scores with a threshold first")
    return _metrics.confusion(y_true, called.astype(bool), _weights(y_true, subjects, sample_weight))


def _column(values: Array, name: str) -> npt.NDArray[Any]:
    column = np.asarray(values)
    if column.ndim != 1:
        raise ValueError(f"{name} has shape {column.shape}: expected (N,)")
    return column


def _same_length(**columns: npt.NDArray[Any]) -> None:
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise ValueError(f"{lengths} rows: expected one length")
