"""The figure and the CSV of ``robustness.json``."""

from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from leukoscope.core.text import format_rows
from leukoscope.evaluation import figure_style as style
from leukoscope.models.report import (
    Measurement,
    Measurements,
    PerturbationResult,
    Robustness,
    format_measurement,
)
from leukoscope.models.robustness_table import UNCHANGED

CSV_HEADER = (
    "change", "group", "aim", "reached", "measure", "value", "low", "high", "cells", "subjects", "not_estimable",
)  # fmt: skip
_ROW_INCHES = 0.23
_GAP = 0.9
"""Space above each group for its name, in rows."""
_BAR = 0.62
_PARTS = {
    "Called as another class": style.BLAST,
    "Rejected": style.BASELINES[2],
    "Other changes": "#8FA5BC",
}
_MISSED = "#B5179E"
_LEGEND = (*_PARTS, "Aim, reached", "Aim, missed")
_FIRST_LIMIT = 0.06
"""Smallest right end of the panel of changed decisions."""


def robustness_csv(robustness: Robustness) -> str:
    """Return one row per change and measure, the unchanged cells first; columns as in ``CSV_HEADER``."""
    rows: list[tuple[object, ...]] = [CSV_HEADER]
    parts: list[tuple[str, str, float | None, bool | None, Measurements]] = [
        (UNCHANGED, "", None, None, robustness.unchanged)
    ]
    parts += [(one.name, one.group, one.aim, one.reached, one.measures) for one in robustness.perturbations]
    for name, group, aim, reached, measures in parts:
        for measure, one in measures.items():
            facts = (one.value, one.low, one.high, one.n_cells, one.n_subjects, one.not_estimable)
            words = "" if reached is None else str(reached).lower()
            shown = (name, group, aim, words, measure, *facts)
            rows.append(tuple("" if value is None else value for value in shown))
    return format_rows(rows)


def draw_robustness(robustness: Robustness) -> Figure:
    """Draw changed decisions as bars with intervals, grouped, and beside them the AUC.

    A mark shows the aim of a change. The dotted line is the AUC of the unchanged cells.
    """
    places, headings, end = _places(robustness.perturbations)
    with style.styled():
        figure = Figure(figsize=(9.2, 1.7 + _ROW_INCHES * end), layout="constrained")
        FigureCanvasAgg(figure)
        changed, discrimination = figure.subplots(1, 2, sharey=True, width_ratios=[1.6, 1])
        for place, result in zip(places, robustness.perturbations, strict=True):
            _draw_bar(changed, place, result)
            _draw_point(discrimination, place, result.measures["roc_auc"])
        _finish_bars(changed, places, headings, robustness)
        _finish_points(discrimination, robustness.unchanged["roc_auc"])
        changed.set_ylim(end - 0.2, -0.4)
        people = f"{robustness.subjects} subjects, " if robustness.subjects else ""
        figure.suptitle(
            f"{robustness.model} {robustness.model_version}: {people}{robustness.cells:,} cells",
            x=0.01, ha="left", fontsize=11, fontweight="bold",
        )  # fmt: skip
        handles, labels = changed.get_legend_handles_labels()
        shown = dict(zip(labels, handles, strict=True))
        present = [label for label in _LEGEND if label in shown]
        figure.legend([shown[label] for label in present], present, loc="outside lower left", ncols=5)
    return figure


def _places(results: tuple[PerturbationResult, ...]) -> tuple[list[float], dict[str, float], float]:
    """Return the place of each row, of each group's name, and the end of the last row, from the top."""
    places, headings, place = [], {}, 0.0
    for group, members in groupby(results, key=lambda result: result.group):
        headings[group] = place
        place += _GAP
        for _ in members:
            places.append(place)
            place += 1
        place += 0.3
    return places, headings, place


def _draw_bar(axes: Axes, place: float, result: PerturbationResult) -> None:
    """Draw one bar of three parts: called as another class, newly rejected, and all other changes."""
    names = ("decisions_reversed", "decisions_rejected", "decisions_changed")
    reversed_, rejected, changed = (result.measures[name].value or 0.0 for name in names)
    end = 0.0
    for width, (label, color) in zip(
        (reversed_, rejected, changed - reversed_ - rejected), _PARTS.items(), strict=True
    ):
        axes.barh(place, width, _BAR, end, color=color, label=label)
        end += width
    whole = result.measures["decisions_changed"]
    if whole.low is not None and whole.high is not None:
        axes.hlines(place, whole.low, whole.high, color=style.INK, linewidth=1.2)
    if result.aim is not None:
        color, label = (style.BASELINES[1], "Aim, reached") if result.reached else (_MISSED, "Aim, missed")
        ends = (place - 0.42, place + 0.42)
        axes.vlines(result.aim, *ends, color=color, linewidth=2.4, label=label, zorder=4)


def _draw_point(axes: Axes, place: float, measurement: Measurement) -> None:
    if measurement.value is None:
        return
    if measurement.low is not None and measurement.high is not None:
        axes.hlines(place, measurement.low, measurement.high, color=style.MODEL, linewidth=1.4, alpha=0.6)
    axes.plot(measurement.value, place, "o", color=style.MODEL, markersize=4)


def _finish_bars(axes: Axes, places: list[float], headings: dict[str, float], robustness: Robustness) -> None:
    ends = [one.measures["decisions_changed"] for one in robustness.perturbations]
    largest = max([_FIRST_LIMIT, *(one.high or one.value or 0.0 for one in ends)])
    axes.set_yticks(places, [result.title for result in robustness.perturbations], fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, min(1.0, largest) * 1.04)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(visible=False, axis="y")
    axes.set(title="Decisions changed", xlabel="Share of cells, with interval")
    for group, place in headings.items():
        axes.text(
            0.005, place, group.capitalize(), transform=axes.get_yaxis_transform(), fontsize=8.5,
            fontweight="bold", color=style.MUTED, va="center",
        )  # fmt: skip


def _finish_points(axes: Axes, unchanged: Measurement) -> None:
    axes.tick_params(axis="y", length=0, labelleft=False)
    axes.grid(visible=False, axis="y")
    axes.set(title="ROC AUC", xlabel="ROC AUC with interval")
    if unchanged.value is None:
        axes.set_xticks([])
        note = f"not estimable:\n{unchanged.not_estimable}"
        axes.text(0.5, 0.5, note, transform=axes.transAxes, ha="center", fontsize=8.5, color=style.MUTED)
        return
    axes.axvline(unchanged.value, color=style.MODEL, linewidth=1, linestyle=":")
    axes.set_title(f"ROC AUC\nunchanged {format_measurement(unchanged)}")
