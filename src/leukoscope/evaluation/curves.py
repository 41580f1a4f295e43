"""Curves of one test part as data, thinned to the resolution of a figure."""

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from leukoscope.evaluation.metrics_table import Context, Floats, ScoredCells
from leukoscope.models.report import (
    Curve,
    CurvePoint,
    Curves,
    Histogram,
    NetBenefitPoint,
    PrevalencePoint,
    ReliabilityBin,
)
from leukoscope.stats import metrics as discrimination
from leukoscope.stats import reliability
from leukoscope.stats import resampling as clusters
from leukoscope.stats.intervals import bootstrap
from leukoscope.stats.resampling import BOTH, Statistic, SubjectSample

BAND_REPLICATES = 400
"""Replicates of pointwise bands: bands are drawn, not reported as numbers."""
BAND_POINTS = 41
CURVE_POINTS = 201
HISTOGRAM_BINS = 25
PREVALENCES = (0.01, 0.02, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50)
NET_BENEFIT_THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(1, 50))


def make_curves(scored: ScoredCells, context: Context) -> Curves:
    """Return ROC with its band, precision and recall, reliability and the histogram of probabilities."""
    labels = scored.label.astype(int)
    blasts, normals = (
        np.histogram(scored.probability[mask], HISTOGRAM_BINS, (0.0, 1.0))[0]
        for mask in (scored.label, ~scored.label)
    )
    return Curves(
        roc=roc_with_band(scored, context),
        precision_recall=_precision_recall(labels, scored.probability, scored.sample().row_weights),
        reliability=reliability_bins(scored, context),
        histogram=Histogram(
            edges=tuple(np.linspace(0, 1, HISTOGRAM_BINS + 1).round(6).tolist()),
            blasts=tuple(blasts.tolist()),
            normals=tuple(normals.tolist()),
        ),
    )


def roc_with_band(scored: ScoredCells, context: Context) -> Curve:
    """Return sensitivity over 1 - specificity at even steps, with pointwise intervals from resampled subjects."""
    if scored.label.all() or not scored.label.any():
        return ()
    sample = scored.sample()
    settings = dataclasses.replace(context.bootstrap, replicates=BAND_REPLICATES)
    # Denser where the curve is steep and where anybody would work.
    grid = np.linspace(0, 1, BAND_POINTS) ** 1.6
    points = [CurvePoint(x=0.0, y=0.0)]
    for x in grid:
        statistic = clusters.of_sensitivity_at_specificity(sample, scored.probability, 1 - float(x))
        estimate = bootstrap(sample, statistic, settings)
        if estimate.value is not None:
            low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
            points.append(CurvePoint(x=float(x), y=estimate.value, low=low, high=high))
    return (CurvePoint(x=0.0, y=0.0, low=points[1].low, high=points[1].high), *points[1:])


def _precision_recall(labels: npt.NDArray[np.int64], probability: Floats, weights: Floats) -> Curve:
    if labels.all() or not labels.any():
        return ()
    curve = discrimination.precision_recall_curve(labels, probability, weights)
    kept = np.unique(np.linspace(0, len(curve.ppv) - 1, CURVE_POINTS).astype(int))
    return tuple(
        CurvePoint(x=float(x), y=float(y))
        for x, y in zip(curve.sensitivity[kept], curve.ppv[kept], strict=True)
    )


def reliability_bins(scored: ScoredCells, context: Context) -> tuple[ReliabilityBin, ...]:
    """Return equal-mass bins with intervals of the observed share from resampled subjects."""
    sample = scored.sample()
    weights = sample.row_weights
    place = reliability.equal_mass_bins(scored.probability, context.bins)
    bins = []
    for index in range(int(place.max(initial=-1)) + 1):
        inside = place == index
        estimate = bootstrap(sample, _share_inside(sample, inside), context.bootstrap)
        bins.append(
            ReliabilityBin(
                cells=int(inside.sum()),
                predicted=float(np.average(scored.probability[inside], weights=weights[inside])),
                observed=float(np.average(scored.label[inside], weights=weights[inside])),
                low=estimate.low,
                high=estimate.high,
            )
        )
    return tuple(bins)


def _share_inside(sample: SubjectSample, inside: npt.NDArray[np.bool_]) -> Statistic:
    blasts = sample.sums((inside & sample.labels).astype(np.float64))
    rows = sample.sums(inside.astype(np.float64))
    return Statistic(lambda counts: discrimination.ratio(counts @ blasts, counts @ rows), BOTH)


def prevalence_curve(scored: ScoredCells, context: Context) -> tuple[PrevalencePoint, ...]:
    """Return PPV and NPV where another share of the cells is blast than in the test part."""
    sample = scored.sample()

    def at(prevalence: float, which: int) -> Statistic:
        return clusters.of_calls(
            sample,
            scored.calls,
            lambda c: discrimination.predictive_values(
                discrimination.sensitivity(c), discrimination.specificity(c), prevalence
            )[which],
        )

    return tuple(
        PrevalencePoint(
            prevalence=prevalence,
            ppv=context.estimate(scored, at(prevalence, 0)),
            npv=context.estimate(scored, at(prevalence, 1)),
        )
        for prevalence in PREVALENCES
    )


def decision_curve(
    scored: ScoredCells, context: Context, baseline: Floats | None
) -> tuple[NetBenefitPoint, ...]:
    """Return net benefit over threshold probabilities, with those of calling every cell and of a baseline."""
    sample = scored.sample()

    def benefit(calls: npt.NDArray[np.bool_], threshold: float) -> float:
        measure = functools.partial(discrimination.net_benefit, threshold=threshold)
        return float(clusters.of_calls(sample, calls, measure)(sample.whole())[0])

    points = []
    for threshold in NET_BENEFIT_THRESHOLDS:
        measure = functools.partial(discrimination.net_benefit, threshold=threshold)
        statistic = clusters.of_calls(sample, scored.probability >= threshold, measure)
        points.append(
            NetBenefitPoint(
                threshold=threshold,
                model=context.estimate(scored, statistic),
                call_all=benefit(np.ones(len(scored.label), dtype=bool), threshold),
                baseline=None if baseline is None else benefit(baseline >= threshold, threshold),
            )
        )
    return tuple(points)
