"""Attribution: heat maps, and whether what they mark matters.

Shipped cells with the shipped model (many of them were trained on: this shows the method, not its performance on
others). Above, cells and their Grad-CAM maps. Below, one line per cell: how the logit changes when the pixels that
the map marks most are removed first, when those that it marks least are, and in random order. A map orders pixels as
the model weighs them where the orange dot is left of the blue one: without the marked pixels the logit is lowest.

    python examples/gallery/attribution.py attribution.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from leukoscope.assets import sample_cells_directory
from leukoscope.evaluation import figure_style as style
from leukoscope.imaging.canvas import place_on_canvas
from leukoscope.imaging.overlay import heat_map_overlay
from leukoscope.inference.cells import Prediction, PreparedCell, Source
from leukoscope.inference.explain import ExplainCheck, check_explanations
from leukoscope.inference.predictor import Predictor

CELLS, SHOWN, WINDOW_PX = 16, 8, 300
LINES = (
    ("most_relevant_drop", "marked most, removed first", style.BLAST),
    ("random_drop", "random order", style.BASELINES[2]),
    ("least_relevant_drop", "marked least, removed first", style.NORMAL),
)


def draw(predictions: list[Prediction], check: ExplainCheck) -> Figure:
    """Return the picture; ``predictions`` and ``check`` are of the same cells."""
    order = np.argsort([-(one.result.probability or 0) for one in predictions])
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    panes = above.subplots(2, SHOWN)
    chosen = order[np.linspace(0, len(order) - 1, SHOWN).round().astype(int)]
    for column, row in enumerate(chosen):
        one = predictions[row]
        if one.canvas is None or one.activation_map is None:
            continue
        overlay = heat_map_overlay(one.canvas, one.activation_map)
        for pane, rgb in zip(panes[:, column], (one.canvas, overlay), strict=True):
            pane.imshow(place_on_canvas(rgb, WINDOW_PX))
            pane.axis("off")
        panes[0, column].set_title(f"P(blast) {one.result.probability:.2f}", fontsize=8, fontweight="normal")
    axes = below.add_subplot()
    for place, row in enumerate(order[::-1]):
        measures = check.measures[row]
        ends = [-getattr(measures, name) for name, _, _ in LINES]
        axes.hlines(place, min(ends), max(ends), color=style.GRID, linewidth=2.5, zorder=1)
        for name, label, color in LINES:
            axes.plot(
                -getattr(measures, name),
                place,
                "o",
                color=color,
                markersize=5,
                label=label if place == 0 else None,
            )
    axes.axvline(0, color=style.MUTED, linewidth=1, linestyle=":")
    axes.set_yticks([])
    held = sum(one.most_relevant_drop > one.least_relevant_drop for one in check.measures)
    axes.set(
        title=f"In {held} of {len(check.measures)} cells the logit is lower without the most marked pixels",
        xlabel="Mean change of the logit when 10 to 70 % of the cell's pixels are removed",
        ylabel="Cells, most certain blast on top",
    )
    below.legend(loc="outside lower center", ncols=3)
    return figure


def predict(predictor: Predictor, count: int = CELLS) -> tuple[list[Prediction], ExplainCheck]:
    """Classify shipped cells of both classes and measure their maps."""
    paths = sorted(sample_cells_directory().rglob("UID_*"))[:: max(1, 60 // count)][:count]
    prepared = [predictor.prepare(Source(path.stem, path)) for path in paths]
    cells = [one for one in prepared if isinstance(one, PreparedCell) and not one.refusals]
    return predictor.predict([cell.source for cell in cells]), check_explanations(predictor, cells)


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else CELLS
    predictor = Predictor.open()
    with style.styled():
        picture = style.render(draw(*predict(predictor, count)), "png", predictor.bundle.sha256)
    Path(sys.argv[1]).write_bytes(picture)
