"""Statistics as functions of how often each subject is counted, so that thousands of resamples cost little.

A resample of subjects changes nothing within a subject. Each statistic therefore first reduces the cells to
what a subject contributes (counts, sums, or concordant pairs between two subjects) and then needs only a
product of matrices for all resamples together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from leukoscope.stats import metrics as discrimination
from leukoscope.stats import reliability
from leukoscope.stats.metrics import Confusion, Floats

Classes = tuple[int, ...]
BLAST_ONLY: Classes = (1,)
NORMAL_ONLY: Classes = (0,)
BOTH: Classes = (0, 1)

CHUNK_NUMBERS = 4_000_000
"""Numbers held at once by statistics over whole curves: 32 MB."""


@dataclass(frozen=True)
class SubjectSample:
    """Which rows belong to which subject.

    Attributes
    ----------
    labels : bool (N,)
    index : (N,)
        Position of each row's subject.
    strata : (S,)
        0: the subject has normal rows only, 1: blasts only, 2: both (never in C-NMC, where a subject has one
        label).
    """

    labels: npt.NDArray[np.bool_]
    index: npt.NDArray[np.intp]
    strata: npt.NDArray[np.intp]

    @classmethod
    def of(cls, labels: npt.ArrayLike, subjects: npt.ArrayLike) -> "SubjectSample":
        """Group rows by subject.

        Parameters
        ----------
        labels : (N,) of 0 and 1
        subjects : (N,) of strings (or any sortable labels); the groups of the cohort where subjects were
        merged
        """
        truth = np.asarray(labels)
        names = np.asarray(subjects)
        if names.shape != truth.shape:
            raise ValueError(f"labels {truth.shape}, subjects {names.shape}: expected one length")
        truth, _, _ = discrimination.checked(truth, np.zeros(truth.shape))
        distinct, index = np.unique(names, return_inverse=True)
        rows = np.bincount(index, minlength=len(distinct))
        blasts = np.bincount(index, truth, minlength=len(distinct))
        strata = np.where(blasts == 0, 0, np.where(blasts == rows, 1, 2)).astype(np.intp)
        return cls(truth, index, strata)

    @property
    def n_cells(self) -> int:
        """Number of rows."""
        return len(self.labels)

    @property
    def n_subjects(self) -> int:
        """Number of distinct subjects."""
        return len(self.strata)

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """Sum ``values`` (N,) or (N, K) within each subject: (S,) or (S, K)."""
        if values.ndim == 1:
            return np.bincount(self.index, values, minlength=self.n_subjects).astype(np.float64)
        return np.stack([self.sums(column) for column in values.T], axis=1)

    def resample(self, replicates: int, rng: "np.random.Generator") -> Floats:
        """Draw subjects with replacement within each stratum: how often each was drawn, (replicates, S)."""
        counts = np.zeros((replicates, self.n_subjects))
        for stratum in np.unique(self.strata):
            members = np.flatnonzero(self.strata == stratum)
            equal = np.full(len(members), 1 / len(members))
            counts[:, members] = rng.multinomial(len(members), equal, size=replicates)
        return counts

    def jackknife(self) -> Floats:
        """Leave out one subject at a time: (S, S) counts."""
        return 1.0 - np.eye(self.n_subjects)


@dataclass(frozen=True)
class Statistic:
    """A figure as a function of subject counts.

    Attributes
    ----------
    function : (R, S) -> (R,)
    classes
        Classes whose subjects it depends on.
    inflated
        Whether resampling itself makes the figure larger, as it does with a sum of absolute deviations.
    """

    function: Callable[[Floats], Floats]
    classes: Classes = BOTH
    inflated: bool = False

    def __call__(self, counts: Floats) -> Floats:
        """Return the figure for each row of ``counts``; not a number where it is not defined."""
        return np.asarray(self.function(counts), dtype=np.float64)


def of_calls(sample: SubjectSample, calls: npt.ArrayLike, measure: Callable[[Confusion], Any]) -> Statistic:
    """Make a statistic of a measure of ``discrimination`` that needs the confusion only, for instance ``mcc``.

    Parameters
    ----------
    calls : (N,) bool, True for blast
    """
    called = np.asarray(calls, dtype=bool)
    truth = sample.labels
    cells = np.stack([truth & called, truth & ~called, ~truth & called, ~truth & ~called], axis=1)
    per_subject = sample.sums(cells.astype(np.float64))
    classes = BOTH
    if measure is discrimination.sensitivity:
        classes = BLAST_ONLY
    elif measure is discrimination.specificity:
        classes = NORMAL_ONLY
    return Statistic(lambda counts: measure(Confusion(*(counts @ per_subject).T)), classes)


def of_mean(sample: SubjectSample, values: npt.ArrayLike, classes: Classes = BOTH) -> Statistic:
    """Make a statistic of the mean of ``values`` (N,) over the rows of ``classes``."""
    chosen = np.isin(sample.labels.astype(int), classes).astype(np.float64)
    totals = sample.sums(np.asarray(values, dtype=np.float64) * chosen)
    rows = sample.sums(chosen)
    return Statistic(lambda counts: discrimination.ratio(counts @ totals, counts @ rows), classes)


def of_roc_auc(sample: SubjectSample, scores: npt.ArrayLike) -> Statistic:
    """Make a statistic of the ROC AUC over rows, from the concordant pairs between every two subjects."""
    return _of_pairs(*_concordance(sample, np.asarray(scores, dtype=np.float64)))


def of_area_matched_auc(
    sample: SubjectSample, scores: npt.ArrayLike, areas: npt.ArrayLike, caliper: float
) -> Statistic:
    """Make a statistic of the ROC AUC over blast-normal pairs of nearly equal area: ``area_matched_pairs``."""
    concordant, pairs = area_matched_pairs(sample, scores, areas, caliper)
    return _of_pairs(concordant, pairs)


def area_matched_pairs(
    sample: SubjectSample, scores: npt.ArrayLike, areas: npt.ArrayLike, caliper: float
) -> tuple[Floats, Floats]:
    """Count pairs of a blast and a normal cell whose areas differ by at most a factor exp(``caliper``).

    Every such pair counts once, so the AUC over them is the probability that the blast of a random matched
    pair scores higher. What the score says beyond size remains; an AUC of the area itself over the same pairs
    must be near 0.5.

    Parameters
    ----------
    scores, areas : (N,); areas > 0
    caliper : > 0, largest difference of log areas

    Returns
    -------
    tuple of numpy.ndarray
        Concordant pairs (ties half) and pairs, each (S, S): blasts of the row's subject, normals of the
        column's.
    """
    values, sizes = np.asarray(scores, dtype=np.float64), np.asarray(areas, dtype=np.float64)
    if not caliper > 0 or not (sizes > 0).all():
        raise ValueError(
            f"caliper = {caliper}, smallest area = {sizes.min(initial=np.inf)}: both must be above 0"
        )
    order = np.argsort(sizes[~sample.labels], kind="stable")
    normals = np.flatnonzero(~sample.labels)[order]
    log_normal = np.log(sizes[normals])
    concordant = np.zeros((sample.n_subjects, sample.n_subjects))
    pairs = np.zeros_like(concordant)
    for blast in np.flatnonzero(sample.labels):
        size = np.log(sizes[blast])
        first, last = np.searchsorted(log_normal, (size - caliper, size + caliper), side="left")
        near = normals[first:last]
        columns = sample.index[near]
        won = (values[blast] > values[near]) + 0.5 * (values[blast] == values[near])
        row = sample.index[blast]
        concordant[row] += np.bincount(columns, won, minlength=sample.n_subjects)
        pairs[row] += np.bincount(columns, minlength=sample.n_subjects)
    return concordant, pairs


def of_average_precision(sample: SubjectSample, scores: npt.ArrayLike) -> Statistic:
    """Make a statistic of the average precision over rows."""

    def figure(true_positive: Floats, false_positive: Floats) -> Floats:
        steps = np.diff(true_positive, axis=1, prepend=0.0)
        called = true_positive + false_positive
        precision = np.divide(true_positive, called, out=np.zeros_like(called), where=called > 0)
        result = discrimination.ratio((steps * precision).sum(axis=1), true_positive[:, -1])
        return np.where(false_positive[:, -1] > 0, result, np.nan)

    return _of_curve(sample, scores, figure)


def of_sensitivity_at_specificity(sample: SubjectSample, scores: npt.ArrayLike, target: float) -> Statistic:
    """Make a statistic of the sensitivity at a specificity of at least ``target``, read off each resample's curve."""

    def figure(true_positive: Floats, false_positive: Floats) -> Floats:
        allowed = false_positive <= (1 - target + 1e-12) * false_positive[:, -1:]
        best = np.where(allowed, true_positive, 0.0).max(axis=1)
        result = discrimination.ratio(best, true_positive[:, -1])
        return np.where(false_positive[:, -1] > 0, result, np.nan)

    return _of_curve(sample, scores, figure)


