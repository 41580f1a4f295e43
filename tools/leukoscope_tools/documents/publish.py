"""Numbers in documents, rendered from ``report.json`` between markers; a check finds blocks that are out of date.

A block is between two comments, which are not visible on the rendered page::

    <!-- leukoscope: results report=reports/default/report.json -->
    ... written by `python -m leukoscope_tools publish` ...
    <!-- /leukoscope -->

``results``, ``baselines``, ``subjects``, ``points``, ``abstention``, ``slices``, ``runs`` and ``caveats`` take
``report=``; ``finders`` and ``scales`` take that of a finder; ``supplement`` takes ``report=`` and ``name=``, that of
one of its supplements; ``comparison`` takes ``comparison=``; ``literature`` takes nothing; ``value`` is within a line
and takes ``report=``, ``measure=`` and, where wanted, ``level=subject`` or ``level=cell-weighted`` and ``split=``.
``robustness`` takes ``robustness=``, a file of ``leukoscope robustness``, or ``report=``, a report with it.
``conditions``, ``model``,
``backends`` and ``targets`` take ``performance=``, ``stream`` takes ``stream=`` and ``training`` takes
``training=``: files that the benchmark commands wrote. Paths are relative to the document; names
with blanks are in quotation marks.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.core.io import write_text
from leukoscope.evaluation.compare import Comparison, row_of_literature
from leukoscope.evaluation.compare_tables import markdown_row, to_markdown
from leukoscope.evaluation.literature import LITERATURE
from leukoscope.evaluation.split_report import (
    ABSTENTION_MEASURES,
    BASELINE_MEASURES,
    POINT_COLUMNS,
    title_at_half,
)
from leukoscope.evaluation.subgroups import SUBGROUP_MEASURES
from leukoscope.models.finder_card import finder_table, scale_table
from leukoscope.models.finder_manifest import FinderReport
from leukoscope.models.metric_info import MEASURES
from leukoscope.models.report import (
    Measurements,
    Report,
    Robustness,
    SplitReport,
    format_measurement,
    read_report,
)
from leukoscope.models.robustness_table import HEADER, robustness_rows, robustness_text
from leukoscope_tools.benchmark.records import (
    PERFORMANCE_BLOCKS,
    read_performance,
    read_stream,
    render_stream,
)
from leukoscope_tools.benchmark.training_records import read_training_speed, render_training_speed

BLOCK = re.compile(
    r"(?P<open><!-- leukoscope: (?P<what>[a-z]+)(?P<options>[^>]*?) -->)(?P<body>.*?)(?P<close><!-- /leukoscope -->)",
    re.DOTALL,
)
OPENING = re.compile(r"<!-- leukoscope: ")
CODE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*\r?$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
RESULT_NAMES = (
    "roc_auc",
    "roc_auc_mean_of_splits",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "f1_weighted",
    "mcc",
    "brier",
    "ece",
)
SUBJECT_NAMES = ("roc_auc", "accuracy", "sensitivity", "specificity", "f1_weighted")


class StaleError(LeukoscopeError):
    """A document shows other numbers than the report it names."""


@dataclass(frozen=True)
class StaleText:
    """One block whose text differs from its report."""

    path: Path
    line: int
    what: str


def publish(path: Path) -> bool:
    """Render every block of a document; return whether the document changed.

    Raises
    ------
    UsageError
        A block is not closed, is of an unknown kind, lacks an option, or names a measure or split that is not there.
    BundleError
        A report cannot be read.
    """
    old = _read(path)
    new = render_document(old, path)
    if new == old:
        return False
    write_text(path, new)
    return True


def find_stale(path: Path) -> list[StaleText]:
    """Return the blocks of a document that ``publish`` would change."""
    text = _read(path)
    return [
        StaleText(path, text.count("\n", 0, match.start()) + 1, match["what"])
        for match in _blocks(text, path)
        if _render(match, path) != text[match.start("body") : match.end("body")]
    ]


def has_blocks(text: str) -> bool:
    """Return whether a document has a block to render; examples in code do not count."""
    return OPENING.search(_without_code(text)) is not None


def render_document(text: str, path: Path) -> str:
    """Return the text with every block rendered from its report; ``path`` is what paths are relative to."""
    pieces, end = [], 0
    for match in _blocks(text, path):
        pieces += [text[end : match.start("body")], _render(match, path)]
        end = match.end("body")
    return "".join([*pieces, text[end:]])


def _without_code(text: str) -> str:
    """Blank out code, which may show markers as examples; positions do not change."""
    return CODE.sub(lambda match: " " * len(match.group()), text)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text: {error}") from None


def _blocks(text: str, path: Path) -> list[re.Match[str]]:
    text = _without_code(text)
    matches = list(BLOCK.finditer(text))
    nested = next((m for m in matches if OPENING.search(m["body"])), None)
    if nested or len(matches) != len(OPENING.findall(text)):
        what = nested["what"] if nested else "the last one"
        raise UsageError(f"{path}: a block is not closed ({what}); end it with <!-- /leukoscope -->")
    return matches


def _render(match: re.Match[str], path: Path) -> str:
    what, options = match["what"], _options(match["options"], path)
    blocks = _renderers(options, path)
    if what not in blocks:
        raise UsageError(f"{path}: block {what!r} is unknown; known: {', '.join(blocks)}")
    try:
        body = blocks[what]()
    except KeyError as error:
        raise UsageError(
            f"{path}: block {what!r}: {error.args[0]!r} is missing or not in the report"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: block {what!r}: {error}") from None
    return body if what == "value" else f"\n{body}\n"


def _renderers(options: Mapping[str, str], path: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each kind of block."""

    def place(name: str) -> Path:
        return path.parent / options[name]

    return {
        **{name: partial(_of_report, table, options, path) for name, table in TABLES.items()},
        **{
            name: partial(_of_performance, table, options, path) for name, table in PERFORMANCE_BLOCKS.items()
        },
        **{name: partial(_of_finder, table, options, path) for name, table in FINDER_BLOCKS.items()},
        "stream": lambda: render_stream(read_stream(place("stream"))),
        "training": lambda: render_training_speed(read_training_speed(place("training"))),
        "comparison": lambda: to_markdown(Comparison.model_validate_json(place("comparison").read_bytes())),
        "literature": _literature,
        "supplement": lambda: _supplement(_report(options, path), options["name"]),
        "robustness": lambda: _robustness(options, path),
        "value": lambda: _value(_report(options, path), options),
    }


