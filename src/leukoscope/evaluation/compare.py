"""Runs, architectures, baselines and the literature in one table that never hides what kind of split a row has."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from leukoscope.core.terms import RESEARCH_USE
from leukoscope.evaluation.literature import LITERATURE, SPLIT_TEXTS, SplitKind
from leukoscope.evaluation.metrics_table import Context, measure_some
from leukoscope.evaluation.protocol import record_run
from leukoscope.evaluation.scored_split import fit_rules, score_run
from leukoscope.evaluation.scores import Run, read_run
from leukoscope.evaluation.split_report import EvaluationSettings, predict_at_half, title_at_half
from leukoscope.models.metric_info import MEASURES, format_value
from leukoscope.models.report import Measurement, Report, RunRecord, format_measurement, read_report

COMPARED = ("accuracy", "f1_weighted", "roc_auc", "ece")


class ComparisonRow(BaseModel):
    """One row: a run, a pooled estimate, a baseline or a published figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["run", "baseline", "published"]
    name: str
    split: SplitKind
    test_set: str
    measures: dict[str, Measurement | float]
    parameters: int | None = None
    flops: float | None = None
    training_seconds: float | None = None
    milliseconds_per_image: float | None = None
    peak_memory_mb: float | None = None
    source: str = ""
    note: str = ""


class Comparison(BaseModel):
    """The whole table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notice: str = RESEARCH_USE
    caveat: str = (
        "Only rows of the same kind of split and the same test set can be compared. Rows from the literature were "
        "measured elsewhere, mostly without intervals and at thresholds of their own."
    )
    rows: tuple[ComparisonRow, ...]


def compare(
    sources: Sequence[Path], *, literature: bool = True, settings: EvaluationSettings | None = None
) -> Comparison:
    """Put runs side by side.

    Parameters
    ----------
    sources
        Run folders (measured anew), ``report.json`` files, or folders that hold one.
    literature
        Add the published figures.

    Raises
    ------
    LeukoscopeError
        A source is neither a finished run nor a report.
    """
    settings = settings or EvaluationSettings()
    rows: list[ComparisonRow] = []
    for source in sources:
        report = _report_at(source)
        rows += rows_of_report(report) if report else [row_of_run(read_run(source), settings)]
    if literature:
        rows += [row_of_literature(index) for index in range(len(LITERATURE))]
    order = {SplitKind.SUBJECT_DISJOINT: 0, SplitKind.NOT_STATED: 1, SplitKind.LEAKING: 2}
    kinds = {"run": 0, "baseline": 1, "published": 2}
    return Comparison(rows=tuple(sorted(rows, key=lambda row: (order[row.split], kinds[row.kind]))))


def row_of_run(run: Run, settings: EvaluationSettings) -> ComparisonRow:
    """Measure the cells of one run; its calibration is that of its own validation rows."""
    scored = score_run(run, fit_rules(run), {})
    context = Context(run.split, settings.bootstrap, settings.bins)
    measures = measure_some(predict_at_half(scored.rows), context, COMPARED)
    test = scored.parts["test"]
    return ComparisonRow(
        kind="run",
        name=run.name,
        split=SplitKind.LEAKING if run.leaks else SplitKind.SUBJECT_DISJOINT,
        test_set=f"{run.split}: {test.cells:,} cells of {test.subjects} subjects",
        measures=dict(measures),
        source=f"configuration {run.hashes['config.toml'][:8]}",
        **_costs([record_run(run)]),
    )


def rows_of_report(report: Report) -> list[ComparisonRow]:
    """Take the headline of a report and its baselines."""
    split = report.headline
    kind = SplitKind.LEAKING if split.leaks else SplitKind.SUBJECT_DISJOINT
    test = split.parts["test"]
    test_set = f"{split.name}: {test.cells:,} cells of {test.subjects} subjects"
    chosen = {
        name: (split.at_half if name in split.at_half else split.cell.measures)[name] for name in COMPARED
    }
    rows = [
        ComparisonRow(
            kind="run",
            name=report.title,
            split=kind,
            test_set=test_set,
            measures=dict(chosen),
            **_costs(report.runs),
        )
    ]
    for baseline in split.baselines:
        held = {name: baseline.measures[name] for name in COMPARED if name in baseline.measures}
        rows.append(
            ComparisonRow(
                kind="baseline",
                name=f"{baseline.title} (baseline)",
                split=kind,
                test_set=test_set,
                measures=dict(held),
                note=baseline.description,
            )
        )
    return rows


def row_of_literature(index: int) -> ComparisonRow:
    """Return one published row."""
    published = LITERATURE[index]
    figures = {name: getattr(published, name) for name in COMPARED}
    return ComparisonRow(
        kind="published",
        name=published.name + (f", {published.year}" if published.year else ""),
        split=published.split,
        test_set=published.test_set,
        measures={name: value for name, value in figures.items() if value is not None},
        source=published.source,
        note=published.note,
    )


def _costs(runs: Sequence[RunRecord]) -> dict[str, float | int | None]:
    """Costs of one run; over several runs the training times add up and the largest of the rest stands."""

    def known(name: str) -> list[float]:
        return [value for run in runs if (value := getattr(run, name)) is not None]

    seconds = known("training_seconds")
    result: dict[str, float | int | None] = {"training_seconds": math.fsum(seconds) if seconds else None}
    for name in ("parameters", "flops", "milliseconds_per_image", "peak_memory_mb"):
        result[name] = max(known(name), default=None)
    return result


def _report_at(source: Path) -> Report | None:
    if source.is_file():
        return read_report(source)
    if (source / "report.json").is_file() and not (source / "scores.csv").is_file():
        return read_report(source / "report.json")
    return None


COST_TITLES = ("Parameters", "GFLOPs", "Training, s", "ms / image", "Memory, MB")


def table_rows(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows as texts, without columns in which no row has anything to say."""

    def number(value: float | None, pattern: str) -> str:
        return "" if value is None else pattern.format(value)

    rows = [
        (
            row.name,
            row.split.value,
            row.test_set,
            *(_measure_text(row.measures.get(name), name) for name in COMPARED),
            number(row.parameters and row.parameters / 1e6, "{:.1f} M"),
            number(row.flops and row.flops / 1e9, "{:.2f}"),
            number(row.training_seconds, "{:,.0f}"),
            number(row.milliseconds_per_image, "{:.1f}"),
            number(row.peak_memory_mb, "{:,.0f}"),
            row.source,
        )
        for row in comparison.rows
    ]
    # What others published was called at thresholds of their own.
    measured = any(row.kind != "published" for row in comparison.rows)
    titles = [title_at_half(name) if measured else MEASURES[name].title for name in COMPARED]
    header = ("Model", "Split", "Test set", *titles, *COST_TITLES, "Source")
    told = [number for number in range(len(header)) if any(row[number] for row in rows)]
    return tuple(header[number] for number in told), [tuple(row[number] for number in told) for row in rows]


