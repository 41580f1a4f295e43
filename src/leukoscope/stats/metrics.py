"""How well scores separate blasts from normal cells, at one threshold and over all of them.

Unit of analysis: the rows that are given, cells or subjects; ``weights`` count a row more than once. The
functions give no intervals: intervals over subjects are made in ``intervals`` with the statistics of
``clusters``. Where a measure is not defined (one class only, no positive call) the answer is not a number;
``intervals.bootstrap`` turns that into an ``Estimate`` with a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Confusion:
    """Counts (or weights) of calls: one row a true class, one column a called class.

    Two classes are K = 2, the second being positive; ``one_vs_rest`` makes two of more.

    Attributes
    ----------
    counts : (..., K, K)
        Leading axes are resamples.
    """

    counts: Floats

    @classmethod
    def of_two(
        cls, true_positive: Any, false_negative: Any, false_positive: Any, true_negative: Any
    ) -> "Confusion":
        """Make the matrix of two classes from its four counts, numbers or arrays of one shape."""
        cells = np.broadcast_arrays(true_negative, false_positive, false_negative, true_positive)
        stacked = np.stack([np.asarray(cell, dtype=np.float64) for cell in cells], axis=-1)
        return cls(stacked.reshape(*stacked.shape[:-1], 2, 2))

    @property
    def size(self) -> int:
        """Number of classes K."""
        return int(self.counts.shape[-1])

    @property
    def total(self) -> Any:
        """All counts: (...)."""
        return self.counts.sum(axis=(-2, -1))

    @property
    def right(self) -> Floats:
        """Right calls of each class: (..., K)."""
        return np.asarray(np.diagonal(self.counts, axis1=-2, axis2=-1))

    @property
    def actual(self) -> Floats:
        """Rows of each true class: (..., K)."""
        return np.asarray(self.counts.sum(axis=-1))

    @property
    def called(self) -> Floats:
        """Calls of each class: (..., K)."""
        return np.asarray(self.counts.sum(axis=-2))

    def one_vs_rest(self, members: Sequence[int]) -> "Confusion":
        """Join classes to a positive group and the others to the negative class: K = 2."""
        group = np.zeros((self.size, 2))
        group[:, 0] = 1
        group[list(members)] = (0, 1)
        return Confusion(group.T @ self.counts @ group)

    @property
    def true_positive(self) -> Any:
        """Positive rows called positive, of two classes."""
        return self._cell(1, 1)

    @property
    def false_negative(self) -> Any:
        """Positive rows called negative, of two classes."""
        return self._cell(1, 0)

    @property
    def false_positive(self) -> Any:
        """Negative rows called positive, of two classes."""
        return self._cell(0, 1)

    @property
    def true_negative(self) -> Any:
        """Negative rows called negative, of two classes."""
        return self._cell(0, 0)

    def _cell(self, actual: int, called: int) -> Any:
        if self.size != 2:
            raise ValueError(f"{self.size} classes: take one_vs_rest first")
        cell = self.counts[..., actual, called]
        return cell if cell.ndim else float(cell)


class RocCurve(NamedTuple):
    """Sensitivity and specificity of 'blast at or above the threshold', from the strictest threshold to -inf."""

    thresholds: Floats
    sensitivity: Floats
    specificity: Floats


class PrecisionRecallCurve(NamedTuple):
    """PPV and sensitivity of 'blast at or above the threshold', from the strictest threshold down."""

    thresholds: Floats
    ppv: Floats
    sensitivity: Floats


def confusion(
    labels: npt.ArrayLike, calls: npt.ArrayLike, weights: npt.ArrayLike | None = None, size: int = 2
) -> Confusion:
    """Count the calls.

    Parameters
    ----------
    labels : (N,) of 0 to K - 1; of two classes 0 (normal) and 1 (blast)
    calls : (N,) of 0 to K - 1, or bool of two classes
    weights : (N,) >= 0 or None
    size : K
    """
    truth, called = checked_classes(labels, size), checked_classes(np.asarray(calls).astype(np.intp), size)
    mass = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    if truth.shape != called.shape or truth.shape != mass.shape:
        raise ValueError(
            f"labels {truth.shape}, calls {called.shape}, weights {mass.shape}: expected one length"
        )
    if not (mass >= 0).all():
        raise ValueError("weights must not be negative")
    counts = np.bincount(truth * size + called, mass, minlength=size * size)
    return Confusion(counts.reshape(size, size).astype(np.float64))


def accuracy(counts: Confusion) -> Any:
    """Return the share of right calls, 0..1."""
    return ratio(counts.right.sum(axis=-1), counts.total)


def recalls(counts: Confusion) -> Any:
    """Return, for each class (..., K), the share of its rows that are called so, 0..1."""
    return ratio(counts.right, counts.actual)


def precisions(counts: Confusion) -> Any:
    """Return, for each class (..., K), the share of its calls that are right, 0..1."""
    return ratio(counts.right, counts.called)


def f1_scores(counts: Confusion) -> Any:
    """Return, for each class (..., K), the harmonic mean of precision and recall, 0..1."""
    return ratio(2 * counts.right, counts.actual + counts.called)


def sensitivity(counts: Confusion) -> Any:
    """Return the share of positive rows called positive (recall), 0..1; of two classes."""
    return ratio(counts.true_positive, counts.true_positive + counts.false_negative)


def specificity(counts: Confusion) -> Any:
    """Return the share of negative rows called negative, 0..1; of two classes."""
    return ratio(counts.true_negative, counts.true_negative + counts.false_positive)


def ppv(counts: Confusion) -> Any:
    """Return the share of positive calls that are right (precision) at the rows' own prevalence, 0..1."""
    return ratio(counts.true_positive, counts.true_positive + counts.false_positive)


