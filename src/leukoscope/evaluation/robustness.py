"""Measures of steadiness: the answers for the same cells before and after a small change of their images."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from leukoscope.core.classes import ClassSchema
from leukoscope.core.terms import Status
from leukoscope.decision.calibration import class_log_odds, group_log_odds
from leukoscope.models.report import Measurement, Measurements
from leukoscope.stats.balanced import of_balanced_roc_auc, of_mean_of_subjects
from leukoscope.stats.intervals import BootstrapSettings, Estimate, bootstrap
from leukoscope.stats.metrics import Floats, roc_auc
from leukoscope.stats.resampling import Statistic, SubjectSample

Texts = npt.NDArray[np.str_]
Flags = npt.NDArray[np.bool_]

NO_SUBJECTS = "no subjects are known: nothing tells how much they differ"


@dataclass(frozen=True)
class Answers:
    """What a bundle answers for N images.

    Attributes
    ----------
    calls : (N,)
        Class that the operating point calls, whether or not the cell is decided.
    decisions : (N,)
        Class, ``uncertain`` or ``rejected``.
    logits : (N, K)
        Calibrated; of rejected images, too.
    novel, checked : (N,)
        Whether the image is rejected as novel, or by an input check.
    """

    calls: Texts
    decisions: Texts
    logits: Floats
    novel: Flags
    checked: Flags


@dataclass(frozen=True)
class MeasuredCells:
    """The cells that answers are compared for.

    Attributes
    ----------
    subjects : (N,)
        Subject of each cell, merged groups counting as one; None where no subjects are known. Then each cell has the
        same weight, and there are no intervals.
    labels : (N,)
        Class of each cell; '' where it is not known.
    classes
        Of the bundle.
    split
        Name of the cells for ``Measurement.split``.
    """

    subjects: Texts | None
    labels: Texts
    classes: ClassSchema
    split: str
    settings: BootstrapSettings = field(default_factory=BootstrapSettings)

    def mean(self, values: npt.ArrayLike) -> Measurement:
        """Return the mean of ``values`` (N,), each subject having the same weight."""
        rows = np.asarray(values, dtype=np.float64)
        if self.subjects is None:
            return self._without_interval(float(rows.mean()), len(rows))
        sample = SubjectSample.of(None, self.subjects)
        return self._measurement(bootstrap(sample, of_mean_of_subjects(sample, rows), self.settings))

    def roc_auc(self, answers: Answers, minus: Answers | None = None) -> Measurement:
        """Return the AUC of the positive group, each subject having the same weight within its class.

        Parameters
        ----------
        answers, minus
            With ``minus`` the difference of both, paired on the same resamples.
        """
        known = self.labels != ""
        positive = np.isin(self.labels, [self.classes.names[one] for one in self.classes.positive_members])
        reason = self._why_no_auc(known, positive)
        if reason is not None:
            return self._missing(reason, int(known.sum()))
        truth = positive[known]
        scores = [self._scores(one)[known] for one in (answers, minus) if one is not None]
        if self.subjects is None:
            values = [roc_auc(truth, one) for one in scores]
            return self._without_interval(values[0] - sum(values[1:]), len(truth))
        sample = SubjectSample.of(truth.astype(np.intp), self.subjects[known])
        statistics: list[Statistic] = [of_balanced_roc_auc(sample, one) for one in scores]
        return self._measurement(bootstrap(sample, statistics[0], self.settings, *statistics[1:]))

    def _scores(self, answers: Answers) -> Floats:
        return group_log_odds(answers.logits, self.classes.positive_members)

    def _why_no_auc(self, known: Flags, positive: Flags) -> str | None:
        if not self.classes.positive:
            return "the model has no positive group"
        if not known.any():
            return "no cell has a label that is a class of the model"
        if len(np.unique(positive[known])) == 1:
            group = self.classes.positive_name if positive[known][0] else self.classes.negative_name
            return f"all labels are {group}"
        return None

    def _measurement(self, estimate: Estimate) -> Measurement:
        return Measurement(
            value=estimate.value, low=estimate.low, high=estimate.high, n_cells=estimate.n_cells,
            n_subjects=estimate.n_subjects, split=self.split, unit="cell", weighting="subject",
            method=f"each subject has the same weight; {estimate.method}", not_estimable=estimate.reason,
        )  # fmt: skip

    def _without_interval(self, value: float, cells: int) -> Measurement:
        return Measurement(
            value=value, low=None, high=None, n_cells=cells, n_subjects=0, split=self.split, unit="cell",
            method="each cell has the same weight; no interval", not_estimable=NO_SUBJECTS,
        )  # fmt: skip

    def _missing(self, reason: str, cells: int) -> Measurement:
        return Measurement(
            value=None, low=None, high=None, n_cells=cells, n_subjects=0, split=self.split, unit="cell",
            method="none", not_estimable=reason,
        )  # fmt: skip


def measure_unchanged(cells: MeasuredCells, answers: Answers) -> Measurements:
    """Return what is measured of the cells as they are: rejected, decided, and the AUC."""
    return {
        **_rejected(cells, answers),
        "decided": cells.mean(np.isin(answers.decisions, cells.classes.names)),
        "roc_auc": cells.roc_auc(answers),
    }


def measure_change(cells: MeasuredCells, before: Answers, after: Answers) -> Measurements:
    """Compare the answers for changed images with those for the same cells unchanged.

    Returns
    -------
    dict
        See ``models.report.PerturbationResult.measures``.
    """
    names = cells.classes.names
    changed = before.decisions != after.decisions
    called = np.isin(before.decisions, names) & np.isin(after.decisions, names)
    return {
        "decisions_changed": cells.mean(changed),
        "decisions_reversed": cells.mean(changed & called),
        "decisions_rejected": cells.mean(changed & (after.decisions == Status.REJECTED.value)),
        "calls_changed": cells.mean(before.calls != after.calls),
        **_rejected(cells, after),
        "logit_change": cells.mean(_moved(cells.classes, before, after)),
        "roc_auc": cells.roc_auc(after),
        "roc_auc_change": cells.roc_auc(after, before),
    }


def _rejected(cells: MeasuredCells, answers: Answers) -> Measurements:
    rejected = answers.decisions == Status.REJECTED.value
    return {
        "rejected": cells.mean(rejected),
        "rejected_as_novel": cells.mean(answers.novel),
        "rejected_by_checks": cells.mean(answers.checked),
    }


def _moved(classes: ClassSchema, before: Answers, after: Answers) -> Floats:
    """Return the absolute change of the log-odds: of the positive group, else of the class called before."""
    if classes.positive:
        pair: Any = [group_log_odds(one.logits, classes.positive_members) for one in (before, after)]
    else:
        rows, members = np.arange(len(before.calls)), [classes.index(str(name)) for name in before.calls]
        pair = [class_log_odds(one.logits)[rows, members] for one in (before, after)]
    return np.asarray(np.abs(pair[1] - pair[0]), dtype=np.float64)
