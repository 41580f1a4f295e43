"""Runs, architectures, baselines and the literature in one table, each row with its kind of split."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from leukoscope.core.terms import RESEARCH_USE
from leukoscope.evaluation.literature import LITERATURE, SplitKind
from leukoscope.evaluation.metrics_table import Context, measure_some, statistics
from leukoscope.evaluation.protocol import record_run
from leukoscope.evaluation.scored_split import ScoredSplitCells, fit_rules, score_run
from leukoscope.evaluation.scores import Run, read_run
from leukoscope.evaluation.split_report import EvaluationSettings, predict_at_half
from leukoscope.models.report import Measurement, Report, RunRecord, read_report

COMPARED = ("accuracy", "f1_weighted", "roc_auc", "ece")


class ComparisonRow(BaseModel):
    """One row: a run, a pooled estimate, a baseline or a published figure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["run", "baseline", "published"]
    name: str
    split: SplitKind
    test_set: str
    measures: dict[str, Measurement | float]
    architecture: str | None = None
    compared_with: str | None = Field(
        default=None, description="The first run, where both were tested on the same cells."
    )
    differences: dict[str, Measurement] = Field(
        default_factory=dict,
        description="This row minus ``compared_with``, paired on the same resampled subjects.",
    )
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
        "measured elsewhere, mostly without intervals and at other thresholds."
    )
    rows: tuple[ComparisonRow, ...]


def compare(
    sources: Sequence[Path], *, literature: bool = True, settings: EvaluationSettings | None = None
) -> Comparison:
    """Put runs side by side.

    Parameters
    ----------
    sources
        Run folders (measured again), ``report.json`` files, or folders that hold one.
    literature
        Add the published figures.

    Raises
    ------
    LeukoscopeError
        A source is neither a finished run nor a report.
    """
    settings = settings or EvaluationSettings()
    rows: list[ComparisonRow] = []
    first: _ScoredRun | None = None
    for source in sources:
        report = _report_at(source)
        if report:
            rows += rows_of_report(report)
            continue
        scored = _ScoredRun.of(read_run(source))
        rows.append(_row_of(scored, settings, first))
        first = first or scored
    if literature:
        rows += [row_of_literature(index) for index in range(len(LITERATURE))]
    order = {SplitKind.SUBJECT_DISJOINT: 0, SplitKind.NOT_STATED: 1, SplitKind.LEAKING: 2}
    kinds = {"run": 0, "baseline": 1, "published": 2}
    return Comparison(rows=tuple(sorted(rows, key=lambda row: (order[row.split], kinds[row.kind]))))


class _ScoredRun(NamedTuple):
    """A run with its test cells, calibrated on its own validation rows."""

    run: Run
    scored: ScoredSplitCells

    @classmethod
    def of(cls, run: Run) -> Self:
        return cls(run, score_run(run, fit_rules(run), {}))


def row_of_run(run: Run, settings: EvaluationSettings) -> ComparisonRow:
    """Measure the cells of one run; its calibration is that of its own validation rows."""
    return _row_of(_ScoredRun.of(run), settings, None)


def _row_of(one: _ScoredRun, settings: EvaluationSettings, reference: _ScoredRun | None) -> ComparisonRow:
    """Measure a run, and what it has over ``reference`` if both were tested on the same cells."""
    run, scored = one
    context = Context(run.split, settings.bootstrap, settings.bins)
    measures = measure_some(predict_at_half(scored.rows), context, COMPARED)
    test = scored.parts["test"]
    record = record_run(run)
    differences: dict[str, Measurement] = {}
    if reference is not None and reference.run.leaks == run.leaks:
        differences = _differences(scored.rows, reference.scored.rows, context)
    return ComparisonRow(
        kind="run",
        name=run.name,
        architecture=record.architecture,
        compared_with=reference.run.name if reference is not None and differences else None,
        differences=differences,
        split=SplitKind.LEAKING if run.leaks else SplitKind.SUBJECT_DISJOINT,
        test_set=f"{run.split}: {test.cells:,} cells of {test.subjects} subjects",
        measures=dict(measures),
        source=f"configuration {run.hashes['config.toml'][:8]}",
        **_costs([record]),
    )


def _differences(rows: pd.DataFrame, minus_rows: pd.DataFrame, context: Context) -> dict[str, Measurement]:
    """Measure a run minus another on the same test cells; empty where the test parts differ."""
    if rows["cell"].duplicated().any() or minus_rows["cell"].duplicated().any():
        return {}
    aligned = minus_rows.set_index("cell").reindex(rows["cell"])
    if len(minus_rows) != len(rows) or not (aligned["label"].to_numpy() == rows["label"].to_numpy()).all():
        return {}
    one, other = predict_at_half(rows), predict_at_half(aligned.reset_index())
    ours, minus = statistics(one, context.bins), statistics(other, context.bins)
    return {name: context.estimate(one, ours[name], minus[name]) for name in COMPARED}


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
            architecture=", ".join(sorted({run.architecture for run in report.runs if run.architecture}))
            or None,
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
    """Costs of one run; over several runs the training times are summed and the maximum of the others is used."""

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