def npv(counts: Confusion) -> Any:
    """Return the share of negative calls that are right at the rows' own prevalence, 0..1."""
    return ratio(counts.true_negative, counts.true_negative + counts.false_negative)


def f1_blast(counts: Confusion) -> Any:
    """Return the harmonic mean of PPV and sensitivity, 0..1; of two classes."""
    twice = 2 * counts.true_positive
    return ratio(twice, twice + counts.false_positive + counts.false_negative)


def f1_normal(counts: Confusion) -> Any:
    """Return the harmonic mean of NPV and specificity, 0..1; of two classes."""
    twice = 2 * counts.true_negative
    return ratio(twice, twice + counts.false_positive + counts.false_negative)


def f1_weighted(counts: Confusion) -> Any:
    """Return the F1 of all classes weighted with their shares: the C-NMC challenge's measure, 0..1."""
    # A class without rows has weight 0; its F1, which may be undefined, must not enter the sum.
    parts = np.where(counts.actual > 0, f1_scores(counts) * counts.actual, 0.0)
    return ratio(parts.sum(axis=-1), counts.total)


def f1_macro(counts: Confusion) -> Any:
    """Return the mean F1 of the classes, each counting the same, 0..1; not a number where one is not defined."""
    return _plain(np.mean(f1_scores(counts), axis=-1))


def balanced_accuracy(counts: Confusion) -> Any:
    """Return the mean recall of the classes, 0..1; of two classes the mean of sensitivity and specificity."""
    return _plain(np.mean(recalls(counts), axis=-1))


def mcc(counts: Confusion) -> Any:
    """Return the correlation of call and label, -1..1; not a number where all calls or all labels are one class.

    B. W. Matthews, Biochimica et Biophysica Acta 405 (1975) 442-451, doi 10.1016/0005-2795(75)90109-9; for more
    classes J. Gorodkin, Computational Biology and Chemistry 28 (2004) 367-374, doi 10.1016/j.compbiolchem.2004.09.006.
    """
    total = np.asarray(counts.total, dtype=np.float64)

    def spread(sums: Floats) -> Any:
        of_pairs = total**2 - (sums**2).sum(axis=-1)
        return np.where(of_pairs > 1e-12 * total**2, of_pairs, 0.0)  # rounding of weights is no spread

    together = counts.right.sum(axis=-1) * total - (counts.actual * counts.called).sum(axis=-1)
    return ratio(together, np.sqrt(spread(counts.actual)) * np.sqrt(spread(counts.called)))


