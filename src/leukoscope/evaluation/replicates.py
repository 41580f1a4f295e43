"""Measures over many resampled cohorts at once: one row of weights a replicate, one pass over the cells a measure.

``stats`` has each measure for one sample, with its sources; here the same definitions run on a matrix of weights, so
that two thousand replicates of thirty measures take seconds. Tests hold the two, and scikit-learn, together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_CHUNK_VALUES = 2_000_000  # weights held at once: 16 MB


@dataclass(frozen=True)
class Judged:
    """Units of one level (cells or subjects) with label, score and call.

    Attributes
    ----------
    label : int64 (n,), 1 for blast
    probability : float64 (n,), 0 to 1
    called_blast : bool (n,)
    cluster : int64 (n,)
        Index of the group each unit belongs to, into the replicates' columns.
    n_cells, n_subjects
        What the units stand for.
    """

    label: Ints
    probability: Floats
    called_blast: Bools
    cluster: Ints
    n_cells: int
    n_subjects: int

    def subset(self, mask: Bools, n_cells: int, n_subjects: int) -> "Judged":
        """Return the units of a slice; clusters keep their numbers."""
        return Judged(
            self.label[mask],
            self.probability[mask],
            self.called_blast[mask],
            self.cluster[mask],
            n_cells,
            n_subjects,
        )


def chunks(weights: Floats, cluster: Ints) -> Iterator[Floats]:
    """Yield unit weights (rows of ``weights`` spread over their units), some replicates at a time."""
    rows = max(1, _CHUNK_VALUES // max(1, len(cluster)))
    for start in range(0, len(weights), rows):
        yield weights[start : start + rows][:, cluster]


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Return the quotient, not-a-number where the denominator is zero."""
    result = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def call_measures(judged: Judged, weights: Floats) -> dict[str, Floats]:
    """Return every measure of calls; each (replicates,), not-a-number where a replicate does not determine it.

    Parameters
    ----------
    judged : n units
    weights : float64 (replicates, clusters)
    """
    blast = judged.label == 1
    cells = np.stack(
        [
            blast & judged.called_blast,
            blast & ~judged.called_blast,
            ~blast & judged.called_blast,
            ~blast & ~judged.called_blast,
        ],
        axis=1,
    ).astype(np.float64)
    per_cluster = np.zeros((weights.shape[1], 4))
    np.add.at(per_cluster, judged.cluster, cells)
    tp, fn, fp, tn = (weights @ per_cluster).T
    sensitivity, specificity = divide(tp, tp + fn), divide(tn, tn + fp)
    f1_blast, f1_normal = divide(2 * tp, 2 * tp + fp + fn), divide(2 * tn, 2 * tn + fp + fn)
    total = tp + fn + fp + tn
    # The product of four counts overflows nothing here, and scikit-learn calls MCC 0 where it is 0 / 0: we do not.
    mcc = divide(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    return {
        "accuracy": divide(tp + tn, total),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": divide(tp, tp + fp),
        "npv": divide(tn, tn + fn),
        "f1_blast": f1_blast,
        "f1_normal": f1_normal,
        "f1_weighted": divide((tp + fn) * f1_blast + (tn + fp) * f1_normal, total),
        "mcc": mcc,
    }


def score_measures(judged: Judged, weights: Floats) -> dict[str, Floats]:
    """Return every measure of ranking: AUC, AUPRC, and one rate where the other is held."""
    names = ("roc_auc", "average_precision", *(name for name, _, _ in HELD_RATES))
    parts: dict[str, list[Floats]] = {name: [] for name in names}
    ranking = Ranking.of(judged)
    for chunk in chunks(weights, judged.cluster):
        true_positive, false_positive = ranking.cumulate(chunk)
        blasts, normals = true_positive[:, -1:], false_positive[:, -1:]
        sensitivity, fall_out = divide(true_positive, blasts), divide(false_positive, normals)
        steps = np.diff(fall_out, axis=1, prepend=0.0)
        before = np.concatenate([np.zeros((len(chunk), 1)), sensitivity[:, :-1]], axis=1)
        parts["roc_auc"].append((steps * (sensitivity + before) / 2).sum(axis=1))
        precision = divide(true_positive, true_positive + false_positive)
        gains = np.diff(sensitivity, axis=1, prepend=0.0)
        parts["average_precision"].append(
            np.where(gains > 0, gains * precision, 0.0).sum(axis=1) + 0 * blasts[:, 0]
        )
        for name, kind, held in HELD_RATES:
            parts[name].append(_rate_where_held(sensitivity, fall_out, kind, held))
    return {name: np.concatenate(values) for name, values in parts.items()}


HELD_RATES: tuple[tuple[str, str, float], ...] = (
    ("sensitivity_at_specificity_90", "specificity", 0.90),
    ("sensitivity_at_specificity_95", "specificity", 0.95),
    ("specificity_at_sensitivity_90", "sensitivity", 0.90),
    ("specificity_at_sensitivity_95", "sensitivity", 0.95),
)


def _rate_where_held(sensitivity: Floats, fall_out: Floats, kind: str, held: float) -> Floats:
    """Return the best of one rate among thresholds at which the other is at least ``held``."""
    tolerance = 1e-12  # 0.9 of 10 cells must count as reached
    if kind == "specificity":
        best = np.where(fall_out <= 1 - held + tolerance, sensitivity, 0.0).max(axis=1)
    else:
        best = np.where(sensitivity >= held - tolerance, 1 - fall_out, 0.0).max(axis=1)
    undefined = np.isnan(sensitivity[:, -1]) | np.isnan(fall_out[:, -1])
    return np.where(undefined, np.nan, best)


@dataclass(frozen=True)
class Ranking:
    """Units in order of falling score, ties as one step."""

    order: Ints
    starts: Ints
    blast: Floats

    @classmethod
    def of(cls, judged: Judged) -> "Ranking":
        """Sort the units of one level."""
        order = np.argsort(-judged.probability, kind="stable")
        scores = judged.probability[order]
        starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
        return cls(order, starts, (judged.label[order] == 1).astype(np.float64))

    def cumulate(self, unit_weights: Floats) -> tuple[Floats, Floats]:
        """Return weights of blasts and of normals at or above each distinct score; each (replicates, scores)."""
        ordered = unit_weights[:, self.order]
        blasts = np.add.reduceat(ordered * self.blast, self.starts, axis=1)
        normals = np.add.reduceat(ordered * (1 - self.blast), self.starts, axis=1)
        return np.cumsum(blasts, axis=1), np.cumsum(normals, axis=1)


def equal_mass_bins(probability: Floats, bins: int) -> Ints:
    """Return the bin of each probability, 0..bins - 1: equally many units a bin, ties never divided."""
    distinct, inverse, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    of_distinct = np.minimum((middle * bins / len(probability)).astype(np.int64), bins - 1)
    result: Ints = of_distinct[inverse]
    return result if len(distinct) else inverse.astype(np.int64)


def calibration_measures(judged: Judged, weights: Floats, bins: int) -> dict[str, Floats]:
    """Return Brier score and expected calibration error; bins are those of the whole sample."""
    error = judged.probability - judged.label
    member = np.eye(bins)[equal_mass_bins(judged.probability, bins)]
    per_cluster = np.zeros((weights.shape[1], bins + 2))
    columns = np.column_stack([error**2, np.ones(len(error)), member * error[:, None]])
    np.add.at(per_cluster, judged.cluster, columns)
    sums = weights @ per_cluster
    total = sums[:, 1]
    return {
        "brier": divide(sums[:, 0], total),
        "ece": divide(np.abs(sums[:, 2:]).sum(axis=1), total),
    }
