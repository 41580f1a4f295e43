"""How each measure is called, explained and written: the same words in reports, cards, pages and tables."""

from dataclasses import dataclass
from typing import Literal

NOT_ESTIMABLE = "not estimable"


@dataclass(frozen=True)
class MetricInfo:
    """How a measure is named and explained wherever it is shown."""

    title: str
    explanation: str
    percent: bool = False
    better: Literal["higher", "lower"] = "higher"


MEASURES: dict[str, MetricInfo] = {
    "roc_auc": MetricInfo(
        title="ROC AUC", explanation="Probability that a random blast scores above a random normal cell."
    ),
    "roc_auc_delong": MetricInfo(
        title="ROC AUC (DeLong)",
        explanation="The same value with DeLong's interval, which takes cells as independent.",
    ),
    "roc_auc_mean_of_splits": MetricInfo(
        title="ROC AUC, mean of splits",
        explanation="AUC within each test part, averaged: no score of two models is compared.",
    ),
    "average_precision": MetricInfo(
        title="AUPRC", explanation="Average precision for blast; its baseline is the share of blasts."
    ),
    "accuracy": MetricInfo(title="Accuracy", explanation="Share of calls that are right.", percent=True),
    "balanced_accuracy": MetricInfo(
        title="Balanced accuracy", explanation="Mean of sensitivity and specificity.", percent=True
    ),
    "sensitivity": MetricInfo(
        title="Sensitivity", explanation="Share of blasts that are called blast; recall.", percent=True
    ),
    "specificity": MetricInfo(
        title="Specificity", explanation="Share of normal cells that are called normal.", percent=True
    ),
    "ppv": MetricInfo(
        title="PPV",
        explanation="Share of blast calls that are right, at the share of blasts in the test part.",
        percent=True,
    ),
    "npv": MetricInfo(
        title="NPV",
        explanation="Share of normal calls that are right, at the share of blasts in the test part.",
        percent=True,
    ),
    "f1_blast": MetricInfo(title="F1, blast", explanation="Harmonic mean of PPV and sensitivity."),
    "f1_macro": MetricInfo(title="F1, macro", explanation="Mean F1 of all classes, each counting the same."),
    "recall": MetricInfo(title="Recall", explanation="Share of the class's cells that are called so."),
    "precision": MetricInfo(title="Precision", explanation="Share of the class's calls that are right."),
    "f1": MetricInfo(title="F1", explanation="Harmonic mean of precision and recall."),
    "roc_auc_macro": MetricInfo(
        title="ROC AUC, macro", explanation="Mean over the classes of the AUC of each against all others."
    ),
    "set_size": MetricInfo(
        title="Classes in a set", explanation="Mean number of classes that remain plausible."
    ),
    "f1_normal": MetricInfo(title="F1, normal", explanation="Harmonic mean of NPV and specificity."),
    "f1_weighted": MetricInfo(
        title="Weighted F1",
        explanation="F1 of both classes, weighted with their shares; the C-NMC challenge's measure.",
    ),
    "mcc": MetricInfo(title="MCC", explanation="Matthews correlation of call and label, -1 to 1."),
    "brier": MetricInfo(
        title="Brier score", explanation="Mean squared distance of probability and label.", better="lower"
    ),
    "ece": MetricInfo(
        title="ECE", explanation="Expected calibration error over equal-mass bins.", better="lower"
    ),
    "sensitivity_at_specificity_90": MetricInfo(
        title="Sensitivity at specificity 0.90",
        explanation="Read off the test ROC curve, not a threshold to use.",
        percent=True,
    ),
    "sensitivity_at_specificity_95": MetricInfo(
        title="Sensitivity at specificity 0.95",
        explanation="Read off the test ROC curve, not a threshold to use.",
        percent=True,
    ),
    "specificity_at_sensitivity_90": MetricInfo(
        title="Specificity at sensitivity 0.90",
        explanation="Read off the test ROC curve, not a threshold to use.",
        percent=True,
    ),
    "specificity_at_sensitivity_95": MetricInfo(
        title="Specificity at sensitivity 0.95",
        explanation="Read off the test ROC curve, not a threshold to use.",
        percent=True,
    ),
    "decided": MetricInfo(
        title="Decided", explanation="Share of cells called blast or normal, not uncertain.", percent=True
    ),
    "accuracy_of_decided": MetricInfo(
        title="Accuracy of decided cells",
        explanation="Share of right calls among them.",
        percent=True,
    ),
    "coverage": MetricInfo(
        title="Coverage",
        explanation="Share of cells whose prediction set contains their label.",
        percent=True,
    ),
    "coverage_blast": MetricInfo(
        title="Coverage, blasts",
        explanation="Share of blasts whose prediction set contains 'blast'.",
        percent=True,
    ),
    "coverage_normal": MetricInfo(
        title="Coverage, normal cells",
        explanation="Share of normal cells whose prediction set contains 'normal'.",
        percent=True,
    ),
    "refused_as_novel": MetricInfo(
        title="Rejected as novel",
        explanation="Share of test cells whose embedding is beyond the novelty limit.",
        percent=True,
        better="lower",
    ),
    "refused_by_input_checks": MetricInfo(
        title="Rejected by input checks",
        explanation="Share of test cells that fail a check of size, focus, border or number of objects.",
        percent=True,
        better="lower",
    ),
}


def format_value(value: float, *, percent: bool = False, signed: bool = False) -> str:
    """Return ``0.913``, ``91.3 %`` or, signed, ``+0.022``: the one way numbers are written."""
    digits = 1 if percent else 3
    # Adding 0.0 turns the minus zero of a small negative value into zero.
    rounded = round(value * 100 if percent else value, digits) + 0.0
    return f"{rounded:{'+' if signed and rounded else ''}.{digits}f}{' %' if percent else ''}"
