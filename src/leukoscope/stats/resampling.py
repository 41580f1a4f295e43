"""Statistics as functions of how often each subject is counted, so that thousands of resamples cost little.

A resample of subjects changes nothing within a subject. Each statistic therefore first reduces the cells to
the contributions of a subject (counts, sums, or concordant pairs between two subjects) and then needs only a
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
    """Which rows belong to which subject, and which classes each subject has.

    Attributes
    ----------
    classes : (N,)
        Class of each row, 0 to K - 1; 0 everywhere where there are no labels.
    index : (N,)
        Position of each row's subject.
    strata : (S,)
        Number of the subject's set of classes: subjects with the same set are drawn among themselves. One stratum
        where there are no labels.
    size
        Number of classes K; 1 without labels.
    weights : (S,)
        Weight of each row of a subject: 1, or 1 / (rows of the subject) where every subject has the same weight.
    """

    classes: npt.NDArray[np.intp]
    index: npt.NDArray[np.intp]
    strata: npt.NDArray[np.intp]
    size: int
    weights: Floats

    @classmethod
    def of(
        cls,
        labels: npt.ArrayLike | None,
        subjects: npt.ArrayLike,
        size: int = 2,
        *,
        balanced: bool = False,
    ) -> "SubjectSample":
        """Group rows by subject.

        Parameters
        ----------
        labels : (N,) of 0 to ``size`` - 1, or None where rows have no class
        subjects : (N,) of strings (or any sortable labels); the groups of the cohort where subjects were
        merged
        size : number of classes
        balanced : give every subject the same weight, however many rows it has; otherwise every row
        """
        names = np.asarray(subjects)
        if labels is None:
            size, labels = 1, np.zeros(names.shape, dtype=np.intp)
        truth = np.asarray(labels)
        if names.shape != truth.shape:
            raise ValueError(f"labels {truth.shape}, subjects {names.shape}: expected one length")
        truth = discrimination.checked_classes(truth, size)
        distinct, index = np.unique(names, return_inverse=True)
        present = np.zeros((len(distinct), size), dtype=bool)
        present[index, truth] = True
        # A set of classes is a row of bits; the first class is the most significant, so that with two classes normal
        # subjects come before blast subjects, and mixed ones last.
        _, strata = np.unique(np.column_stack([present.sum(axis=1), ~present]), axis=0, return_inverse=True)
        rows = np.bincount(index, minlength=len(distinct))
        weights = 1.0 / rows if balanced else np.ones(len(distinct))
        return cls(truth, index, strata.ravel().astype(np.intp), size, weights)

    @property
    def labels(self) -> npt.NDArray[np.bool_]:
        """Whether each row (N,) is of the second of two classes."""
        if self.size > 2:
            raise ValueError(
                f"{self.size} classes: a measure of two classes needs labels of one against the rest"
            )
        return np.asarray(self.classes == 1)

    @property
    def n_cells(self) -> int:
        """Number of rows."""
        return len(self.classes)

    @property
    def n_subjects(self) -> int:
        """Number of distinct subjects."""
        return len(self.strata)

    def stratum_sizes(self, classes: Classes) -> list[int]:
        """Return the number of subjects in each stratum that contains one of the classes."""
        counted = np.isin(self.classes, classes) if self.size > 1 else np.ones(self.n_cells, dtype=bool)
        strata = np.unique(self.strata[self.index[counted]])
        return [int((self.strata == stratum).sum()) for stratum in strata]

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """Sum ``values`` (N,) or (N, K) within each subject: (S,) or (S, K)."""
        if values.ndim == 1:
            return np.bincount(self.index, values, minlength=self.n_subjects).astype(np.float64)
        return np.stack([self.sums(column) for column in values.T], axis=1)

    @property
    def row_weights(self) -> Floats:
        """Weight of each row (N,)."""
        return np.asarray(self.weights[self.index])

    def whole(self) -> Floats:
        """Return the counts (1, S) of the sample itself: every subject once."""
        return self.weights[None].copy()

    def resample(self, replicates: int, rng: "np.random.Generator") -> Floats:
        """Draw subjects with replacement within each stratum: times drawn by weight, (replicates, S)."""
        counts = np.zeros((replicates, self.n_subjects))
        for stratum in np.unique(self.strata):
            members = np.flatnonzero(self.strata == stratum)
            equal = np.full(len(members), 1 / len(members))
            counts[:, members] = rng.multinomial(len(members), equal, size=replicates)
        return np.asarray(counts * self.weights)

    def jackknife(self) -> Floats:
        """Leave out one subject at a time: (S, S) counts times weight."""
        return np.asarray((1.0 - np.eye(self.n_subjects)) * self.weights)


@dataclass(frozen=True)
class Statistic:
    """A figure as a function of subject counts.

    Attributes
    ----------
    function : (R, S) -> (R,)
    classes
        Classes whose subjects it depends on; without labels it depends on all subjects.
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
    calls : (N,) of 0 to K - 1, or bool of two classes
    """
    size = sample.size
    place = sample.classes * size + discrimination.checked_classes(np.asarray(calls).astype(np.intp), size)
    per_subject = sample.sums((place[:, None] == np.arange(size * size)).astype(np.float64))
    classes: Classes = tuple(range(size))
    if measure is discrimination.sensitivity:
        classes = BLAST_ONLY
    elif measure is discrimination.specificity:
        classes = NORMAL_ONLY
    return Statistic(
        lambda counts: measure(Confusion((counts @ per_subject).reshape(-1, size, size))), classes
    )


def of_mean(sample: SubjectSample, values: npt.ArrayLike, classes: Classes = BOTH) -> Statistic:
    """Make a statistic of the mean of ``values`` (N,) over the rows of ``classes``; over all rows without labels."""
    everything = sample.size == 1 or classes == BOTH
    chosen = (everything | np.isin(sample.classes, classes)).astype(np.float64)
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
    pair scores higher. The information of the score beyond size remains; an AUC of the area itself over the same pairs
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
    for subject in np.unique(sample.index[~sample.labels]):
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