def class_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """Return, for each class (K,), the AUC of its score against all others; not a number where a side is missing.

    Parameters
    ----------
    labels : (N,) of 0 to K - 1
    scores : (N, K), larger for the class
    """
    values = np.asarray(scores, dtype=np.float64)
    truth = checked_classes(labels, values.shape[1])
    return np.array(
        [
            roc_auc((truth == member).astype(int), values[:, member], weights)
            for member in range(values.shape[1])
        ]
    )


def roc_auc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the probability that a random blast scores above a random normal row, ties counting half.

    Parameters
    ----------
    labels : (N,) of 0 (normal) and 1 (blast)
    scores : (N,), larger for blast
    weights : (N,) >= 0 or None

    Returns
    -------
    float
        0..1; not a number where one class is missing.
    """
    truth, values, mass = checked(labels, scores, weights)
    _, position = np.unique(values, return_inverse=True)
    blast_mass = np.bincount(position, mass * truth)
    normal_mass = np.bincount(position, mass * ~truth)
    below = np.cumsum(normal_mass) - normal_mass
    concordant = float(blast_mass @ (below + normal_mass / 2))
    return float(ratio(concordant, float(blast_mass.sum() * normal_mass.sum())))


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> RocCurve:
    """Return every point of the ROC curve, first the one where nothing is called blast (threshold +inf)."""
    thresholds, true_positive, false_positive = _counts_above(*checked(labels, scores, weights))
    return RocCurve(
        thresholds,
        np.asarray(ratio(true_positive, true_positive[-1])),
        1 - np.asarray(ratio(false_positive, false_positive[-1])),
    )


def precision_recall_curve(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> PrecisionRecallCurve:
    """Return every point of the precision-recall curve; without a call PPV is not defined, so +inf is left out."""
    thresholds, true_positive, false_positive = (
        part[1:] for part in _counts_above(*checked(labels, scores, weights))
    )
    return PrecisionRecallCurve(
        thresholds,
        np.asarray(ratio(true_positive, true_positive + false_positive)),
        np.asarray(ratio(true_positive, true_positive[-1:])),
    )


def average_precision(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Return the area under the precision-recall steps, without interpolation; its baseline is the share of blasts.

    Not a number where one class is missing.
    """
    truth, _, mass = checked(labels, scores, weights)
    if not mass[truth].sum() > 0 or not mass[~truth].sum() > 0:
        return float("nan")
    curve = precision_recall_curve(labels, scores, weights)
    steps = np.diff(curve.sensitivity, prepend=0.0)
    counted = steps > 0  # Rows of weight 0 may come first and have no PPV.
    return float(steps[counted] @ curve.ppv[counted])


def sensitivity_at_specificity(
    labels: npt.ArrayLike, scores: npt.ArrayLike, target: float, weights: npt.ArrayLike | None = None
) -> float:
    """Return the largest sensitivity among thresholds whose specificity is at least ``target``.

    Only points of the curve count, without interpolation: each is a threshold that could be used.
    """
    curve = roc_curve(labels, scores, weights)
    return _best(curve.sensitivity, curve.specificity, target)


def specificity_at_sensitivity(
    labels: npt.ArrayLike, scores: npt.ArrayLike, target: float, weights: npt.ArrayLike | None = None
) -> float:
    """Return the largest specificity among thresholds whose sensitivity is at least ``target``."""
    curve = roc_curve(labels, scores, weights)
    return _best(curve.specificity, curve.sensitivity, target)


