"""The curves of a run as pictures: loss, accuracy, AUC and learning rate by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leukoscope.core.io import replacing

PANELS = (
    ("Loss", "loss", "validation_loss"),
    ("Accuracy by cell", "accuracy", "validation_accuracy"),
    ("AUC by cell", "auc", "validation_auc"),
    ("Learning rate", "learning_rate", None),
)
_TRAIN, _VALIDATION = "#1f5fa8", "#c8501e"


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the history of one model.

    Parameters
    ----------
    history
        Records of ``log.jsonl`` of one model, in order.
    path
        PNG to write.
    title
        Title above the panels.
    """
    figure = Figure(figsize=(11, 6.4), dpi=110)
    figure.subplots_adjust(0.06, 0.08, 0.985, 0.9, hspace=0.34, wspace=0.14)
    for axes, (label, trained, validated) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        _draw_line(
            axes, history, trained, color=_TRAIN, label="training, as augmented" if validated else None
        )
        if validated is not None and any(record[validated] is not None for record in history):
            _draw_line(axes, history, validated, color=_VALIDATION, label="validation")
        _mark_stages(axes, history)
        axes.set(title=label, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if validated is None:
            axes.set_yscale("log" if all(record["learning_rate"] > 0 for record in history) else "linear")
        elif axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    figure.suptitle(title)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _draw_line(
    axes: Axes, history: Sequence[Mapping[str, Any]], key: str, *, color: str, label: str | None
) -> None:
    values = [float("nan") if record[key] is None else float(record[key]) for record in history]
    axes.plot(
        range(1, len(values) + 1), values, color=color, marker="o", markersize=3, linewidth=1.6, label=label
    )


def _mark_stages(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    for index in range(1, len(history)):
        if history[index]["stage"] != history[index - 1]["stage"]:
            axes.axvline(index + 0.5, color="0.6", linewidth=1, linestyle="--")
