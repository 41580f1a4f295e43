"""The report of one classified test part: every section of it, from the same rows and the same resampled subjects."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from leukoscope.evaluation import cases, curves
from leukoscope.evaluation.classes_table import measure_classes
from leukoscope.evaluation.metrics_table import (
    CALL_MEASURES,
    Context,
    ScoredCells,
    mean_auc_of_splits,
    measure_level,
    measure_some,
    pool_subjects,
    score_cells,
    statistics,
)
from leukoscope.evaluation.scored_split import ScoredSplitCells
from leukoscope.evaluation.subgroups import measure_subgroups
from leukoscope.models.metric_info import MEASURES
from leukoscope.models.report import (
    Abstention,
    AreaMatched,
    BaselineResult,
    CurvePoint,
    Measurements,
    OperatingPointResult,
    SplitReport,
)
from leukoscope.stats import metrics as discrimination
from leukoscope.stats import resampling as clusters
from leukoscope.stats.intervals import BootstrapSettings
from leukoscope.stats.resampling import BLAST_ONLY, NORMAL_ONLY, Statistic

BASELINE_MEASURES = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1_weighted", "brier")
POINT_MEASURES = ("sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "f1_weighted", "accuracy")
POINT_COLUMNS = ("sensitivity", "specificity", "ppv", "npv", "accuracy", "f1_weighted")
"""Those of ``POINT_MEASURES`` that tables show, in their order."""
BASELINE_THRESHOLD = 0.5
"""Threshold of model and baselines in comparisons: a point chosen for sensitivity would have a lower accuracy."""
ABSTENTION_MEASURES = (
    "decided",
    "accuracy_of_decided",
    "coverage",
    "coverage_blast",
    "coverage_normal",
    "refused_as_novel",
    "refused_by_input_checks",
)
CELL_RULE = "A cell is called blast where its calibrated probability reaches the threshold."
SUBJECT_RULES = {
    "mean": "A subject is called blast where the sigmoid of its mean calibrated logit reaches the threshold.",
    "majority": "A subject is called blast where at least half of its cells are.",
}
BASELINE_TEXTS: dict[str, tuple[str, str]] = {
    "all_positive": ("All positive", "Calls every cell blast."),
    "area": (
        "Area alone",
        "Foreground area of the cell, its direction and threshold learned on the training side.",
    ),
    "nine_scalars": (
        "Nine scalars",
        "Gradient boosting, ten models averaged, on area, box sides, mean and standard deviation of R, G and B.",
    ),
}
Progress = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """How a report is made; the defaults are those of every published number."""

    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    bins: int = 15
    area_caliper: float = 0.05
    worst_errors: int = 24
    label_suspects: int = 24


def report_split(split: ScoredSplitCells, settings: EvaluationSettings, progress: Progress) -> SplitReport:
    """Measure one classified test part.

    Parameters
    ----------
    split
        From ``classifying.score_run`` or ``classifying.pool_splits``.
    progress
        Called with the name of each section before it is made.
    """
    context = Context(split.name, settings.bootstrap, settings.bins)
    scored = score_cells(split.rows)
    progress("cells")
    cell = measure_level(scored, context, CELL_RULE)
    cell_weighted = measure_level(scored.weighted_by_cells(), context, CELL_RULE)
    if len(split.parameters) > 1:
        cell.measures["roc_auc_mean_of_splits"] = mean_auc_of_splits(
            scored, split.rows["split"].to_numpy(dtype=str), context
        )
    progress("subjects")
    by_mean, table = pool_subjects(split.rows, "mean")
    by_majority, _ = pool_subjects(split.rows, "majority")
    remarks = list(split.remarks)
    mixed = int(table["label"].isna().sum())
    if mixed:
        remarks.append(f"{mixed} subjects have cells of both labels; they are left out at subject level.")
    progress("baselines")
    at_half = predict_at_half(split.rows)
    baselines = report_baselines(split, at_half, context)
    matched = match_areas(split, scored, context, settings.area_caliper)
    if matched is None:
        remarks.append("No two cells of different labels have nearly the same area: nothing to match.")
    progress("subgroups")
    subgroups = measure_subgroups(split.rows, context)
    progress("curves")
    return SplitReport(
        name=split.name,
        protocol=split.protocol,
        leaks=split.leaks,
        parts=split.parts,
        fitted=split.fitted,
        operating_points=report_points(split, scored, context),
        cell=cell,
        cell_weighted=cell_weighted,
        at_half=_measures_at_half(at_half, cell.measures, context),
        subject_mean=measure_level(by_mean, context, SUBJECT_RULES["mean"]),
        subject_majority=measure_level(by_majority, context, SUBJECT_RULES["majority"]),
        baselines=baselines,
        area_matched=matched,
        prevalence=curves.prevalence_curve(scored, context),
        decision_curve=curves.decision_curve(scored, context, split.baselines.get("nine_scalars")),
        abstention=report_abstention(split, scored, context),
        subgroups=subgroups,
        subjects=cases.subject_rows(table, split.rows),
        worst_errors=cases.worst_errors(split.rows, settings.worst_errors),
        label_suspects=cases.label_suspects(_out_of_sample(split), settings.label_suspects),
        curves=curves.make_curves(scored, context),
        classes=measure_classes(split, scored, context),
        remarks=tuple(remarks),
    )


def report_points(
    split: ScoredSplitCells, scored: ScoredCells, context: Context
) -> tuple[OperatingPointResult, ...]:
    """Measure every operating point that all rules of the split have."""
    results = []
    for point in split.parameters[0].operating_points:
        column = f"called:{point.name}"
        if column not in split.rows or split.rows[column].isna().any():
            continue
        calls = score_cells(split.rows.assign(called=split.rows[column]))
        results.append(
            OperatingPointResult(
                name=point.name,
                rule=point.rule,
                threshold=point.threshold if len(split.parameters) == 1 else None,
                default=point.name == split.parameters[0].default_operating_point,
                measures=measure_some(calls, context, POINT_MEASURES),
            )
        )
    return tuple(results)


def predict_at_half(rows: pd.DataFrame) -> ScoredCells:
    """Take classified cells with the calls that baselines make: blast from a probability of 0.5."""
    return score_cells(rows.assign(called=rows["probability"] >= BASELINE_THRESHOLD))


def _measures_at_half(scored: ScoredCells, measured: Measurements, context: Context) -> Measurements:
    """Measure what depends on the calls; the rest is ``measured`` already."""
    called = measure_some(scored, context, tuple(name for name in BASELINE_MEASURES if name in CALL_MEASURES))
    return {name: called.get(name) or measured[name] for name in BASELINE_MEASURES}


def title_at_half(name: str) -> str:
    """Return the title of a metric in a table of calls at 0.5."""
    title = MEASURES[name].title
    return f"{title} at {BASELINE_THRESHOLD:g}" if name in CALL_MEASURES else title


def report_baselines(
    split: ScoredSplitCells, scored: ScoredCells, context: Context
) -> tuple[BaselineResult, ...]:
    """Measure each baseline on the same rows, and the lead of the model, which is called at the same threshold."""
    model = statistics(scored, context.bins)
    results = []
    for name, scores in split.baselines.items():
        title, description = BASELINE_TEXTS.get(name, (name, ""))
        other = predict_at_half(split.rows.assign(probability=scores))
        theirs = statistics(other, context.bins)
        results.append(
            BaselineResult(
                name=name,
                title=title,
                description=description,
                measures={m: context.estimate(other, theirs[m]) for m in BASELINE_MEASURES},
                differences={m: context.estimate(scored, model[m], theirs[m]) for m in BASELINE_MEASURES},
            )
        )
    return tuple(results)


def match_areas(
    split: ScoredSplitCells, scored: ScoredCells, context: Context, caliper: float
) -> AreaMatched | None:
    """Measure discrimination among cells of nearly equal area; None where no such pair exists."""
    sample, areas = scored.sample(), split.rows["area_px"].to_numpy(dtype=np.float64)
    usable = bool((areas > 0).all())
    if not usable:
        return None
    _, pairs = clusters.area_matched_pairs(sample, scored.probability, areas, caliper)
    if not pairs.sum():
        return None
    near = _has_partner(areas, scored.label, caliper)
    return AreaMatched(
        roc_auc=context.estimate(
            scored, clusters.of_area_matched_auc(sample, scored.probability, areas, caliper)
        ),
        area_alone=context.estimate(scored, clusters.of_area_matched_auc(sample, areas, areas, caliper)),
        pairs=int(pairs.sum()),
        caliper=caliper,
        matched_blasts=int((near & scored.label).sum()),
        matched_normals=int((near & ~scored.label).sum()),
    )


def _has_partner(
    areas: npt.NDArray[np.float64], label: npt.NDArray[np.bool_], caliper: float
) -> npt.NDArray[np.bool_]:
    sizes = np.log(areas)
    result = np.zeros(len(areas), dtype=bool)
    for mine in (True, False):
        others = np.sort(sizes[label != mine])
        own = sizes[label == mine]
        first = np.searchsorted(others, own - caliper, side="left")
        last = np.searchsorted(others, own + caliper, side="left")
        result[label == mine] = last > first
    return result


def report_abstention(split: ScoredSplitCells, scored: ScoredCells, context: Context) -> Abstention:
    """Measure coverage of the prediction sets, what they decide, and risk where the least certain are left out."""
    sample = scored.sample()
    in_blast, in_normal = split.rows["set_blast"].to_numpy(bool), split.rows["set_normal"].to_numpy(bool)
    covered = np.where(scored.label, in_blast, in_normal)
    decided = in_blast != in_normal
    right = decided & (scored.calls == scored.label)
    share = clusters.of_mean
    measures: Measurements = {
        "coverage": context.estimate(scored, share(sample, covered)),
        "coverage_blast": context.estimate(scored, share(sample, covered, BLAST_ONLY)),
        "coverage_normal": context.estimate(scored, share(sample, covered, NORMAL_ONLY)),
        "decided": context.estimate(scored, share(sample, decided)),
        "accuracy_of_decided": context.estimate(scored, _share_of(sample, right, decided)),
    }
    novel, unfit = split.rows["novel"].to_numpy(bool), split.rows["unfit"].to_numpy(bool)
    measures["refused_as_novel"] = context.estimate(scored, share(sample, novel))
    measures["refused_by_input_checks"] = context.estimate(scored, share(sample, unfit))
    confidence = split.rows["margin"].abs().to_numpy(dtype=np.float64)
    wrong = scored.calls != scored.label
    alphas = {one.conformal.alpha for one in split.parameters}
    return Abstention(
        alpha=max(alphas),
        measures=measures,
        outcomes={
            "blast": int((decided & in_blast).sum()),
            "normal": int((decided & in_normal).sum()),
            "both": int((in_blast & in_normal).sum()),
            "neither": int((~in_blast & ~in_normal).sum()),
        },
        risk_coverage=_risk_coverage(confidence, wrong, sample.row_weights),
        risk_coverage_area=context.estimate(scored, _risk_area(sample, confidence, wrong)),
    )


def _share_of(
    sample: clusters.SubjectSample, part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]
) -> Statistic:
    parts, wholes = sample.sums(part.astype(np.float64)), sample.sums(whole.astype(np.float64))
    return Statistic(lambda counts: discrimination.ratio(counts @ parts, counts @ wholes))


def _risk_coverage(
    confidence: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]
) -> tuple[CurvePoint, ...]:
    order = np.argsort(-confidence, kind="stable")
    share = np.cumsum(weights[order])
    risk = np.cumsum(wrong[order] * weights[order]) / share
    share /= share[-1]
    # The first few cells make a ragged start that means nothing.
    kept = np.unique(np.linspace(max(0, len(order) // 50 - 1), len(order) - 1, 150).astype(int))
    return tuple(CurvePoint(x=float(share[k]), y=float(risk[k])) for k in kept)


def _risk_area(
    sample: clusters.SubjectSample, confidence: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_]
) -> Statistic:
    """Area under risk over coverage: the mean share of wrong calls among cells at least as certain as each cell."""
    order = np.argsort(-confidence, kind="stable")
    index, errors = sample.index[order], wrong[order].astype(np.float64)

    def figure(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        result = np.empty(len(counts))
        rows = max(1, clusters.CHUNK_NUMBERS // max(1, len(order)))
        for start in range(0, len(counts), rows):
            weights = counts[start : start + rows][:, index]
            kept = np.cumsum(weights, axis=1)
            risk = np.divide(
                np.cumsum(weights * errors, axis=1), kept, out=np.zeros_like(kept), where=kept > 0
            )
            result[start : start + rows] = (weights * risk).sum(axis=1) / np.maximum(kept[:, -1], 1e-300)
        return result

    return Statistic(figure)


def _out_of_sample(split: ScoredSplitCells) -> pd.DataFrame:
    columns = ["cell", "sha256", "subject", "label", "probability", "part", "split"]
    both = pd.concat([split.validation[columns], split.rows[columns]], ignore_index=True)
    # In pooled splits a cell can be in validation of one and in test of another: the test row is used.
    return both.drop_duplicates("cell", keep="last").reset_index(drop=True)
