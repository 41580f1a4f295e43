"""The table of ``robustness.json``, for cards, reports, documents and the terminal: text only."""

from typing import NamedTuple

from leukoscope.models.report import Measurement, Robustness, format_measurement

TITLE = "Small changes of the image"
UNCHANGED = "unchanged"
HEADER = (
    "Change of the image",
    "Decisions changed",
    "Aim",
    "Aim reached",
    "Called as another class",
    "Calls changed",
    "Rejected",
    "ROC AUC",
    "AUC minus unchanged",
    "Logit moved by",
)


class TableRow(NamedTuple):
    """One row: the group of the change, and one text per column of ``HEADER``."""

    group: str
    texts: tuple[str, ...]


def robustness_rows(robustness: Robustness) -> list[TableRow]:
    """Return the rows of the table; the first is of the unchanged cells."""
    before = robustness.unchanged
    rows = [
        TableRow("", (UNCHANGED, *[""] * 5, _share(before["rejected"]), _plain(before["roc_auc"]), "", ""))
    ]
    for result in robustness.perturbations:
        measures = result.measures
        texts = (
            result.title,
            _share(measures["decisions_changed"]),
            "" if result.aim is None else f"{result.aim * 100:.0f} % at most",
            "" if result.reached is None else "yes" if result.reached else "no",
            _share(measures["decisions_reversed"]),
            _share(measures["calls_changed"]),
            _share(measures["rejected"]),
            _plain(measures["roc_auc"]),
            format_measurement(measures["roc_auc_change"], signed=True),
            _plain(measures["logit_change"]),
        )
        rows.append(TableRow(result.group, texts))
    return rows


def aims_reached(robustness: Robustness) -> tuple[int, int]:
    """Return how many aims were reached, and how many there are."""
    aims = [result.reached for result in robustness.perturbations if result.reached is not None]
    return sum(aims), len(aims)


def robustness_text(robustness: Robustness) -> str:
    """Return the sentences above the table: cells, model, weights of subjects, training set."""
    people = f" of {robustness.subjects} subjects" if robustness.subjects else ""
    counted = "each subject has the same weight" if robustness.subjects else "each cell has the same weight"
    fold = f" of {robustness.fold}" if robustness.fold else ""
    reached, aims = aims_reached(robustness)
    return " ".join(
        [
            f"{robustness.model} {robustness.model_version} on {robustness.cells:,} cells{people}{fold}; {counted}.",
            f"Aims reached: {reached} of {aims}.",
            *robustness.remarks,
        ]
    )


def _share(measurement: Measurement) -> str:
    return format_measurement(measurement, percent=True)


def _plain(measurement: Measurement) -> str:
    return format_measurement(measurement)
