"""Measures of more than two classes: over all of them, and of each against the others."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from leukoscope.evaluation.metrics_table import Context, ScoredCells
from leukoscope.evaluation.scored_split import ScoredSplitCells
from leukoscope.models.report import ClassesResult, ClassResult, Measurement
from leukoscope.stats import metrics, resampling
from leukoscope.stats.intervals import bootstrap
from leukoscope.stats.metrics import Confusion, Floats
from leukoscope.stats.resampling import Statistic, SubjectSample

MACRO_MEASURES: dict[str, Callable[[Confusion], Any]] = {
    "accuracy": metrics.accuracy,
    "balanced_accuracy": metrics.balanced_accuracy,
    "f1_macro": metrics.f1_macro,
    "f1_weighted": metrics.f1_weighted,
    "mcc": metrics.mcc,
}
CLASS_MEASURES: dict[str, Callable[[Confusion], Any]] = {
    "recall": metrics.recalls,
    "precision": metrics.precisions,
    "f1": metrics.f1_scores,
}
ALL_NAMES = (*MACRO_MEASURES, "roc_auc_macro", "coverage", "set_size")
CLASS_NAMES = (*CLASS_MEASURES, "roc_auc", "coverage")


def measure_classes(split: ScoredSplitCells, scored: ScoredCells, context: Context) -> ClassesResult | None:
    """Measure the calls, probabilities and prediction sets of more than two classes, by cell; None for two.

    Intervals resample subjects within their set of classes.
    """
    schema = split.classes
    if schema.size == 2:
        return None
    truth = split.rows["class"].to_numpy(dtype=np.intp)
    calls = split.rows["called_class"].to_numpy(dtype=np.intp)
    sample = SubjectSample.of(truth, scored.group, schema.size, balanced=scored.balanced)

    def estimate(statistic: Statistic) -> Measurement:
        return context.measurement(scored, bootstrap(sample, statistic, context.bootstrap))

    areas = [
        resampling.of_roc_auc(
            dataclasses.replace(sample, classes=(truth == number).astype(np.intp), size=2),
            split.rows[f"probability_{name}"].to_numpy(dtype=np.float64),
        )
        for number, name in enumerate(schema.names)
    ]
    covers, sizes = (split.rows[name].to_numpy(dtype=np.float64) for name in ("set_covers", "set_size"))
    everything = tuple(range(schema.size))
    whole = {name: resampling.of_calls(sample, calls, measure) for name, measure in MACRO_MEASURES.items()}
    whole["roc_auc_macro"] = Statistic(
        lambda counts: np.mean([area(counts) for area in areas], axis=0), everything
    )
    whole["coverage"] = resampling.of_mean(sample, covers, everything)
    whole["set_size"] = resampling.of_mean(sample, sizes, everything)
    found = []
    for number, entry in enumerate(schema.classes):
        of_class = truth == number
        each = {
            name: resampling.of_calls(sample, calls, _of_class(measure, number))
            for name, measure in CLASS_MEASURES.items()
        }
        each["roc_auc"] = dataclasses.replace(areas[number], classes=everything)
        each["coverage"] = resampling.of_mean(sample, covers, (number,))
        found.append(
            ClassResult(
                name=entry.name,
                title=entry.title,
                cells=int(of_class.sum()),
                subjects=len(np.unique(scored.subject[of_class])),
                measures={name: estimate(statistic) for name, statistic in each.items()},
            )
        )
    counts: npt.NDArray[np.float64] = metrics.confusion(truth, calls, size=schema.size).counts
    return ClassesResult(
        confusion=tuple(tuple(int(cell) for cell in row) for row in counts),
        measures={name: estimate(statistic) for name, statistic in whole.items()},
        classes=tuple(found),
    )


def _of_class(measure: Callable[[Confusion], Any], number: int) -> Callable[[Confusion], Floats]:
    return lambda counts: np.asarray(measure(counts))[..., number]
