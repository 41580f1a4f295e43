"""Figures with one row per subject, slice or baseline."""

from matplotlib.figure import Figure

from leukoscope.evaluation import figure_style as style
from leukoscope.models.report import Measurement, SplitReport, format_measurement

_ROW_INCHES = 0.24


def draw_subjects(split: SplitReport) -> Figure | None:
    """Draw the accuracy of every subject, lowest first within its class."""
    rows = sorted(split.subjects, key=lambda row: (row.label, row.accuracy, row.subject))
    if not rows:
        return None
    figure, axes = style.new_figure((8.6, 1.3 + _ROW_INCHES * len(rows)))
    seen = set()
    for place, row in enumerate(rows):
        color = {"blast": style.BLAST, "normal": style.NORMAL}.get(row.label, style.MUTED)
        label = {"blast": "Blasts", "normal": "Normal cells"}.get(row.label, "Both classes")
        axes.hlines(place, row.low, row.high, color=color, linewidth=1.4, alpha=0.6)
        axes.plot(
            row.accuracy,
            place,
            "o",
            color=color,
            markersize=3.5 + min(4.0, row.cells / 100),
            label=None if row.label in seen else label,
        )
        seen.add(row.label)
    axes.axvline(0.5, color=style.MUTED, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(rows)), [f"{row.subject}  ({row.cells} cells)" for row in rows], fontsize=8)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    style.unit_axes(axes, y=False)
    figure.legend(loc="outside lower center", ncols=3)
    axes.set(title="Right calls by subject", xlabel="Share of the subject's cells called right")
    return figure


def draw_subgroups(split: SplitReport) -> Figure | None:
    """Draw a forest plot: AUC and balanced accuracy of every slice, the whole on top."""
    rows: list[tuple[str, dict[str, Measurement]]] = [("All cells", split.cell.measures)]
    rows += [
        (f"{group.dimension}: {group.name}  ({group.cells:,} / {group.subjects})", group.measures)
        for group in split.subgroups
    ]
    if len(rows) == 1:
        return None
    figure, axes = style.new_figure((8.6, 1.2 + 1.35 * _ROW_INCHES * len(rows)))
    for offset, name, color, label in (
        (0.14, "roc_auc", style.MODEL, "ROC AUC"),
        (-0.14, "balanced_accuracy", style.BASELINES[1], "Balanced accuracy"),
    ):
        for place, (_, measures) in enumerate(rows):
            _forest_row(
                figure,
                len(rows) - 1 - place + offset,
                measures.get(name),
                color,
                label if place == 0 else None,
            )
    whole = split.cell.measures["roc_auc"].value
    if whole is not None:
        axes.axvline(whole, color=style.MODEL, linewidth=0.8, linestyle=":")
    axes.axvline(0.5, color=style.MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlim(min([0.4, *_ends(rows)]), 1.02)
    figure.legend(loc="outside lower center", ncols=2)
    axes.set(title="Slices of the test part (cells / subjects)", xlabel="Measure with interval")
    return figure


def draw_baselines(split: SplitReport) -> Figure | None:
    """Draw AUC of model and baselines with intervals, and the paired differences."""
    if not split.baselines:
        return None
    rows: list[tuple[str, Measurement, Measurement | None]] = [
        ("Model", split.cell.measures["roc_auc"], None)
    ]
    rows += [(b.title, b.measures["roc_auc"], b.differences.get("roc_auc")) for b in split.baselines]
    if split.area_matched is not None:
        rows.append(("Model, pairs of equal area", split.area_matched.roc_auc, None))
    figure, axes = style.new_figure((8.6, 0.9 + 0.42 * len(rows)))
    lowest = 0.45
    for place, (_, measurement, difference) in enumerate(reversed(rows)):
        color = style.BASELINES[1] if difference is not None else style.MODEL
        _forest_row(figure, place, measurement, color, None)
        text = format_measurement(measurement)
        if difference is not None and difference.value is not None:
            text += f"   model {format_measurement(difference, signed=True)}"
        axes.text(
            1.02,
            place,
            text,
            va="center",
            fontsize=8.5,
            color=style.INK,
            transform=axes.get_yaxis_transform(),
        )
        lowest = min([lowest, *(end for end in (measurement.low, measurement.value) if end is not None)])
    axes.axvline(0.5, color=style.MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(lowest - 0.02, 1.01)
    axes.set(title="Model and baselines, cells", xlabel="ROC AUC with interval")
    return figure


def _forest_row(
    figure: Figure, place: float, measurement: Measurement | None, color: str, label: str | None
) -> None:
    if measurement is None or measurement.value is None:
        return
    axes = figure.axes[0]
    if measurement.low is not None and measurement.high is not None:
        axes.hlines(place, measurement.low, measurement.high, color=color, linewidth=1.6, alpha=0.6)
    axes.plot(measurement.value, place, "o", color=color, markersize=4.5, label=label)


def _ends(rows: list[tuple[str, dict[str, Measurement]]]) -> list[float]:
    return [
        end - 0.02
        for _, measures in rows
        for name in ("roc_auc", "balanced_accuracy")
        if name in measures and (end := measures[name].low) is not None
    ]