def predictive_values(sensitivity: Any, specificity: Any, prevalence: Any) -> tuple[Any, Any]:
    """Return PPV and NPV that a test of this sensitivity and specificity has at a prevalence (Bayes' rule).

    Parameters
    ----------
    sensitivity, specificity, prevalence : 0..1, numbers or arrays that broadcast

    Returns
    -------
    tuple
        PPV and NPV; not a number where no row would be called so.
    """
    sensitivity, specificity, prevalence = (
        np.asarray(share, dtype=np.float64) for share in (sensitivity, specificity, prevalence)
    )
    true_positive, false_negative = sensitivity * prevalence, (1 - sensitivity) * prevalence
    true_negative, false_positive = specificity * (1 - prevalence), (1 - specificity) * (1 - prevalence)
    return ratio(true_positive, true_positive + false_positive), ratio(
        true_negative, true_negative + false_negative
    )


def net_benefit(counts: Confusion, threshold: Any) -> Any:
    """Return the net benefit of calling blast at a probability threshold: TP/n - FP/n * threshold / (1 - threshold).

    Parameters
    ----------
    counts : of the calls made at that threshold
    threshold : 0..1, 1 excluded

    Notes
    -----
    A. J. Vickers, E. B. Elkin, Medical Decision Making 26 (2006) 565-574, doi 10.1177/0272989X06295361.
    """
    odds = np.asarray(threshold, dtype=np.float64) / (1 - np.asarray(threshold, dtype=np.float64))
    return ratio(counts.true_positive - counts.false_positive * odds, counts.total)


def checked(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Return labels as bool, scores and weights as float64, all (N,).

    Raises
    ------
    ValueError
        Different lengths, a label other than 0 and 1, a score that is not a number, a weight that is
        negative.
    """
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape or truth.shape != mass.shape:
        raise ValueError(
            f"labels {truth.shape}, scores {values.shape}, weights {mass.shape}: expected one length"
        )
    if not np.isin(truth, (0, 1)).all():
        raise ValueError(
            f"labels hold {np.setdiff1d(truth, (0, 1))[:3].tolist()}: expected 0 (normal) and 1 (blast)"
        )
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} scores are not a number")
    if not (mass >= 0).all():
        raise ValueError("weights must not be negative")
    return truth.astype(bool), values, mass


def checked_classes(labels: npt.ArrayLike, size: int) -> npt.NDArray[np.intp]:
    """Return labels (N,) as whole numbers from 0 to ``size`` - 1.

    Raises
    ------
    ValueError
        Another shape, or a label that is no class.
    """
    truth = np.asarray(labels)
    if truth.ndim != 1:
        raise ValueError(f"labels {truth.shape}: expected (N,)")
    if not np.isin(truth, np.arange(size)).all():
        found = np.setdiff1d(truth, np.arange(size))[:3].tolist()
        raise ValueError(f"labels hold {found}: expected whole numbers from 0 to {size - 1}")
    return truth.astype(np.intp)


def _counts_above(
    truth: npt.NDArray[np.bool_], values: Floats, mass: Floats
) -> tuple[Floats, Floats, Floats]:
    """Thresholds falling from +inf, with the mass of blasts and normals at or above each of them."""
    distinct, position = np.unique(-values, return_inverse=True)
    true_positive = np.cumsum(np.bincount(position, mass * truth, minlength=len(distinct)))
    false_positive = np.cumsum(np.bincount(position, mass * ~truth, minlength=len(distinct)))
    start = np.zeros(1)
    return (
        np.concatenate([[np.inf], -distinct]),
        np.concatenate([start, true_positive]),
        np.concatenate([start, false_positive]),
    )


def _best(wanted: Floats, bound: Floats, target: float) -> float:
    if np.isnan(wanted).any() or np.isnan(bound).any():
        return float("nan")
    return float(wanted[bound >= target - 1e-12].max())


def _plain(values: Any) -> Any:
    """Return an array of no axes as a number."""
    return values if np.ndim(values) else float(values)


def ratio(numerator: Any, denominator: Any) -> Any:
    """Divide; not a number, without a warning, where the denominator is 0."""
    denominator = np.asarray(denominator, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.where(denominator != 0, numerator / denominator, np.nan)
    return result if result.ndim else float(result)
