"""Values that cannot be estimated are None with a reason."""

import math

import numpy as np
import pytest

from leukoscope.stats import metrics as discrimination
from leukoscope.stats import reliability
from leukoscope.stats import resampling as clusters
from leukoscope.stats.intervals import BootstrapSettings, bootstrap, clopper_pearson, delong, wilson
from leukoscope.stats.resampling import SubjectSample

FAST = BootstrapSettings(replicates=200)


def make_sample(labels: list[int], subjects: list[str]) -> SubjectSample:
    return SubjectSample.of(np.array(labels), np.array(subjects))


def test_one_class_only_has_no_auc() -> None:
    labels, scores = np.ones(6, int), np.arange(6.0)
    assert math.isnan(discrimination.roc_auc(labels, scores))
    assert math.isnan(discrimination.average_precision(labels, scores))
    assert math.isnan(discrimination.specificity_at_sensitivity(labels, scores, 0.9))
    assert delong(labels, scores).value is None and delong(labels, scores).reason
    sample = SubjectSample.of(labels, list("aabbcc"))
    got = bootstrap(sample, clusters.of_roc_auc(sample, scores), FAST)
    assert (got.value, got.low, got.high) == (None, None, None)
    assert got.reason
    assert (got.n_cells, got.n_subjects) == (6, 3)


def test_one_class_still_has_its_sensitivity() -> None:
    sample = make_sample([1, 1, 1, 1, 1, 1], list("aabbcc"))
    calls = np.array([1, 1, 1, 0, 0, 0], bool)
    got = bootstrap(sample, clusters.of_calls(sample, calls, discrimination.sensitivity), FAST)
    assert got.value == 0.5
    assert got.low is not None and got.low < 0.5 < got.high


def test_one_subject_in_a_class_gives_a_value_without_an_interval() -> None:
    sample = make_sample([1, 1, 1, 1, 0, 0], ["a", "a", "b", "b", "h", "h"])
    scores = np.array([3.0, 0.5, 1.0, 2.0, 0.0, 1.5])
    auc = bootstrap(sample, clusters.of_roc_auc(sample, scores), FAST)
    assert auc.value == pytest.approx(6 / 8)
    assert auc.low is None and auc.reason
    # Sensitivity does not depend on the class with one subject.
    got = bootstrap(sample, clusters.of_calls(sample, scores > 0.7, discrimination.sensitivity), FAST)
    assert got.low is not None and got.reason is None


def test_perfect_separation_has_a_lower_limit_below_one() -> None:
    sample = make_sample([1, 1, 1, 0, 0, 0], list("abcdef"))
    got = bootstrap(sample, clusters.of_roc_auc(sample, np.array([3.0, 4, 5, 0, 1, 2])), FAST)
    assert got.value == 1.0
    assert got.low is None and got.reason


def test_a_value_undefined_in_many_resamples_has_no_interval() -> None:
    # Only one subject is ever called blast: without it there is no PPV.
    sample = make_sample([1, 1, 1, 0, 0, 0], list("abcdef"))
    calls = np.array([1, 0, 0, 0, 0, 0], bool)
    got = bootstrap(sample, clusters.of_calls(sample, calls, discrimination.ppv), FAST)
    assert got.value == 1.0
    assert got.low is None and got.reason


def test_no_rows() -> None:
    sample = SubjectSample.of(np.array([], int), np.array([], str))
    got = bootstrap(sample, clusters.of_roc_auc(sample, np.array([])), FAST)
    assert got.value is None and got.reason
    assert math.isnan(reliability.brier([], []))
    assert math.isnan(reliability.ece([], []))


def test_measures_of_all_positive_calls() -> None:
    counts = discrimination.confusion([1, 1, 0], [True, True, True])
    assert discrimination.sensitivity(counts) == 1 and discrimination.specificity(counts) == 0
    assert math.isnan(discrimination.npv(counts)) and math.isnan(discrimination.mcc(counts))
    assert discrimination.f1_normal(counts) == 0
    assert discrimination.f1_weighted(counts) == pytest.approx(2 / 3 * 0.8)


