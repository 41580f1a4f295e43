"""The fast statistics over resampled subjects against the plain ones on rows that are really repeated."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from leukoscope.stats import metrics as discrimination
from leukoscope.stats import reliability
from leukoscope.stats import resampling as clusters
from leukoscope.stats.intervals import BootstrapSettings, bootstrap
from leukoscope.stats.resampling import Statistic, SubjectSample

Rows = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def cohort() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    subjects = rng.integers(0, 14, 300)
    labels = (subjects < 9).astype(int)
    scores = 1 / (1 + np.exp(-(labels - 0.5 + rng.normal(size=14)[subjects] + rng.normal(size=300))))
    return labels, np.round(scores, 2), subjects


CASES: dict[
    str, tuple[Callable[[SubjectSample, np.ndarray], Statistic], Callable[[np.ndarray, np.ndarray], float]]
] = {
    "roc_auc": (clusters.of_roc_auc, discrimination.roc_auc),
    "average_precision": (clusters.of_average_precision, discrimination.average_precision),
    "sensitivity_at_specificity": (
        lambda sample, scores: clusters.of_sensitivity_at_specificity(sample, scores, 0.9),
        lambda labels, scores: discrimination.sensitivity_at_specificity(labels, scores, 0.9),
    ),
    "specificity_at_sensitivity": (
        lambda sample, scores: clusters.of_specificity_at_sensitivity(sample, scores, 0.95),
        lambda labels, scores: discrimination.specificity_at_sensitivity(labels, scores, 0.95),
    ),
    "brier": (clusters.of_brier, reliability.brier),
    "mcc": (
        lambda sample, scores: clusters.of_calls(sample, scores >= 0.5, discrimination.mcc),
        lambda labels, scores: discrimination.mcc(discrimination.confusion(labels, scores >= 0.5)),
    ),
    "mean_of_blasts": (
        lambda sample, scores: clusters.of_mean(sample, scores, clusters.BLAST_ONLY),
        lambda labels, scores: float(scores[labels == 1].mean()),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_counting_subjects_equals_repeating_rows(cohort, name: str) -> None:
    labels, scores, subjects = cohort
    fast, slow = CASES[name]
    sample = SubjectSample.of(labels, subjects)
    counts = sample.resample(25, np.random.default_rng(0))
    got = fast(sample, scores)(counts)
    for value, count in zip(got, counts, strict=True):
        rows = np.concatenate(
            [np.repeat(np.flatnonzero(sample.index == s), int(n)) for s, n in enumerate(count)]
        )
        assert value == pytest.approx(slow(labels[rows], scores[rows]), abs=1e-12)


@pytest.mark.parametrize("name", ["roc_auc", "average_precision", "brier"])
def test_balanced_subjects_are_weighted_rows(cohort, name: str) -> None:
    labels, scores, subjects = cohort
    sample = SubjectSample.of(labels, subjects, balanced=True)
    rows = np.array([(subjects == one).sum() for one in subjects])
    oracle = {
        "roc_auc": sklearn_metrics.roc_auc_score,
        "average_precision": sklearn_metrics.average_precision_score,
        "brier": sklearn_metrics.brier_score_loss,
    }[name]
    statistic = CASES[name][0](sample, scores)
    assert statistic(sample.whole())[0] == pytest.approx(oracle(labels, scores, sample_weight=1 / rows))
    counts = sample.resample(5, np.random.default_rng(0))
    for value, count in zip(statistic(counts), counts, strict=True):
        assert value == pytest.approx(oracle(labels, scores, sample_weight=count[sample.index]))


def test_repeating_the_cells_of_a_subject_changes_no_balanced_figure(cohort) -> None:
    labels, scores, subjects = cohort
    many = subjects == subjects[0]
    again = [np.concatenate([values, np.tile(values[many], 4)]) for values in (labels, scores, subjects)]
    settings = BootstrapSettings(replicates=200)
    first, second = (
        bootstrap(sample, clusters.of_roc_auc(sample, values), settings)
        for sample, values in (
            (SubjectSample.of(labels, subjects, balanced=True), scores),
            (SubjectSample.of(again[0], again[2], balanced=True), again[1]),
        )
    )
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))


def test_ece_keeps_the_bins_of_the_whole_sample(cohort) -> None:
    labels, scores, subjects = cohort
    sample = SubjectSample.of(labels, subjects)
    statistic = clusters.of_ece(sample, scores, bins=8)
    assert statistic(np.ones((1, 14)))[0] == pytest.approx(reliability.ece(labels, scores, bins=8))
    counts = sample.resample(5, np.random.default_rng(1))
    place = reliability.equal_mass_bins(scores, 8)
    for value, count in zip(statistic(counts), counts, strict=True):
        weights = count[sample.index]
        gaps = [abs((weights * (scores - labels))[place == k].sum()) for k in np.unique(place)]
        assert value == pytest.approx(sum(gaps) / weights.sum())


def test_area_matched_pairs_against_all_pairs(cohort) -> None:
    labels, scores, subjects = cohort
    areas = np.random.default_rng(2).lognormal(10, 0.3, len(labels))
    sample = SubjectSample.of(labels, subjects)
    concordant, pairs = clusters.area_matched_pairs(sample, scores, areas, caliper=0.1)
    won = total = 0.0
    for blast in np.flatnonzero(labels == 1):
        for normal in np.flatnonzero(labels == 0):
            if abs(np.log(areas[blast] / areas[normal])) <= 0.1:
                total += 1
                won += (scores[blast] > scores[normal]) + 0.5 * (scores[blast] == scores[normal])
    assert pairs.sum() == total
    assert concordant.sum() == pytest.approx(won)
    value = clusters.of_area_matched_auc(sample, scores, areas, 0.1)(np.ones((1, 14)))[0]
    assert value == pytest.approx(won / total)


@pytest.mark.parametrize(("kind", "method"), [("percentile", "percentile"), ("bca", "BCa")])
def test_bootstrap_of_a_mean_against_scipy(kind: str, method: str) -> None:
    """One row per subject and one class: our intervals are then scipy's, up to the draw of the resamples."""
    values = np.random.default_rng(3).gamma(2.0, size=40)
    sample = SubjectSample.of(np.ones(40, int), np.arange(40))
    statistic = clusters.of_mean(sample, values, clusters.BLAST_ONLY)
    got = bootstrap(sample, statistic, BootstrapSettings(replicates=20_000, kind=kind))
    expected = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=0.02)