def _of_report(table: Callable[[Report], str], options: Mapping[str, str], path: Path) -> str:
    return table(_report(options, path))


def _of_performance(table: Callable[[Any], str], options: Mapping[str, str], path: Path) -> str:
    return table(read_performance(path.parent / options["performance"]))


def _of_finder(table: Callable[[FinderReport], str], options: Mapping[str, str], path: Path) -> str:
    return table(FinderReport.from_json((path.parent / options["report"]).read_bytes()))


def _options(text: str, path: Path) -> Mapping[str, str]:
    pairs = [word.partition("=") for word in shlex.split(text)]
    if not all(separator for _, separator, _ in pairs):
        raise UsageError(f"{path}: {text.strip()!r}: expected name=value")
    return {name: value for name, _, value in pairs}


def _report(options: Mapping[str, str], path: Path) -> Report:
    return read_report(path.parent / options["report"])


def _value(report: Report, options: Mapping[str, str]) -> str:
    splits = {split.name: split for split in report.columns()}
    split = splits[options["split"]] if "split" in options else report.headline
    levels = {"subject": split.subject_mean, "cell-weighted": split.cell_weighted}
    level = levels.get(options.get("level", ""), split.cell) or split.cell
    name = options["measure"]
    return format_measurement(level.measures[name], percent=MEASURES[name].percent)


def _columns_table(titles: list[str], columns: list[Measurements], names: tuple[str, ...]) -> str:
    lines = [markdown_row(["", *titles]), "|---" * (len(titles) + 1) + "|"]
    for name in names:
        if any(name in measures for measures in columns):
            words = MEASURES[name]
            texts = [format_measurement(m[name], percent=words.percent) if name in m else "" for m in columns]
            lines.append(markdown_row([words.title, *texts]))
    return "\n".join(lines)


def _title(split: SplitReport) -> str:
    test = split.parts["test"]
    warning = "**leaks**, " if split.leaks else ""
    return f"{split.name} ({warning}{test.cells:,} cells, {test.subjects} subjects)"


def _results(report: Report) -> str:
    columns = [
        (f"{_title(split)}, {title}", measures)
        for split in report.columns()
        for title, measures in split.cell_levels()
    ]
    return _columns_table(
        [title for title, _ in columns], [measures for _, measures in columns], RESULT_NAMES
    )


def _subjects(report: Report) -> str:
    columns = list(report.columns())
    return _columns_table(
        [_title(s) for s in columns], [s.subject_mean.measures for s in columns], SUBJECT_NAMES
    )


