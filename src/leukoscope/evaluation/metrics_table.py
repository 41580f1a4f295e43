"""From classified cells to measurements: which metrics, at which level, with which interval."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from leukoscope.decision.calibration import sigmoid
from leukoscope.models.report import Confusion, LevelResult, Measurement, Measurements, Unit
from leukoscope.stats import metrics as discrimination
from leukoscope.stats import resampling as clusters
from leukoscope.stats.intervals import BootstrapSettings, Estimate, bootstrap, delong, wilson
from leukoscope.stats.resampling import Statistic, SubjectSample

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CALL_MEASURES: dict[str, Callable[[discrimination.Confusion], Any]] = {
    "accuracy": discrimination.accuracy,
    "balanced_accuracy": discrimination.balanced_accuracy,
    "sensitivity": discrimination.sensitivity,
    "specificity": discrimination.specificity,
    "ppv": discrimination.ppv,
    "npv": discrimination.npv,
    "f1_blast": discrimination.f1_blast,
    "f1_normal": discrimination.f1_normal,
    "f1_weighted": discrimination.f1_weighted,
    "mcc": discrimination.mcc,
}

SHARES: dict[str, Callable[[discrimination.Confusion], tuple[float, float]]] = {
    "accuracy": lambda c: (c.true_positive + c.true_negative, float(c.total)),
    "sensitivity": lambda c: (c.true_positive, c.true_positive + c.false_negative),
    "specificity": lambda c: (c.true_negative, c.true_negative + c.false_positive),
    "ppv": lambda c: (c.true_positive, c.true_positive + c.false_positive),
    "npv": lambda c: (c.true_negative, c.true_negative + c.false_negative),
}
"""Measures that are a plain count out of a count: over subjects they get Wilson's interval."""


@dataclass(frozen=True)
class ScoredCells:
    """Units of one level with label, probability and call, as arrays of one length.

    Attributes
    ----------
    unit
        ``cell``, or ``subject`` with the cells of each pooled.
    label : bool (n,), True for blast
    probability : float64 (n,), calibrated, 0 to 1
    calls : bool (n,), True for blast
    subject, group : str (n,)
    n_cells
        Number of cells of the units.
    balanced
        Every subject (merged group) has the same weight, however many cells it has; otherwise every cell.
    """

    unit: Unit
    label: Bools
    probability: Floats
    calls: Bools
    subject: npt.NDArray[Any]
    group: npt.NDArray[Any]
    n_cells: int
    balanced: bool = True

    @property
    def n_subjects(self) -> int:
        """Number of distinct subjects."""
        return len(np.unique(self.subject))

    def sample(self) -> SubjectSample:
        """Return who belongs to whom: merged groups are drawn as one."""
        return SubjectSample.of(self.label.astype(int), self.group, balanced=self.balanced)

    def weighted_by_cells(self) -> "ScoredCells":
        """Return the same with every cell of the same weight."""
        return dataclasses.replace(self, balanced=False)

    def chosen(self, mask: Bools) -> "ScoredCells":
        """Return the cells of a slice."""
        return ScoredCells(
            self.unit,
            self.label[mask],
            self.probability[mask],
            self.calls[mask],
            self.subject[mask],
            self.group[mask],
            int(mask.sum()),
            self.balanced,
        )


@dataclass(frozen=True)
class Context:
    """What every measurement of one test part shares."""

    split: str
    bootstrap: BootstrapSettings
    bins: int

    def measurement(self, scored: ScoredCells, estimate: Estimate) -> Measurement:
        """Put an estimate on record with the counts of the units it was made of."""
        return Measurement(
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            n_cells=scored.n_cells,
            n_subjects=scored.n_subjects,
            split=self.split,
            unit=scored.unit,
            weighting="subject" if scored.balanced or scored.unit == "subject" else "cell",
            method=estimate.method,
            not_estimable=estimate.reason,
        )

    def estimate(
        self, scored: ScoredCells, statistic: Statistic, minus: Statistic | None = None
    ) -> Measurement:
        """Estimate a statistic, or a paired difference of two, with its interval over subjects."""
        return self.measurement(scored, bootstrap(scored.sample(), statistic, self.bootstrap, minus))


def score_cells(rows: pd.DataFrame) -> ScoredCells:
    """Take classified cells from a table with ``label``, ``probability``, ``called``, ``subject``, ``group``."""
    return ScoredCells(
        unit="cell",
        label=rows["label"].to_numpy() == 1,
        probability=rows["probability"].to_numpy(dtype=np.float64),
        calls=rows["called"].to_numpy(dtype=bool),
        subject=rows["subject"].to_numpy(dtype=str),
        group=rows["group"].to_numpy(dtype=str),
        n_cells=len(rows),
    )


def statistics(scored: ScoredCells, bins: int) -> dict[str, Statistic]:
    """Return every measure of one level as a statistic over resampled subjects."""
    sample = scored.sample()
    probability = scored.probability
    return {
        "roc_auc": clusters.of_roc_auc(sample, probability),
        "average_precision": clusters.of_average_precision(sample, probability),
        **{name: clusters.of_calls(sample, scored.calls, measure) for name, measure in CALL_MEASURES.items()},
        "brier": clusters.of_brier(sample, probability),
        "ece": clusters.of_ece(sample, probability, bins),
        "sensitivity_at_specificity_90": clusters.of_sensitivity_at_specificity(sample, probability, 0.90),
        "sensitivity_at_specificity_95": clusters.of_sensitivity_at_specificity(sample, probability, 0.95),
        "specificity_at_sensitivity_90": clusters.of_specificity_at_sensitivity(sample, probability, 0.90),
        "specificity_at_sensitivity_95": clusters.of_specificity_at_sensitivity(sample, probability, 0.95),
    }