def of_specificity_at_sensitivity(sample: SubjectSample, scores: npt.ArrayLike, target: float) -> Statistic:
    """Make a statistic of the specificity at a sensitivity of at least ``target``, read off each resample's curve."""

    def figure(true_positive: Floats, false_positive: Floats) -> Floats:
        allowed = true_positive >= (target - 1e-12) * true_positive[:, -1:]
        fewest = np.where(allowed, false_positive, np.inf).min(axis=1)
        result = 1 - discrimination.ratio(fewest, false_positive[:, -1])
        return np.where(true_positive[:, -1] > 0, result, np.nan)

    return _of_curve(sample, scores, figure)


def of_brier(sample: SubjectSample, probabilities: npt.ArrayLike) -> Statistic:
    """Make a statistic of the Brier score over rows."""
    return of_mean(sample, (np.asarray(probabilities, dtype=np.float64) - sample.labels) ** 2)


def of_ece(
    sample: SubjectSample, probabilities: npt.ArrayLike, bins: int = reliability.DEFAULT_BINS
) -> Statistic:
    """Make a statistic of the ECE; the bins are those of the whole sample, in every resample."""
    shares = np.asarray(probabilities, dtype=np.float64)
    place = reliability.equal_mass_bins(shares, bins)
    member = (place[:, None] == np.arange(place.max(initial=0) + 1)).astype(np.float64)
    gaps = sample.sums(member * (shares - sample.labels)[:, None])
    rows = sample.sums(np.ones(sample.n_cells))
    return Statistic(
        lambda counts: discrimination.ratio(np.abs(counts @ gaps).sum(axis=1), counts @ rows), inflated=True
    )