def _baselines(report: Report) -> str:
    split = report.headline
    lines = [
        markdown_row([_title(split), *(title_at_half(n) for n in BASELINE_MEASURES)]),
        "|---" * (len(BASELINE_MEASURES) + 1) + "|",
        markdown_row(["Model", *_texts(split.at_half, BASELINE_MEASURES)]),
    ]
    for baseline in split.baselines:
        lines.append(markdown_row([baseline.title, *_texts(baseline.measures, BASELINE_MEASURES)]))
        texts = _texts(baseline.differences, BASELINE_MEASURES, signed=True)
        lines.append(markdown_row([f"model minus {baseline.title.lower()}", *texts]))
    if split.area_matched:
        matched = format_measurement(split.area_matched.roc_auc)
        lines.append(
            markdown_row(["Model, pairs of equal area", matched, *[""] * (len(BASELINE_MEASURES) - 1)])
        )
    return "\n".join(lines)


def _points(report: Report) -> str:
    lines = [
        markdown_row(
            ["Split", "Operating point", "Rule", "Threshold", *(MEASURES[n].title for n in POINT_COLUMNS)]
        ),
        "|---" * (len(POINT_COLUMNS) + 4) + "|",
    ]
    for split in report.columns():
        for point in split.operating_points:
            title = f"{point.name}{' (default)' if point.default else ''}"
            threshold = "by split" if point.threshold is None else f"{point.threshold:.3f}"
            lines.append(
                markdown_row(
                    [split.name, title, point.rule, threshold, *_texts(point.measures, POINT_COLUMNS)]
                )
            )
    return "\n".join(lines)


def _abstention(report: Report) -> str:
    scored = [(split, split.abstention) for split in report.columns() if split.abstention is not None]
    return _columns_table(
        [_title(split) for split, _ in scored], [one.measures for _, one in scored], ABSTENTION_MEASURES
    )


def _supplement(report: Report, name: str) -> str:
    supplements = {supplement.name: supplement for supplement in report.supplements}
    measures = supplements[name].measures
    lines = [markdown_row(["", "value", "cells", "subjects"]), "|---" * 4 + "|"]
    for key, measurement in measures.items():
        subjects = str(measurement.n_subjects) if measurement.n_subjects else ""
        words = key.replace("_", " ")
        lines.append(
            markdown_row([words, format_measurement(measurement), f"{measurement.n_cells:,}", subjects])
        )
    return "\n".join(lines)


def _robustness(options: Mapping[str, str], path: Path) -> str:
    if "report" in options:
        robustness = _report(options, path).robustness
    else:
        robustness = Robustness.model_validate_json((path.parent / options["robustness"]).read_bytes())
    if robustness is None:
        raise KeyError("robustness")
    rows = [HEADER, *(row.texts for row in robustness_rows(robustness))]
    lines = [markdown_row(row) for row in rows]
    return "\n".join([robustness_text(robustness), "", lines[0], "|---" * len(HEADER) + "|", *lines[1:]])


def _slices(report: Report) -> str:
    lines = [
        markdown_row(["Slice", "Cells", "Subjects", *(MEASURES[n].title for n in SUBGROUP_MEASURES)]),
        "|---" * (len(SUBGROUP_MEASURES) + 3) + "|",
    ]
    for group in report.headline.subgroups:
        texts = _texts(group.measures, SUBGROUP_MEASURES)
        lines.append(
            markdown_row(
                [f"{group.dimension}: {group.name}", f"{group.cells:,}", str(group.subjects), *texts]
            )
        )
    return "\n".join(lines)


def _runs(report: Report) -> str:
    header = ["Run", "Split", "Protocol", "Network", "Initial weights", "Configuration", "Commit"]
    lines = [markdown_row(header), "|---" * len(header) + "|"]
    for run in report.runs:
        protocol = f"{run.protocol}{' (leaks)' if run.leaks else ''}"
        facts = [
            run.architecture or "",
            run.initial_weights or "",
            run.config_sha256[:8],
            (run.git_commit or "")[:10],
        ]
        lines.append(markdown_row([run.name, run.split, protocol, *facts]))
    return "\n".join(lines)


def _caveats(report: Report) -> str:
    return "\n".join(f"- {sentence}" for sentence in (*report.caveats, *report.protocol, report.notice))


def _literature() -> str:
    rows = [row_of_literature(index) for index in range(len(LITERATURE))]
    return to_markdown(Comparison(rows=tuple(rows)))


def _texts(measures: Measurements, names: tuple[str, ...], *, signed: bool = False) -> list[str]:
    return [
        format_measurement(measures[name], percent=MEASURES[name].percent, signed=signed)
        if name in measures
        else ""
        for name in names
    ]


FINDER_BLOCKS: Mapping[str, Callable[[FinderReport], str]] = {
    "finders": finder_table,
    "scales": scale_table,
}
TABLES: Mapping[str, Callable[[Report], str]] = {
    "results": _results,
    "baselines": _baselines,
    "subjects": _subjects,
    "points": _points,
    "abstention": _abstention,
    "slices": _slices,
    "runs": _runs,
    "caveats": _caveats,
}