def measure_level(scored: ScoredCells, context: Context, rule: str) -> LevelResult:
    """Make every measurement of one level, and count its calls."""
    measures: Measurements = {}
    for name, statistic in statistics(scored, context.bins).items():
        measures[name] = context.estimate(scored, statistic)
        if name == "roc_auc" and not scored.balanced:  # DeLong's interval is one of equally weighted cells
            estimate = delong(scored.label.astype(int), scored.probability, context.bootstrap.level)
            measures["roc_auc_delong"] = context.measurement(scored, estimate)
    counts = discrimination.confusion(scored.label.astype(int), scored.calls)
    if scored.unit == "subject":
        measures |= _wilson_measures(scored, counts, context)
    return LevelResult(
        unit=scored.unit,
        rule=rule,
        measures=measures,
        confusion=Confusion(**{name: int(getattr(counts, name)) for name in Confusion.model_fields}),
    )


def measure_some(scored: ScoredCells, context: Context, names: tuple[str, ...]) -> Measurements:
    """Make the named measurements only."""
    made = statistics(scored, context.bins)
    return {name: context.estimate(scored, made[name]) for name in names}


def _wilson_measures(scored: ScoredCells, counts: discrimination.Confusion, context: Context) -> Measurements:
    """Subjects are the independent trials here, so their counts have an interval without resampling."""
    level = context.bootstrap.level
    z = NormalDist().inv_cdf((1 + level) / 2)
    method = f"Wilson score interval over subjects, {level:.0%}"
    result: Measurements = {}
    for name, share in SHARES.items():
        successes, trials = share(counts)
        if trials:
            low, high = wilson(successes, trials, z)
            estimate = Estimate(successes / trials, low, high, scored.n_cells, scored.n_subjects, method)
        else:
            reason = "no subject that it could be counted over"
            estimate = Estimate(None, None, None, scored.n_cells, scored.n_subjects, method, reason)
        result[name] = context.measurement(scored, estimate)
    return result


def pool_subjects(rows: pd.DataFrame, pooling: str) -> tuple[ScoredCells, pd.DataFrame]:
    """Pool the cells of each subject into one call; subjects that share images count as one (a merged group).

    Parameters
    ----------
    rows
        Classified cells, with ``calibrated_logit`` and ``subject_threshold`` in addition to the columns of
        ``score_cells``.
    pooling : ``mean`` or ``majority``
        ``mean``: the sigmoid of the mean calibrated logit meets the threshold of subjects. ``majority``: at least half
        of the cells are called blast.

    Returns
    -------
    tuple
        Subjects of one label as units, and the table of all subjects with ``label`` 0, 1 or not-a-number (mixed).
    """
    grouped = rows.groupby("group", sort=True)
    table = pd.DataFrame(
        {
            "subject": grouped["subject"].agg(lambda names: "+".join(sorted(set(names)))),
            "cells": grouped.size(),
            "label": grouped["label"].mean(),
            "mean_logit": grouped["calibrated_logit"].mean(),
            "share": grouped["called"].mean(),
            "threshold": grouped["subject_threshold"].mean(),
        }
    ).reset_index()
    table["label"] = table["label"].where(table["label"].isin([0.0, 1.0]))
    table["mean_probability"] = sigmoid(table["mean_logit"].to_numpy(dtype=np.float64))
    table["called_by_mean"] = table["mean_probability"] >= table["threshold"]
    table["called_by_majority"] = table["share"] >= 0.5
    pure = table[table["label"].notna()]
    score = "mean_probability" if pooling == "mean" else "share"
    scored = ScoredCells(
        unit="subject",
        label=pure["label"].to_numpy() == 1,
        probability=pure[score].to_numpy(dtype=np.float64),
        calls=pure[f"called_by_{pooling}"].to_numpy(dtype=bool),
        subject=pure["subject"].to_numpy(dtype=str),
        group=pure["group"].to_numpy(dtype=str),
        n_cells=int(pure["cells"].sum()),
    )
    return scored, table


@dataclass(frozen=True)
class SplitSample(SubjectSample):
    """Groups of several test parts: drawn within part and class, so that no resample leaves a part without a class.

    Attributes
    ----------
    part : (S,)
        Number of the test part that each group belongs to.
    """

    part: npt.NDArray[np.intp]

    def resample(self, replicates: int, rng: np.random.Generator) -> Floats:
        """Draw groups with replacement within each part and stratum: (replicates, S)."""
        counts = np.zeros((replicates, self.n_subjects))
        for part, stratum in np.unique(np.stack([self.part, self.strata]), axis=1).T:
            members = np.flatnonzero((self.part == part) & (self.strata == stratum))
            equal = np.full(len(members), 1 / len(members))
            counts[:, members] = rng.multinomial(len(members), equal, size=replicates)
        return np.asarray(counts * self.weights)


def mean_auc_of_splits(scored: ScoredCells, split: npt.NDArray[Any], context: Context) -> Measurement:
    """Estimate the mean over splits of the AUC within each, so that scores of two models are never compared."""
    whole = scored.sample()
    groups = np.unique(scored.group)
    place = np.zeros(len(groups), dtype=np.intp)
    parts = []
    for number, name in enumerate(np.unique(split)):
        inside = scored.chosen(split == name)
        columns = np.searchsorted(groups, np.unique(inside.group))
        place[columns] = number
        parts.append((clusters.of_roc_auc(inside.sample(), inside.probability), columns))
    sample = SplitSample(whole.classes, whole.index, whole.strata, whole.size, whole.weights, place)
    statistic = Statistic(
        lambda counts: np.mean([part(counts[:, columns]) for part, columns in parts], axis=0)
    )
    return context.measurement(scored, bootstrap(sample, statistic, context.bootstrap))
