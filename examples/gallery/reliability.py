"""Reliability: does a probability of 0.8 mean eight of ten?

From the ``report.json`` of the shipped bundle: cells of subjects that were neither trained on nor calibrated on. Left:
the observed share of blasts over the predicted probability, with intervals over subjects; right: how the probabilities
are spread over the two classes.

    python examples/gallery/reliability.py reliability.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from leukoscope.assets import default_bundle_path
from leukoscope.evaluation import figure_style as style
from leukoscope.models.bundle import Bundle
from leukoscope.models.report import SplitReport, format_measurement


def draw(split: SplitReport) -> Figure:
    """Return the picture of one test part, or of several pooled."""
    figure, axes = style.new_figure(style.WIDE)
    axes.remove()
    curve, spread = figure.subplots(1, 2, width_ratios=(1, 1.15))
    curve.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle=":")
    bins = split.curves.reliability
    predicted, observed = np.array([(one.predicted, one.observed) for one in bins]).T
    for one in bins:
        if one.low is not None and one.high is not None:
            curve.vlines(one.predicted, one.low, one.high, color=style.MODEL, linewidth=1.2, alpha=0.6)
    curve.plot(predicted, observed, "o-", color=style.MODEL, markersize=4)
    style.unit_axes(curve)
    curve.set(title="Reliability", xlabel="Predicted probability of blast", ylabel="Observed share of blasts")
    measures = split.cell.measures
    style.end_labels(curve, [f"ECE {format_measurement(measures['ece'])}"])

    histogram = split.curves.histogram
    for counts, color, name in (
        (histogram.normals, style.NORMAL, "Normal"),
        (histogram.blasts, style.BLAST, "Blast"),
    ):
        share = np.array(counts) / max(1, sum(counts))
        edges = np.array(histogram.edges)
        spread.stairs(share, edges, fill=True, color=color, alpha=0.3)
        spread.stairs(share, edges, color=color, linewidth=1.4, label=f"{name}, {sum(counts):,} cells")
    spread.set_xlim(0, 1)
    spread.legend(loc="upper center")
    spread.set(
        title=f"Probabilities, {split.parts['test'].subjects} subjects",
        xlabel="Predicted probability of blast",
        ylabel="Share of the class's cells",
    )
    return figure


if __name__ == "__main__":
    bundle = Bundle.open(default_bundle_path())
    if bundle.report is None:
        sys.exit("the shipped bundle has no report; export it with --report")
    with style.styled():
        Path(sys.argv[1]).write_bytes(style.render(draw(bundle.report.headline), "png", bundle.sha256))
