"""Metric inflation by leakage: the same recipe evaluated on seen and on unseen subjects."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leukoscope.core.errors import UsageError
from leukoscope.evaluation.compare_tables import markdown_row
from leukoscope.evaluation.metrics_table import Context, measure_some, score_cells
from leukoscope.evaluation.scored_split import fit_rules, score_run
from leukoscope.evaluation.scores import Run
from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.models.metric_info import MEASURES
from leukoscope.models.report import Measurement, format_measurement


@dataclass(frozen=True)
class Inflation:
    """One measure under a leaking and under a subject-disjoint split, and how much higher the first is."""

    name: str
    leaking: Measurement
    disjoint: Measurement
    difference: Measurement


def measure_inflation(
    leaking: Run, disjoint: Run, settings: EvaluationSettings | None = None
) -> list[Inflation]:
    """Measure the same recipe under both kinds of split.

    The two test parts hold different cells, so the difference is not paired; its interval joins those of the two
    figures (MOVER: G. Y. Zou, A. Donner, Statistics in Medicine 27 (2008) 1693-1702, doi 10.1002/sim.3095).

    Raises
    ------
    UsageError
        The first run does not leak, or the second does.
    """
    if not leaking.leaks or disjoint.leaks:
        raise UsageError(
            f"first run: leaks = {leaking.leaks}, second run: leaks = {disjoint.leaks}; give the leaking run first "
            "(protocol paper), the subject-disjoint one second"
        )
    settings = settings or EvaluationSettings()
    names = ("accuracy", "balanced_accuracy", "f1_weighted", "roc_auc", "average_precision")
    sides = []
    for run in (leaking, disjoint):
        scored = score_run(run, fit_rules(run), {})
        context = Context(run.split, settings.bootstrap, settings.bins)
        sides.append(measure_some(score_cells(scored.rows), context, names))
    return [
        Inflation(name, sides[0][name], sides[1][name], _difference(sides[0][name], sides[1][name]))
        for name in names
    ]


def _difference(first: Measurement, second: Measurement) -> Measurement:
    value = low = high = None
    if first.value is not None and second.value is not None:
        value = first.value - second.value
        if (
            first.low is not None
            and first.high is not None
            and second.low is not None
            and second.high is not None
        ):
            low = value - math.hypot(first.value - first.low, second.high - second.value)
            high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Measurement(
        value=value,
        low=low,
        high=high,
        n_cells=first.n_cells + second.n_cells,
        n_subjects=first.n_subjects + second.n_subjects,
        split=f"{first.split} minus {second.split}",
        unit="cell",
        method="MOVER from the two intervals, unpaired",
        not_estimable=first.not_estimable or second.not_estimable,
    )


INFLATION_HEADER = ("Measure", "Leaking split", "Subject-disjoint split", "Inflation")


def inflation_rows(inflations: Sequence[Inflation]) -> list[tuple[str, ...]]:
    """Return the rows as texts, in the order of ``INFLATION_HEADER``."""
    return [
        (
            MEASURES[one.name].title,
            *(format_measurement(m, percent=MEASURES[one.name].percent) for m in (one.leaking, one.disjoint)),
            format_measurement(one.difference, percent=MEASURES[one.name].percent, signed=True),
        )
        for one in inflations
    ]


def inflation_markdown(inflations: Sequence[Inflation]) -> str:
    """Return the table as Markdown."""
    lines = [markdown_row(INFLATION_HEADER), "|---|---|---|---|"]
    return "\n".join([*lines, *(markdown_row(row) for row in inflation_rows(inflations))])


def inflation_warnings(leaking: Run, disjoint: Run) -> list[str]:
    """Return notes on other differences between the two runs, and on the number of leaking subjects."""
    notes = []
    first, second = dict(leaking.config), dict(disjoint.config)
    different = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
    if different:
        notes.append(f"the runs' configurations differ in: {', '.join(different)}")
    sizes = [run.scores.loc[run.scores["part"] != "test", "cell"].nunique() for run in (leaking, disjoint)]
    if sizes[0] != sizes[1]:
        notes.append(f"the training sides hold {sizes[0]:,} and {sizes[1]:,} cells")
    tested = set(leaking.scores.loc[leaking.scores["part"] == "test", "group"])
    seen = tested & set(leaking.scores.loc[leaking.scores["part"] != "test", "group"])
    notes.append(f"{len(seen)} of {len(tested)} subjects in the leaking test part were also trained on")
    return notes
