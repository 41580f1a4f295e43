"""Figures of one test part, drawn from ``report.json`` alone."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leukoscope.evaluation import figure_style as style
from leukoscope.evaluation.figures_subjects import (
    draw_baselines,
    draw_subgroups,
    draw_subjects,
)
from leukoscope.models.metric_info import NOT_ESTIMABLE
from leukoscope.models.report import Curve, Measurement, SplitReport, format_measurement

Drawing = Callable[[SplitReport], Figure | None]


def draw_all(split: SplitReport) -> dict[str, Figure]:
    """Draw every figure that the split has data for, by name, in reading order."""
    with style.styled():
        drawn = {name: draw(split) for name, draw in DRAWINGS.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def draw_roc(split: SplitReport) -> Figure | None:
    """Draw the ROC curve with its pointwise interval band and the default operating point."""
    if not split.curves.roc:
        return None
    figure, axes = style.new_figure()
    _band(axes, split.curves.roc, style.MODEL)
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle=":")
    measures = split.cell.measures
    sensitivity, specificity = measures["sensitivity"].value, measures["specificity"].value
    if sensitivity is not None and specificity is not None:
        axes.plot(1 - specificity, sensitivity, "o", color=style.BLAST, label="Operating point", zorder=4)
        axes.legend(loc="center right")
    style.unit_axes(axes)
    axes.set(
        title="ROC curve, cells",
        xlabel="1 - specificity",
        ylabel="Sensitivity",
    )
    style.end_labels(axes, [f"AUC {format_measurement(measures['roc_auc'])}", _counts(measures["roc_auc"])])
    return figure


def draw_precision_recall(split: SplitReport) -> Figure | None:
    """Draw precision over recall with the share of blasts as the baseline."""
    if not split.curves.precision_recall:
        return None
    figure, axes = style.new_figure()
    _band(axes, split.curves.precision_recall, style.MODEL)
    test = split.parts["test"]
    floor = test.blasts / test.cells
    axes.axhline(floor, color=style.MUTED, linewidth=1, linestyle=":")
    axes.text(0.0, floor + 0.012, "share of blasts", color=style.MUTED, fontsize=8.5)
    style.unit_axes(axes)
    axes.set(title="Precision and recall, cells", xlabel="Recall (sensitivity)", ylabel="Precision (PPV)")
    style.end_labels(axes, [f"AUPRC {format_measurement(split.cell.measures['average_precision'])}"])
    return figure


def draw_reliability(split: SplitReport) -> Figure | None:
    """Draw observed share of blasts over predicted probability in equal-mass bins."""
    bins = split.curves.reliability
    if not bins:
        return None
    figure, axes = style.new_figure()
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle=":", label="Perfect calibration")
    predicted = np.array([b.predicted for b in bins])
    observed = np.array([b.observed for b in bins])
    low = np.array([b.observed if b.low is None else b.low for b in bins])
    high = np.array([b.observed if b.high is None else b.high for b in bins])
    axes.vlines(predicted, low, high, color=style.MODEL, linewidth=1.2, alpha=0.6)
    axes.plot(predicted, observed, "o-", color=style.MODEL, markersize=4, label="Model")
    axes.legend(loc="upper left")
    style.unit_axes(axes)
    axes.set(
        title="Reliability, cells", xlabel="Predicted probability of blast", ylabel="Observed share of blasts"
    )
    measures = split.cell.measures
    style.end_labels(
        axes,
        [f"ECE {format_measurement(measures['ece'])}", f"Brier {format_measurement(measures['brier'])}"],
    )
    return figure


def draw_confusion(split: SplitReport) -> Figure:
    """Draw the confusion matrices of cells and of subjects side by side."""
    figure, axes = style.new_figure((8.6, 3.4))
    axes.remove()
    for position, level in enumerate((split.cell, split.subject_mean), start=1):
        pane = figure.add_subplot(1, 2, position)
        counts = level.confusion
        matrix = np.array(
            [
                [counts.true_positive, counts.false_negative],
                [counts.false_positive, counts.true_negative],
            ]
        )
        totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        pane.imshow(matrix / totals, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row in range(2):
            for column in range(2):
                share = matrix[row, column] / totals[row, 0]
                pane.text(
                    column,
                    row,
                    f"{matrix[row, column]:,}\n{share:.1%}",
                    ha="center",
                    va="center",
                    color="white" if share > 0.6 else style.INK,
                    fontsize=11,
                )
        pane.set_xticks([0, 1], ["called blast", "called normal"])
        pane.set_yticks([0, 1], ["blast", "normal"])
        pane.grid(visible=False)
        pane.set_title("Cells" if level.unit == "cell" else "Subjects, mean logit")
        for spine in pane.spines.values():
            spine.set_visible(False)
    return figure


def draw_decision_curve(split: SplitReport) -> Figure | None:
    """Draw net benefit over threshold probability with calling all, none, and the nine scalars."""
    points = [point for point in split.decision_curve if point.model.value is not None]
    if not points:
        return None
    figure, axes = style.new_figure()
    thresholds = np.array([point.threshold for point in points])
    model = np.array([point.model.value for point in points], dtype=float)
    top = float(max(model.max(), *(point.call_all for point in points)))
    if all(point.model.low is not None for point in points):
        low = np.array([point.model.low for point in points], dtype=float)
        high = np.array([point.model.high for point in points], dtype=float)
        axes.fill_between(thresholds, low, high, color=style.MODEL, alpha=0.15, linewidth=0)
        top = float(high.max())
    call_all = np.array([point.call_all for point in points])
    axes.plot(thresholds, model, color=style.MODEL, label="Model")
    if all(point.baseline is not None for point in points):
        baseline = np.array([point.baseline for point in points], dtype=float)
        axes.plot(thresholds, baseline, color=style.BASELINES[1], linestyle="--", label="Nine scalars")
    axes.plot(thresholds, call_all, color=style.MUTED, linewidth=1.2, linestyle="-.", label="Call all blast")
    axes.axhline(0, color=style.MUTED, linewidth=1.2, linestyle=":", label="Call none blast")
    axes.set_ylim(-0.15 * top - 0.01, top * 1.1 + 0.01)
    axes.set_xlim(0, 1)
    axes.legend(loc="lower left")
    axes.set(title="Decision curve, cells", xlabel="Threshold probability", ylabel="Net benefit per cell")
    return figure


def draw_prevalence(split: SplitReport) -> Figure | None:
    """Draw predictive values over the share of blasts among the examined cells."""
    points = split.prevalence
    if not points or all(p.ppv.value is None and p.npv.value is None for p in points):
        return None
    figure, axes = style.new_figure()
    for name, color in (("ppv", style.BLAST), ("npv", style.NORMAL)):
        chosen = [(p.prevalence, m) for p in points if (m := getattr(p, name)).value is not None]
        shares = np.array([share for share, _ in chosen])
        axes.plot(shares, [m.value for _, m in chosen], color=color, label=name.upper())
        banded = [(share, m.low, m.high) for share, m in chosen if m.low is not None]
        if banded:
            x, low, high = np.array(banded, dtype=float).T
            axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    style.unit_axes(axes, x=False)
    axes.set_xlim(0, 0.5)
    axes.legend(loc="lower right")
    axes.set(title="Predictive values, cells", xlabel="Share of blasts among cells", ylabel="PPV, NPV")
    return figure


def draw_histogram(split: SplitReport) -> Figure:
    """Draw the distribution of probabilities by class with the thresholds."""
    figure, axes = style.new_figure()
    histogram = split.curves.histogram
    edges = np.array(histogram.edges)
    for counts, color, name in (
        (histogram.normals, style.NORMAL, "Normal"),
        (histogram.blasts, style.BLAST, "Blast"),
    ):
        share = np.array(counts) / max(1, sum(counts))
        axes.stairs(share, edges, fill=True, color=color, alpha=0.3)
        axes.stairs(share, edges, color=color, linewidth=1.4, label=f"{name}, {sum(counts):,} cells")
    for point in split.operating_points:
        if point.default and point.threshold is not None:
            axes.axvline(point.threshold, color=style.INK, linewidth=1, linestyle="--", label="Threshold")
    axes.set_xlim(0, 1)
    axes.legend(loc="upper center")
    axes.set(
        title="Calibrated probabilities", xlabel="Probability of blast", ylabel="Share of the class's cells"
    )
    return figure


def draw_risk_coverage(split: SplitReport) -> Figure | None:
    """Draw the share of wrong calls over the share of cells decided, most certain cells first."""
    abstention = split.abstention
    if abstention is None or not abstention.risk_coverage:
        return None
    figure, axes = style.new_figure()
    _band(axes, abstention.risk_coverage, style.MODEL)
    decided, right = abstention.measures["decided"].value, abstention.measures["accuracy_of_decided"].value
    if decided is not None and right is not None:
        axes.plot(decided, 1 - right, "o", color=style.BLAST, label="Prediction sets", zorder=4)
        figure.legend(loc="outside lower center")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.set(title="Risk and coverage, cells", xlabel="Share of cells decided", ylabel="Share of wrong calls")
    return figure


def _band(axes: Axes, curve: Curve, color: str) -> None:
    x = np.array([point.x for point in curve])
    axes.plot(x, [point.y for point in curve], color=color)
    if all(point.low is not None and point.high is not None for point in curve):
        low = np.array([point.low for point in curve], dtype=float)
        high = np.array([point.high for point in curve], dtype=float)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _counts(measurement: Measurement) -> str:
    if measurement.value is None:
        return NOT_ESTIMABLE
    return f"{measurement.n_cells:,} cells, {measurement.n_subjects} subjects"


DRAWINGS: dict[str, Drawing] = {
    "roc": draw_roc,
    "precision_recall": draw_precision_recall,
    "baselines": draw_baselines,
    "confusion": draw_confusion,
    "subjects": draw_subjects,
    "subgroups": draw_subgroups,
    "reliability": draw_reliability,
    "histogram": draw_histogram,
    "risk_coverage": draw_risk_coverage,
    "decision_curve": draw_decision_curve,
    "prevalence": draw_prevalence,
}

CAPTIONS: dict[str, str] = {
    "roc": "Sensitivity over 1 - specificity. The band is the pointwise interval from resampled subjects.",
    "precision_recall": "Precision over recall; the dotted line is what calling every cell blast gives.",
    "baselines": "The model and the baselines of cell size and color on the same split.",
    "confusion": "Calls at the default operating point, in counts and as shares of the true class.",
    "subjects": "Share of right calls for every subject, with Wilson intervals over the subject's cells.",
    "subgroups": "The same measure in slices of the test part. Slices that hold one class have no AUC.",
    "reliability": "Observed share of blasts over predicted probability, equal-mass bins.",
    "histogram": "Calibrated probabilities by true class.",
    "risk_coverage": "Wrong calls among the cells decided when the least certain are left out.",
    "decision_curve": "Net benefit: right blast calls minus false ones weighted by the threshold's odds.",
    "prevalence": "Predictive values where another share of the cells is blast than in the test part.",
}
