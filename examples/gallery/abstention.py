"""Abstention: the cost of "uncertain", and the coverage of the prediction sets.

From the ``report.json`` of the shipped bundle, on held-out subjects. Left: how often calls are wrong when only
the most certain share of cells is decided; the dot is the share that the prediction sets decide. Right: how
often the sets contained the true class, with the guaranteed coverage.

    python examples/gallery/abstention.py abstention.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leukoscope.assets import default_bundle_path
from leukoscope.evaluation import figure_style as style
from leukoscope.models.bundle import Bundle
from leukoscope.models.report import Abstention, Measurement, SplitReport, format_measurement

ROWS = (
    ("coverage_blast", "Blasts covered", style.BLAST),
    ("coverage_normal", "Normal cells covered", style.NORMAL),
    ("decided", "Cells decided", style.MODEL),
    ("accuracy_of_decided", "Decided cells right", style.MODEL),
)


def draw(split: SplitReport) -> Figure:
    """Return the picture of one test part, or of several pooled."""
    abstention = split.abstention
    if abstention is None:
        sys.exit("the report has no abstention: no validation part was scored")
    figure, axes = style.new_figure(style.WIDE)
    axes.remove()
    risk, sets = figure.subplots(1, 2, width_ratios=(1.1, 1))
    _draw_risk(risk, abstention)
    _draw_sets(sets, abstention)
    return figure


def _draw_risk(axes: Axes, abstention: Abstention) -> None:
    curve = abstention.risk_coverage
    x, y = np.array([(point.x, point.y) for point in curve]).T
    axes.plot(x, y, color=style.MODEL)
    top = float(y.max())
    if all(point.low is not None and point.high is not None for point in curve):
        low, high = np.array([(point.low, point.high) for point in curve], dtype=float).T
        axes.fill_between(x, low, high, color=style.MODEL, alpha=0.15, linewidth=0)
        top = float(high.max())
    decided, right = (abstention.measures[name].value for name in ("decided", "accuracy_of_decided"))
    if decided is not None and right is not None:
        axes.plot(decided, 1 - right, "o", color=style.BLAST, zorder=4)
        axes.annotate(
            "decided by the\nprediction sets",
            (decided, 1 - right),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=style.BLAST,
        )
        top = max(top, 1 - right)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.1 * top)
    axes.set(title="Risk and coverage", xlabel="Share of cells decided", ylabel="Share of wrong calls")


def _draw_sets(axes: Axes, abstention: Abstention) -> None:
    rows: list[tuple[Measurement, str, str]] = [
        (abstention.measures[name], title, color)
        for name, title, color in ROWS
        if name in abstention.measures
    ]
    for place, (measurement, _, color) in enumerate(reversed(rows)):
        if measurement.value is None:
            continue
        if measurement.low is not None and measurement.high is not None:
            axes.hlines(place, measurement.low, measurement.high, color=color, linewidth=2, alpha=0.5)
        axes.plot(measurement.value, place, "o", color=color, markersize=5)
        axes.text(
            0.0, place + 0.2, format_measurement(measurement, percent=True), fontsize=8, color=style.MUTED
        )
    guaranteed = 1 - abstention.alpha
    covered = sum(title.endswith("covered") for _, title, _ in rows)  # only these have a guarantee
    axes.vlines(
        guaranteed, len(rows) - covered - 0.4, len(rows) - 0.6, color=style.INK, linewidth=1, linestyle="--"
    )
    label = f"guaranteed: {100 * guaranteed:.0f} % "
    axes.text(guaranteed, len(rows) - 0.55, label, fontsize=8.5, ha="right", va="bottom")
    axes.set_yticks(range(len(rows)), [title for _, title, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.1)
    axes.set_xlim(-0.02, 1.02)
    axes.set(title="Prediction sets", xlabel="Share, interval over subjects")


if __name__ == "__main__":
    bundle = Bundle.open(default_bundle_path())
    if bundle.report is None:
        sys.exit("the shipped bundle has no report; export it with --report")
    with style.styled():
        Path(sys.argv[1]).write_bytes(style.render(draw(bundle.report.headline), "png", bundle.sha256))