@pytest.mark.parametrize("bad", [(3, 2), (-1, 4), (0, 0)])
def test_shares_outside_their_range_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{bad[0]}.*{bad[1]}"):
        wilson(*bad)
    with pytest.raises(ValueError, match=rf"{bad[0]}.*{bad[1]}"):
        clopper_pearson(*bad)


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "message"),
    [
        ([0, 1], [0.1], None, r"\(2,\).*\(1,\)"),
        ([0, 2], [0.1, 0.2], None, r"\[2\]"),
        ([0, 1], [0.1, math.nan], None, r"\b1\b.*\b2\b"),
        ([0, 1], [0.1, 0.2], [1, -1], None),
    ],
)
def test_wrong_rows_are_refused(labels, scores, weights, message: str | None) -> None:
    with pytest.raises(ValueError, match=message):
        discrimination.roc_auc(labels, scores, weights)


def test_probabilities_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.2"):
        reliability.brier([0, 1], [0.2, 1.2])


def test_a_certain_wrong_call_has_infinite_log_loss() -> None:
    assert reliability.log_loss([1, 0], [0.0, 0.5]) == math.inf
    assert reliability.log_loss([1, 0], [0.0, 0.5], [0, 1]) == pytest.approx(math.log(2))


def test_equal_scores_share_a_bin() -> None:
    place = reliability.equal_mass_bins([0.5] * 90 + [0.9] * 10, bins=5)
    assert len(set(place[:90])) == 1 and len(set(place[90:])) == 1
    assert set(place) == {0, 1}


def test_predictive_values_follow_bayes() -> None:
    ppv, npv = discrimination.predictive_values(0.9, 0.8, np.array([0.0, 0.1, 0.5, 1.0]))
    np.testing.assert_allclose(ppv, [0.0, 0.09 / 0.27, 0.9 / 1.1, 1.0])
    np.testing.assert_allclose(npv, [1.0, 0.72 / 0.73, 0.8 / 0.9, 0.0])
    assert math.isnan(discrimination.predictive_values(0.0, 1.0, 0.3)[0])


def test_net_benefit_of_calling_all() -> None:
    counts = discrimination.confusion([1, 0, 0, 0], [True] * 4)
    assert discrimination.net_benefit(counts, 0.2) == pytest.approx(0.25 - 0.75 * 0.25)


def test_paired_difference_uses_the_same_subjects() -> None:
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(20), 10)
    labels = (subjects < 10).astype(int)
    scores = labels + rng.normal(size=20)[subjects] + rng.normal(size=200)
    sample = SubjectSample.of(labels, subjects)
    better = clusters.of_roc_auc(sample, scores)
    same = bootstrap(sample, better, FAST, minus=clusters.of_roc_auc(sample, 2 * scores + 1))
    assert same.value == 0 and same.low is None  # A monotone change changes nothing, in no resample.
    worse = clusters.of_roc_auc(sample, scores + rng.normal(size=200))
    alone, paired = bootstrap(sample, better, FAST), bootstrap(sample, better, FAST, minus=worse)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)


def test_intervals_repeat_with_the_seed() -> None:
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(12), 5)
    sample = SubjectSample.of((subjects < 6).astype(int), subjects)
    statistic = clusters.of_roc_auc(sample, rng.normal(size=60))
    assert bootstrap(sample, statistic, FAST) == bootstrap(sample, statistic, FAST)
    assert bootstrap(sample, statistic, FAST) != bootstrap(sample, statistic, BootstrapSettings(200, seed=1))


def test_subjects_are_drawn_within_their_class() -> None:
    sample = make_sample([1] * 5 + [0] * 3, list("abcdehij"))
    counts = sample.resample(300, np.random.default_rng(0))
    assert (counts[:, sample.strata == 1].sum(axis=1) == 5).all()
    assert (counts[:, sample.strata == 0].sum(axis=1) == 3).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.2)