def _measure_text(value: Measurement | float | None, name: str) -> str:
    if value is None:
        return ""
    percent = MEASURES[name].percent
    if isinstance(value, float):
        return format_value(value, percent=percent)
    return format_measurement(value, percent=percent)


def to_markdown(comparison: Comparison) -> str:
    """Return the table as Markdown."""
    header, rows = table_rows(comparison)
    lines = [markdown_row(header), "|" + "---|" * len(header), *(markdown_row(cells) for cells in rows)]
    return "\n".join([*lines, "", f"{comparison.caveat} {comparison.notice}"])


def to_html(comparison: Comparison) -> str:
    """Return the table as one HTML page."""
    header, rows = table_rows(comparison)
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join(
        f'<tr class="{row.split.name.lower()} {row.kind}" title="{escape(row.note)}">'
        + "".join(f"<td>{escape(text)}</td>" for text in cells)
        + "</tr>"
        for row, cells in zip(comparison.rows, rows, strict=True)
    )
    legend = "".join(f"<li><b>{kind.value}</b>: {escape(words)}</li>" for kind, words in SPLIT_TEXTS.items())
    return _PAGE.format(
        head=head, body=body, legend=legend, caveat=escape(comparison.caveat), notice=RESEARCH_USE
    )


def markdown_row(cells: Sequence[str]) -> str:
    """Return one Markdown table row; a bar within a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison</title><style>
body {{ font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; color: #1f2937; margin: 1.5rem; }}
h1 {{ color: #1b3a57; font-size: 1.4rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #e5e7eb; vertical-align: top; }}
thead th {{ border-bottom: 2px solid #6b7280; }}
td:first-child {{ font-weight: 600; min-width: 13rem; }}
td:nth-child(2) {{ white-space: nowrap; }}
td:nth-child(3) {{ min-width: 12rem; }}
td:nth-child(n+4):nth-child(-n+7) {{ min-width: 7.2rem; }}
tr.leaking, tr.not_stated {{ color: #6b7280; }}
tr.leaking td:nth-child(2) {{ color: #b42318; font-weight: 600; }}
.notice {{ font-weight: 600; border-left: 4px solid #1b3a57; padding: .3rem .8rem; background: #f3f6fa; }}
</style></head><body><h1>Comparison</h1><p class="notice">{notice}</p><p>{caveat}</p><ul>{legend}</ul>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></body></html>
"""
