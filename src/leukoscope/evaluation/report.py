"""Writing a report: ``report.json``, the figures, and one self-contained HTML file."""

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from leukoscope.core.io import write_bytes
from leukoscope.evaluation.classes_table import ALL_NAMES, CLASS_NAMES
from leukoscope.evaluation.figure_style import render
from leukoscope.evaluation.figures import CAPTIONS, DRAWINGS, draw_all
from leukoscope.evaluation.split_report import (
    ABSTENTION_MEASURES,
    BASELINE_MEASURES,
    POINT_COLUMNS,
    title_at_half,
)
from leukoscope.evaluation.subgroups import SUBGROUP_MEASURES
from leukoscope.models.metric_info import MEASURES, NOT_ESTIMABLE, MetricInfo, format_value
from leukoscope.models.report import (
    CellCase,
    Measurement,
    Measurements,
    Report,
    SplitReport,
    format_measurement,
    write_report,
)
from leukoscope.models.robustness_table import HEADER, TITLE, robustness_rows, robustness_text

CELL_NAMES = (
    "roc_auc",
    "roc_auc_delong",
    "roc_auc_mean_of_splits",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1_blast",
    "f1_normal",
    "f1_weighted",
    "mcc",
    "brier",
    "ece",
    "sensitivity_at_specificity_90",
    "sensitivity_at_specificity_95",
    "specificity_at_sensitivity_90",
    "specificity_at_sensitivity_95",
)
SUBJECT_NAMES = tuple(n for n in CELL_NAMES if n not in {"roc_auc_mean_of_splits", "ece"} and "_at_" not in n)
OUTPUT_NAMES = ("report.json", "report.html", "figures")
"""What ``write_outputs`` writes into a folder."""
WIDE_FIGURES = ("baselines", "confusion", "subjects", "subgroups")


@dataclass(frozen=True)
class CellPicture:
    """A cell, and its heat map where there is one, as PNG bytes."""

    image: bytes
    heat_map: bytes | None = None


def write_outputs(
    report: Report,
    folder: Path,
    pictures: Mapping[str, CellPicture] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write ``report.json``, ``report.html`` and ``figures/<split>/<name>.svg`` and ``.png``.

    Parameters
    ----------
    pictures
        By cell key, for the galleries; cells without an image are only in the tables.
    progress
        Called with the name of each step.

    Returns
    -------
    list of Path
        The files written.
    """
    write_report(report, folder / "report.json")
    written = [folder / "report.json"]
    figures: dict[str, dict[str, bytes]] = {}
    for split in report.columns():
        progress(f"{split.name}: figures")
        figures[split.name] = {}
        for name, figure in draw_all(split).items():
            figures[split.name][name] = render(figure, "svg")
            place = folder / "figures" / slug(split.name) / name
            written += [_write(place.with_suffix(".svg"), figures[split.name][name])]
            written += [_write(place.with_suffix(".png"), render(figure, "png"))]
    progress("report.html")
    page = render_html(report, figures, pictures)
    return [*written, _write(folder / "report.html", page.encode("utf-8"))]


def render_html(
    report: Report,
    figures: Mapping[str, Mapping[str, bytes]],
    pictures: Mapping[str, CellPicture] | None = None,
) -> str:
    """Return the report as one HTML page with its figures inside.

    Parameters
    ----------
    figures
        SVG bytes by split name and figure name.
    pictures
        By cell key.
    """
    environment = Environment(
        loader=PackageLoader("leukoscope.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "interval": _interval,
        "whole": lambda m, name: format_measurement(m, percent=metric_info(name).percent),
        "named": lambda name: metric_info(name).title,
    }
    encoded = {
        key: (_base64(p.image), _base64(p.heat_map) if p.heat_map else None)
        for key, p in (pictures or {}).items()
    }
    columns = list(report.columns())
    default = next((p for p in report.headline.operating_points if p.default), None)
    levels = [
        (f"{split.name}, {title}", measures) for split in columns for title, measures in split.cell_levels()
    ]
    return environment.get_template("report.html.j2").render(
        report=report,
        columns=columns,
        headline=report.headline,
        ordered=[report.headline, *(s for s in columns if s is not report.headline)],
        figures={split: {n: _base64(svg) for n, svg in drawn.items()} for split, drawn in figures.items()},
        figure_names=list(DRAWINGS),
        captions=CAPTIONS,
        wide=WIDE_FIGURES,
        words=MEASURES,
        not_estimable=NOT_ESTIMABLE,
        default_rule=default.rule if default else "none",
        cell_columns=levels,
        cell_names=_present(CELL_NAMES, (measures for _, measures in levels)),
        subject_columns=[
            (f"{split.name}, {words}", level.measures)
            for split in columns
            for words, level in (("mean logit", split.subject_mean), ("majority", split.subject_majority))
        ],
        subject_names=SUBJECT_NAMES,
        baseline_names=BASELINE_MEASURES,
        title_at_half=title_at_half,
        point_names=POINT_COLUMNS,
        subgroup_names=SUBGROUP_MEASURES,
        class_columns={
            split.name: [(entry.title, entry.measures) for entry in split.classes.classes]
            for split in columns
            if split.classes
        },
        class_names=CLASS_NAMES,
        all_class_names=ALL_NAMES,
        abstention_columns=[(s.name, s.abstention.measures) for s in columns if s.abstention],
        abstention_names=ABSTENTION_MEASURES,
        robustness=_robustness(report),
        pictures=encoded,
        pictured=lambda split_cases: any(case.cell in encoded for case in split_cases),
    )


def cells_to_picture(report: Report) -> list[CellCase]:
    """Return the cells that the galleries of the page want pictures of, each once."""
    wanted: dict[str, CellCase] = {}
    shown: Iterable[SplitReport] = [report.headline] if report.pooled else report.splits
    for split in shown:
        for case in (*split.worst_errors, *split.label_suspects):
            wanted.setdefault(case.cell, case)
    return list(wanted.values())


def metric_info(name: str) -> MetricInfo:
    """Return the words of a measure; a supplement's own name explains itself."""
    return MEASURES.get(name) or MetricInfo(title=name.replace("_", " "), explanation="")


def slug(name: str) -> str:
    """Return a name that is good as a folder name: lower-case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "split"


def _robustness(report: Report) -> dict[str, Any] | None:
    if report.robustness is None:
        return None
    rows, text = robustness_rows(report.robustness), robustness_text(report.robustness)
    return {"title": TITLE, "text": text, "header": HEADER, "rows": rows}


def _present(names: Iterable[str], columns: Iterable[Measurements]) -> list[str]:
    held = {name for measures in columns for name in measures}
    return [name for name in names if name in held]


def _figure(measurement: Measurement, name: str, signed: bool = False) -> str:
    if measurement.value is None:
        return NOT_ESTIMABLE
    return format_value(measurement.value, percent=metric_info(name).percent, signed=signed)


def _interval(measurement: Measurement, name: str, signed: bool = False) -> str:
    ends: list[Any] = [
        format_value(end, percent=metric_info(name).percent, signed=signed).removesuffix(" %")
        for end in (measurement.low, measurement.high)
        if end is not None
    ]
    return f"{ends[0]} to {ends[1]}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _write(path: Path, content: bytes) -> Path:
    write_bytes(path, content)
    return path
