"""A comparison as Markdown, HTML, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from html import escape

from leukoscope.core.terms import RESEARCH_USE
from leukoscope.evaluation.compare import COMPARED, Comparison, ComparisonRow
from leukoscope.evaluation.literature import SPLIT_TEXTS
from leukoscope.evaluation.split_report import title_at_half
from leukoscope.models.metric_info import MEASURES, format_value
from leukoscope.models.report import Measurement, format_measurement

SUBTRACTED = ("roc_auc", "accuracy")
"""Measures whose difference to the first run is a column; all differences are in the JSON and the CSV."""
COST_TITLES = ("Parameters", "GFLOPs", "Training, s", "ms / image", "Memory, MB")


def table_rows(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and the rows as texts, without empty columns."""

    def number(value: float | None, pattern: str) -> str:
        return "" if value is None else pattern.format(value)

    rows = [
        (
            row.name,
            row.architecture or "",
            row.split.value,
            row.test_set,
            *(_measure_text(row.measures.get(name), name) for name in COMPARED),
            *(_difference_text(row, name) for name in SUBTRACTED),
            number(row.parameters and row.parameters / 1e6, "{:.1f} M"),
            number(row.flops and row.flops / 1e9, "{:.2f}"),
            number(row.training_seconds, "{:,.0f}"),
            number(row.milliseconds_per_image, "{:.1f}"),
            number(row.peak_memory_mb, "{:,.0f}"),
            row.source,
        )
        for row in comparison.rows
    ]
    # Published results use other thresholds.
    measured = any(row.kind != "published" for row in comparison.rows)
    titles = [title_at_half(name) if measured else MEASURES[name].title for name in COMPARED]
    minus = [f"{MEASURES[name].title} minus first run" for name in SUBTRACTED]
    header = ("Model", "Architecture", "Split", "Test set", *titles, *minus, *COST_TITLES, "Source")
    filled = [number for number in range(len(header)) if any(row[number] for row in rows)]
    return tuple(header[number] for number in filled), [
        tuple(row[number] for number in filled) for row in rows
    ]


def _measure_text(value: Measurement | float | None, name: str) -> str:
    if value is None:
        return ""
    percent = MEASURES[name].percent
    if isinstance(value, float):
        return format_value(value, percent=percent)
    return format_measurement(value, percent=percent)


def _difference_text(row: ComparisonRow, name: str) -> str:
    difference = row.differences.get(name)
    return (
        ""
        if difference is None
        else format_measurement(difference, percent=MEASURES[name].percent, signed=True)
    )


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


def to_csv(comparison: Comparison) -> str:
    """Return one row per model with numbers only: value, ``_low``, ``_high`` of each measure and difference."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    figures = [*COMPARED, *(f"{name}_difference" for name in COMPARED)]
    costs = ("parameters", "flops", "training_seconds", "milliseconds_per_image", "peak_memory_mb")
    texts = ("kind", "name", "architecture", "split", "test_set")
    spread = [column for name in figures for column in (name, f"{name}_low", f"{name}_high")]
    writer.writerow([*texts, *spread, "compared_with", *costs, "source", "note"])
    for row in comparison.rows:
        values = [row.measures.get(name) for name in COMPARED] + [
            row.differences.get(name) for name in COMPARED
        ]
        writer.writerow(
            [
                *(row.kind, row.name, row.architecture or "", row.split.value, row.test_set),
                *(number for value in values for number in _numbers(value)),
                row.compared_with or "",
                *("" if (cost := getattr(row, name)) is None else cost for name in costs),
                row.source,
                row.note,
            ]
        )
    return file.getvalue()


def _numbers(value: Measurement | float | None) -> tuple[float | str, float | str, float | str]:
    if value is None or isinstance(value, float):
        return ("" if value is None else value, "", "")
    figures = (value.value, value.low, value.high)
    first, low, high = ("" if figure is None else figure for figure in figures)
    return first, low, high


def to_latex(comparison: Comparison) -> str:
    """Return the table for LaTeX, with the rules of the package ``booktabs``."""
    header, rows = table_rows(comparison)
    lines = [f"\\begin{{tabular}}{{{'l' * len(header)}}}", "\\toprule", _latex_row(header), "\\midrule"]
    lines += [*map(_latex_row, rows), "\\bottomrule", "\\end{tabular}"]
    notes = [f"% {comparison.caveat}", f"% {comparison.notice}"]
    return "\n".join([*notes, *lines]) + "\n"


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(" ".join(cell.split()).translate(_LATEX) for cell in cells) + r" \\"


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
td {{ min-width: 6rem; }}
tr.leaking, tr.not_stated {{ color: #6b7280; }}
tr.leaking td {{ color: #b42318; }}
.notice {{ font-weight: 600; border-left: 4px solid #1b3a57; padding: .3rem .8rem; background: #f3f6fa; }}
</style></head><body><h1>Comparison</h1><p class="notice">{notice}</p><p>{caveat}</p><ul>{legend}</ul>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></body></html>
"""