def _concordance(sample: SubjectSample, scores: Floats) -> tuple[Floats, Floats]:
    """Concordant pairs and all pairs between the blasts of one subject (row) and the normals of another (column)."""
    blasts, blast_subject = scores[sample.labels], sample.index[sample.labels]
    concordant = np.zeros((sample.n_subjects, sample.n_subjects))
    for subject in np.flatnonzero(sample.strata != 1):
        normals = np.sort(scores[(sample.index == subject) & ~sample.labels])
        below = np.searchsorted(normals, blasts, side="left")
        not_above = np.searchsorted(normals, blasts, side="right")
        concordant[:, subject] = np.bincount(
            blast_subject, (below + not_above) / 2, minlength=sample.n_subjects
        )
    labels = sample.labels.astype(np.float64)
    return concordant, np.outer(sample.sums(labels), sample.sums(1 - labels))


def _of_pairs(concordant: Floats, pairs: Floats) -> Statistic:
    def figure(counts: Floats) -> Floats:
        won = ((counts @ concordant) * counts).sum(axis=1)
        return np.asarray(discrimination.ratio(won, ((counts @ pairs) * counts).sum(axis=1)))

    return Statistic(figure)


def _of_curve(
    sample: SubjectSample, scores: npt.ArrayLike, figure: Callable[[Floats, Floats], Floats]
) -> Statistic:
    """Make a statistic of the cumulated counts at falling thresholds: figure(tp (r, T), fp (r, T)) -> (r,)."""
    distinct, position = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
    shape = (len(distinct) + 1, sample.n_subjects)  # Row 0: nothing is called.
    blasts, normals = np.zeros(shape), np.zeros(shape)
    np.add.at(blasts, (position + 1, sample.index), sample.labels)
    np.add.at(normals, (position + 1, sample.index), ~sample.labels)
    blasts, normals = blasts.cumsum(axis=0).T.copy(), normals.cumsum(axis=0).T.copy()

    def whole(counts: Floats) -> Floats:
        rows = max(1, CHUNK_NUMBERS // shape[0])
        chunks = [counts[start : start + rows] for start in range(0, len(counts), rows)]
        return np.concatenate([figure(chunk @ blasts, chunk @ normals) for chunk in chunks])

    return Statistic(whole)
