"""How well scores separate blasts from normal cells, at one threshold and over all of them.

Unit of analysis: the rows that are given, cells or subjects; ``weights`` count a row more than once. The
functions say nothing about chance: intervals over subjects are made in ``intervals`` with the statistics of
``clusters``. Where a measure is not defined (one class only, no positive call) the answer is not a number;
``intervals.bootstrap`` turns that into an ``Estimate`` with a reason.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Confusion(NamedTuple):
    """Counts (or weights) of calls, blast being positive; numbers, or arrays of one shape for many resamples."""

    true_positive: Any
    false_negative: Any
    false_positive: Any
    true_negative: Any


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


def confusion(labels: npt.ArrayLike, calls: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Confusion:
    """Count the calls.

    Parameters
    ----------
    labels : (N,) of 0 (normal) and 1 (blast)
    calls : (N,) bool, True for blast
    weights : (N,) >= 0 or None
    """
    truth, scores, mass = checked(labels, np.asarray(calls, dtype=np.float64), weights)
    called = scores > 0.5
    return Confusion(
        float(mass[truth & called].sum()),
        float(mass[truth & ~called].sum()),
        float(mass[~truth & called].sum()),
        float(mass[~truth & ~called].sum()),
    )


def accuracy(counts: Confusion) -> Any:
    """Return the share of right calls, 0..1."""
    return ratio(counts.true_positive + counts.true_negative, sum(counts))


def sensitivity(counts: Confusion) -> Any:
    """Return the share of blasts called blast (recall), 0..1."""
    return ratio(counts.true_positive, counts.true_positive + counts.false_negative)


def specificity(counts: Confusion) -> Any:
    """Return the share of normal rows called normal, 0..1."""
    return ratio(counts.true_negative, counts.true_negative + counts.false_positive)


def ppv(counts: Confusion) -> Any:
    """Return the share of blast calls that are right (precision) at the rows' own prevalence, 0..1."""
    return ratio(counts.true_positive, counts.true_positive + counts.false_positive)


def npv(counts: Confusion) -> Any:
    """Return the share of normal calls that are right at the rows' own prevalence, 0..1."""
    return ratio(counts.true_negative, counts.true_negative + counts.false_negative)


def f1_blast(counts: Confusion) -> Any:
    """Return the harmonic mean of PPV and sensitivity, 0..1."""
    twice = 2 * counts.true_positive
    return ratio(twice, twice + counts.false_positive + counts.false_negative)


def f1_normal(counts: Confusion) -> Any:
    """Return the harmonic mean of NPV and specificity, 0..1."""
    twice = 2 * counts.true_negative
    return ratio(twice, twice + counts.false_positive + counts.false_negative)


def f1_weighted(counts: Confusion) -> Any:
    """Return the F1 of both classes weighted with their shares: the C-NMC challenge's measure, 0..1."""
    blasts = counts.true_positive + counts.false_negative
    normals = counts.true_negative + counts.false_positive
    # A class without rows has weight 0; its F1, which may be undefined, must not spoil the sum.
    blast_part = np.where(blasts > 0, f1_blast(counts) * blasts, 0.0)
    normal_part = np.where(normals > 0, f1_normal(counts) * normals, 0.0)
    return ratio(blast_part + normal_part, blasts + normals)


def balanced_accuracy(counts: Confusion) -> Any:
    """Return the mean of sensitivity and specificity, 0..1."""
    return (sensitivity(counts) + specificity(counts)) / 2


def mcc(counts: Confusion) -> Any:
    """Return Matthews' correlation of call and label, -1..1; not a number where all calls or all labels are one class.

    B. W. Matthews, Biochimica et Biophysica Acta 405 (1975) 442-451, doi 10.1016/0005-2795(75)90109-9.
    """
    tp, fn, fp, tn = (np.asarray(count, dtype=np.float64) for count in counts)
    scale = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return ratio(tp * tn - fp * fn, scale)


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
    """Return the area under the precision-recall steps, without interpolation; its floor is the share of blasts.

    Not a number where one class is missing.
    """
    truth, _, mass = checked(labels, scores, weights)
    if not mass[truth].sum() > 0 or not mass[~truth].sum() > 0:
        return float("nan")
    curve = precision_recall_curve(labels, scores, weights)
    steps = np.diff(curve.sensitivity, prepend=0.0)
    counted = steps > 0  # Rows of weight 0 may stand first and have no PPV.
    return float(steps[counted] @ curve.ppv[counted])


def sensitivity_at_specificity(
    labels: npt.ArrayLike, scores: npt.ArrayLike, target: float, weights: npt.ArrayLike | None = None
) -> float:
    """Return the largest sensitivity among thresholds whose specificity is at least ``target``.

    Only points of the curve count, nothing between them: each stands for a threshold that could be used.
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
    return ratio(counts.true_positive - counts.false_positive * odds, sum(counts))


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


def ratio(numerator: Any, denominator: Any) -> Any:
    """Divide; not a number, without a warning, where the denominator is 0."""
    denominator = np.asarray(denominator, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.where(denominator != 0, numerator / denominator, np.nan)
    return result if result.ndim else float(result)
