"""One figure of a cohort: classes, subjects, sizes, colors, duplicates and example cells."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import ImageError
from leukoscope.data.audit import CohortAudit
from leukoscope.data.table import UNLABELED
from leukoscope.evaluation import figure_style as style
from leukoscope.imaging.canvas import place_on_canvas
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.foreground import foreground_box

EXAMPLES_PER_CLASS = 8
MAX_POINTS = 4000
_DUPLICATES = {
    "within_subject": "of one subject",
    "across_subjects": "of several subjects",
    "across_labels": "of several labels",
    "across_folds": "of several folds",
}


def draw_cohort(
    cells: pd.DataFrame, audit: CohortAudit, classes: ClassSchema, files: Sequence[Path], seed: int = 0
) -> Figure:
    """Draw a cell table.

    Parameters
    ----------
    cells
        Cell table, one row at least.
    audit
        Of the same table.
    classes
        Names, titles and colors.
    files
        Image file of each row; one that cannot be read leaves its place empty.
    seed
        Of the examples and, in a large table, of the points that are drawn.
    """
    labels = [name for name in classes.names if (cells["label"] == name).any()]
    colors = {entry.name: entry.color for entry in classes.classes}
    titles = {entry.name: entry.title for entry in classes.classes}
    if cells["label"].eq(UNLABELED).any():
        labels, colors[UNLABELED], titles[UNLABELED] = [*labels, UNLABELED], style.BASELINES[2], "Unlabeled"
    rng = np.random.default_rng(seed)
    with style.styled():
        figure = Figure(figsize=(13.5, 8.2 + 0.95 * len(labels)), layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = np.asarray(
            figure.subfigures(2, 1, height_ratios=[8.2, 0.95 * len(labels)]), dtype=object
        )
        axes = upper.subplots(2, 3)
        _draw_folds(axes[0, 0], cells, labels, colors, titles)
        _draw_subjects(axes[0, 1], audit, labels, colors)
        _draw_duplicates(axes[0, 2], audit)
        _draw_areas(axes[1, 0], cells, labels, colors)
        _draw_colors(axes[1, 1], cells.sample(min(len(cells), MAX_POINTS), random_state=seed), labels, colors)
        _draw_sizes(axes[1, 2], cells)
        _draw_examples(
            lower, cells.reset_index(drop=True), files, {name: titles[name] for name in labels}, rng
        )
    return figure


def _draw_folds(
    axes: Axes, cells: pd.DataFrame, labels: list[str], colors: dict[str, str], titles: dict[str, str]
) -> None:
    folds = sorted(set(cells["fold"]))
    bottom = np.zeros(len(folds))
    for label in labels:
        counts = np.array([((cells["fold"] == fold) & (cells["label"] == label)).sum() for fold in folds])
        axes.bar(range(len(folds)), counts, bottom=bottom, color=colors[label], label=titles[label])
        bottom += counts
    axes.set_xticks(range(len(folds)), [fold or "no fold" for fold in folds])
    axes.set_title(f"{len(cells):,} cells by class and fold")
    axes.set_ylabel("cells")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _draw_subjects(axes: Axes, audit: CohortAudit, labels: list[str], colors: dict[str, str]) -> None:
    subjects = sorted(audit.subjects, key=lambda one: -sum(one.labels.values()) - one.unlabeled)
    bottom = np.zeros(len(subjects))
    for label in labels:
        counts = np.array(
            [one.unlabeled if label == UNLABELED else one.labels.get(label, 0) for one in subjects], float
        )
        axes.bar(range(len(subjects)), counts, bottom=bottom, color=colors[label], width=1.0)
        bottom += counts
    median = f", {np.median(bottom):,.0f} cells in the median" if subjects else ""
    unknown = f"; {audit.unknown_subjects:,} cells without" if audit.unknown_subjects else ""
    axes.set_title(f"{len(subjects)} subjects{median}{unknown}")
    axes.set_xlabel("subjects, most cells first")
    axes.set_ylabel("cells")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_duplicates(axes: Axes, audit: CohortAudit) -> None:
    names = list(_DUPLICATES)
    counts = [audit.duplicate_counts[name] for name in names]
    axes.barh(range(len(names)), counts, color=style.MODEL)
    axes.set_yticks(range(len(names)), [_DUPLICATES[name] for name in names])
    axes.invert_yaxis()
    total = audit.duplicate_counts["sets"]
    axes.set_title(f"{total:,} set{'' if total == 1 else 's'} of identical files")
    axes.set_xlabel("sets")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for place, count in enumerate(counts):
        axes.text(count, place, f" {count:,}", va="center")
    axes.set_xlim(0, max(1, *counts) * 1.15)
    axes.grid(visible=False, axis="y")


def _draw_areas(axes: Axes, cells: pd.DataFrame, labels: list[str], colors: dict[str, str]) -> None:
    areas = cells["area_px"].to_numpy(float)
    bins = int(np.clip(np.sqrt(len(areas)), 10, 50))
    edges = np.linspace(0, max(1.0, float(np.quantile(areas, 0.995))), bins + 1).tolist()
    for label in labels:
        chosen = areas[(cells["label"] == label).to_numpy()]
        axes.hist(chosen, bins=edges, density=True, histtype="step", color=colors[label], linewidth=1.8)
    axes.set_title("Area of the cell")
    axes.set_xlabel("foreground, px")
    axes.set_ylabel("density")


def _draw_colors(axes: Axes, cells: pd.DataFrame, labels: list[str], colors: dict[str, str]) -> None:
    size = 14 if len(cells) < 500 else 5
    for label in labels:
        chosen = cells[cells["label"] == label]
        axes.scatter(chosen["mean_g"], chosen["mean_b"], s=size, alpha=0.5, color=colors[label], linewidths=0)
    axes.set_title("Mean color of the cell")
    axes.set_xlabel("green, 0 to 255")
    axes.set_ylabel("blue, 0 to 255")


def _draw_sizes(axes: Axes, cells: pd.DataFrame) -> None:
    sizes = (cells["width_px"].astype(str) + " x " + cells["height_px"].astype(str)).value_counts()
    shown = sizes.head(8)
    names, counts = list(shown.index), list(shown)
    if len(sizes) > 8:
        names.append(f"{len(sizes) - 8} other sizes")
        counts.append(int(sizes.iloc[8:].sum()))
    axes.barh(range(len(names)), counts, color=style.MODEL, height=0.6)
    axes.set_ylim(-0.5, max(3.5, len(names) - 0.5))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_title("Size of the image, px")
    axes.set_xlabel("cells")
    axes.grid(visible=False, axis="y")


def _draw_examples(
    figure: Any, cells: pd.DataFrame, files: Sequence[Path], titles: dict[str, str], rng: np.random.Generator
) -> None:
    """Draw a row of cells per class, each of another subject as far as there are so many."""
    axes = figure.subplots(len(titles), EXAMPLES_PER_CLASS, squeeze=False)
    for row, (label, title) in enumerate(titles.items()):
        rows = cells[cells["label"] == label]
        rows = rows.iloc[rng.permutation(len(rows))]
        distinct = rows.drop_duplicates("subject")
        chosen = pd.concat([distinct, rows.drop(distinct.index)]).head(EXAMPLES_PER_CLASS)
        for column in range(EXAMPLES_PER_CLASS):
            one = axes[row, column]
            one.set_xticks([])
            one.set_yticks([])
            one.grid(visible=False)
            one.spines[:].set_visible(False)
            if column == 0:
                one.set_ylabel(title, fontsize=8.5, rotation=0, ha="right", va="center")
            if column < len(chosen):
                image = _example(files[chosen.index[column]])
                if image is None:
                    one.text(0.5, 0.5, "cannot be read", ha="center", va="center", fontsize=7)
                else:
                    one.imshow(image)


def _example(file: Path) -> "np.ndarray[Any, np.dtype[np.uint8]] | None":
    """Return the cell in a square around its foreground."""
    try:
        canvas = place_on_canvas(decode_image(file))
    except (ImageError, OSError):
        return None
    box = foreground_box(canvas)
    if box is None:
        return canvas
    y0, x0, y1, x1 = box
    half = max(y1 - y0, x1 - x0) // 2 + 8
    middle_y, middle_x = (y0 + y1) // 2, (x0 + x1) // 2
    return canvas[max(0, middle_y - half) : middle_y + half, max(0, middle_x - half) : middle_x + half]
