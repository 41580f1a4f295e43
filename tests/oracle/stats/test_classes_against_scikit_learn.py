"""Measures of K classes against scikit-learn; two classes are K = 2 of the same code."""

import numpy as np
import pytest
from sklearn import metrics

from leukoscope.stats import metrics as ours
from leukoscope.stats import reliability, resampling
from leukoscope.stats.intervals import BootstrapSettings, bootstrap
from leukoscope.stats.resampling import SubjectSample


@pytest.fixture(params=[2, 3, 6])
def rows(request):
    rng = np.random.default_rng(request.param)
    size = request.param
    labels = np.concatenate([np.arange(size), rng.choice(size, 500, p=rng.dirichlet(np.full(size, 4)))])
    logits = 1.3 * np.eye(size)[labels] + rng.normal(size=(len(labels), size))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return size, labels, shares, shares.argmax(axis=1), rng.uniform(0.1, 3, len(labels))


@pytest.mark.parametrize("weighted", [False, True])
def test_measures_of_calls(rows, weighted: bool) -> None:
    size, labels, _, calls, mass = rows
    weights = mass if weighted else None
    counts = ours.confusion(labels, calls, weights, size)
    options = {"sample_weight": weights}
    np.testing.assert_allclose(counts.counts, metrics.confusion_matrix(labels, calls, **options))
    each = {"average": None, "zero_division": np.nan, **options}
    np.testing.assert_allclose(ours.recalls(counts), metrics.recall_score(labels, calls, **each))
    np.testing.assert_allclose(ours.precisions(counts), metrics.precision_score(labels, calls, **each))
    np.testing.assert_allclose(ours.f1_scores(counts), metrics.f1_score(labels, calls, **each))
    for measure, expected in {
        ours.accuracy: metrics.accuracy_score(labels, calls, **options),
        ours.balanced_accuracy: metrics.balanced_accuracy_score(labels, calls, **options),
        ours.f1_macro: metrics.f1_score(labels, calls, average="macro", **options),
        ours.f1_weighted: metrics.f1_score(labels, calls, average="weighted", **options),
        ours.mcc: metrics.matthews_corrcoef(labels, calls, **options),
    }.items():
        assert measure(counts) == pytest.approx(expected, abs=1e-12), measure.__name__


def test_one_against_the_rest(rows) -> None:
    size, labels, shares, calls, _ = rows
    counts = ours.confusion(labels, calls, size=size)
    group = list(range(0, size, 2))[: size - 1]
    two = counts.one_vs_rest(group)
    positive, called = np.isin(labels, group), np.isin(calls, group)
    assert (two.true_positive, two.false_positive) == ((positive & called).sum(), (~positive & called).sum())
    assert ours.sensitivity(two) == pytest.approx(metrics.recall_score(positive, called))
    expected = [metrics.roc_auc_score(labels == member, shares[:, member]) for member in range(size)]
    np.testing.assert_allclose(ours.class_auc(labels, shares), expected)
    if size > 2:
        macro = metrics.roc_auc_score(labels, shares, multi_class="ovr", average="macro")
        assert ours.class_auc(labels, shares).mean() == pytest.approx(macro)
        with pytest.raises(ValueError, match="one_vs_rest"):
            ours.sensitivity(counts)


def test_reliability(rows) -> None:
    size, labels, shares, _, mass = rows
    assert reliability.class_log_loss(labels, shares, mass) == pytest.approx(
        metrics.log_loss(labels, shares, sample_weight=mass, labels=range(size))
    )
    by_hand = np.average(((shares - np.eye(size)[labels]) ** 2).sum(axis=1), weights=mass)
    assert reliability.class_brier(labels, shares, mass) == pytest.approx(by_hand)
    if size == 2:
        half = metrics.brier_score_loss(labels, shares[:, 1], sample_weight=mass)
        assert reliability.class_brier(labels, shares, mass) == pytest.approx(2 * half)
    right = (shares.argmax(axis=1) == labels).astype(int)
    assert reliability.top_label_ece(labels, shares) == pytest.approx(
        reliability.ece(right, shares.max(axis=1))
    )


def test_resampled_subjects_give_the_measure_of_their_repeated_rows(rows) -> None:
    size, labels, _, calls, _ = rows
    rng = np.random.default_rng(5)
    subjects = 10 * labels + rng.integers(0, 10, len(labels))
    sample = SubjectSample.of(labels, subjects, size)
    statistic = resampling.of_calls(sample, calls, ours.f1_macro)
    for counts in sample.resample(20, rng):
        repeated = np.repeat(np.arange(len(labels)), counts[sample.index].astype(int))
        expected = metrics.f1_score(
            labels[repeated], calls[repeated], labels=range(size), average="macro", zero_division=np.nan
        )
        assert statistic(counts[None])[0] == pytest.approx(expected)
    estimate = bootstrap(sample, statistic, BootstrapSettings(replicates=200))
    assert estimate.low < estimate.value < estimate.high


def test_subjects_are_drawn_within_their_set_of_classes() -> None:
    labels = np.array([0, 0, 1, 1, 2, 0, 2, 0, 2, 1])
    subjects = np.array(list("aabbccddee"))
    sample = SubjectSample.of(labels, subjects, 3)
    assert len(set(sample.strata.tolist())) == 4 and sample.strata[2] == sample.strata[3]  # c and d: {0, 2}
    assert sorted(sample.stratum_sizes((1,))) == [1, 1] and sorted(sample.stratum_sizes((0,))) == [1, 2]
    drawn = sample.resample(200, np.random.default_rng(0))
    assert (drawn[:, [0, 1, 4]] == 1).all() and (drawn[:, 2] + drawn[:, 3] == 2).all()


def test_rows_without_labels_are_one_stratum() -> None:
    values, subjects = np.arange(12.0), np.repeat(list("abcd"), 3)
    sample = SubjectSample.of(None, subjects)
    assert set(sample.strata.tolist()) == {0} and sample.size == 1
    for classes in (resampling.BOTH, resampling.BLAST_ONLY):
        estimate = bootstrap(
            sample, resampling.of_mean(sample, values, classes), BootstrapSettings(replicates=100)
        )
        assert (
            estimate.value == pytest.approx(values.mean()) and estimate.low < estimate.value < estimate.high
        )
