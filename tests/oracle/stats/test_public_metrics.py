"""``leukoscope.metrics`` against scikit-learn, and ``leukoscope.conformal`` against its promise."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from leukoscope import metrics
from leukoscope.conformal import SubjectConformalClassifier
from leukoscope.core.errors import UsageError

RNG = np.random.default_rng(7)
SUBJECTS = np.repeat(np.arange(14), RNG.integers(1, 30, 14))
TRUTH = (SUBJECTS % 2).astype(int)
SCORES = RNG.normal(TRUTH + RNG.normal(0, 0.7, 14)[SUBJECTS], 1.0).round(1)
PROBABILITIES = 1 / (1 + np.exp(-SCORES))
CALLS = (SCORES > 0.4).astype(int)
WEIGHTS = metrics.subject_weights(TRUTH, SUBJECTS)


def test_each_subject_weighs_the_same_within_its_class() -> None:
    mixed = np.array([0, 0, 1, 0, 1, 1])
    weights = metrics.subject_weights(mixed, ["a", "a", "a", "b", "b", "b"])
    assert weights.tolist() == [0.5, 0.5, 1.0, 1.0, 0.5, 0.5]
    assert np.bincount(SUBJECTS, WEIGHTS) == pytest.approx(np.ones(14))


@pytest.mark.parametrize("subjects", [None, SUBJECTS], ids=["rows", "subjects"])
@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (metrics.roc_auc, sklearn.roc_auc_score, SCORES),
        (metrics.average_precision, sklearn.average_precision_score, SCORES),
        (metrics.brier, sklearn.brier_score_loss, PROBABILITIES),
        (metrics.log_loss, sklearn.log_loss, PROBABILITIES),
        (metrics.sensitivity, sklearn.recall_score, CALLS),
        (metrics.ppv, sklearn.precision_score, CALLS),
        (metrics.mcc, sklearn.matthews_corrcoef, CALLS),
        (metrics.f1, sklearn.f1_score, CALLS),
        (metrics.accuracy, sklearn.accuracy_score, CALLS),
        (metrics.balanced_accuracy, sklearn.balanced_accuracy_score, CALLS),
    ],
)
def test_metrics_agree_with_scikit_learn(ours, theirs, values, subjects) -> None:
    expected = theirs(TRUTH, values, sample_weight=None if subjects is None else WEIGHTS)
    assert ours(TRUTH, values, subjects=subjects) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_metrics_of_several_classes_agree_with_scikit_learn(average: str) -> None:
    kinds = np.array(["neutrophil", "blast", "monocyte"])
    truth, called = kinds[RNG.integers(0, 3, 200)], kinds[RNG.integers(0, 3, 200)]
    weight = RNG.uniform(0, 2, 200)
    expected = sklearn.f1_score(truth, called, average=average, sample_weight=weight)
    assert metrics.f1(truth, called, average=average, sample_weight=weight) == pytest.approx(expected)
    matrix, names = metrics.confusion_matrix(truth, called, sample_weight=weight)
    assert matrix == pytest.approx(sklearn.confusion_matrix(truth, called, sample_weight=weight))
    assert list(names) == sorted(kinds)
    expected = sklearn.balanced_accuracy_score(truth, called, sample_weight=weight)
    assert metrics.balanced_accuracy(truth, called, sample_weight=weight) == pytest.approx(expected)


def test_the_interval_takes_any_metric_and_pairs_models() -> None:
    ours = metrics.bootstrap_ci(metrics.roc_auc, TRUTH, SCORES, SUBJECTS, n_resamples=300)
    theirs = metrics.bootstrap_ci(sklearn.roc_auc_score, TRUTH, SCORES, SUBJECTS, n_resamples=300)
    assert (ours.low, ours.value, ours.high) == pytest.approx((theirs.low, theirs.value, theirs.high))
    assert ours.value == pytest.approx(metrics.roc_auc(TRUTH, SCORES, subjects=SUBJECTS))
    assert ours.low < ours.value < ours.high
    assert ours.n_subjects == 14
    noise = RNG.normal(size=len(TRUTH))
    paired = metrics.bootstrap_ci(metrics.roc_auc, TRUTH, SCORES, SUBJECTS, minus=noise, n_resamples=300)
    assert paired.value == pytest.approx(ours.value - metrics.roc_auc(TRUTH, noise, subjects=SUBJECTS))
    with_self = metrics.bootstrap_ci(metrics.roc_auc, TRUTH, SCORES, SUBJECTS, minus=SCORES, n_resamples=300)
    assert with_self.value == 0
    assert with_self.low is None
    assert with_self.reason


def test_missing_estimates_have_a_reason() -> None:
    one_class = metrics.bootstrap_ci(metrics.roc_auc, [1, 1], [0.2, 0.4], ["a", "b"])
    assert one_class.value is None
    assert one_class.reason
    few = metrics.bootstrap_ci(metrics.roc_auc, [1, 0], [0.2, 0.4], ["a", "b"])
    assert few.value == 0
    assert few.low is None


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (metrics.sensitivity, [0.2, 0.7]),
        (metrics.accuracy, [1, 0, 1]),
        (metrics.roc_auc, [[0.1], [0.2]]),
    ],
)
def test_wrong_shapes_and_scores_in_the_place_of_calls_are_refused(call, value) -> None:
    with pytest.raises(ValueError, match=r"expected|shape"):
        call([0, 1], value)


@pytest.mark.parametrize("classes", [2, 3])
def test_sets_cover_cells_of_new_subjects(classes: int) -> None:
    rng = np.random.default_rng(classes)
    covered = []
    for _ in range(150):
        subjects = np.repeat(np.arange(30 * classes), 4)
        labels = subjects % classes
        shift = rng.normal(0, 1.0, (30 * classes, classes))[subjects]
        logits = 2.0 * np.eye(classes)[labels] + shift + rng.normal(0, 0.5, (len(subjects), classes))
        fitted = subjects < 29 * classes
        model = SubjectConformalClassifier(alpha=0.1).conformalize(
            logits[fitted], labels[fitted], subjects[fitted]
        )
        sets = model.predict_set(logits[~fitted])
        covered.append(sets[np.arange(len(sets)), labels[~fitted]].mean())
    assert np.mean(covered) > 0.9 - 3 * np.std(covered) / np.sqrt(len(covered))


def test_few_subjects_leave_a_class_in_every_set() -> None:
    model = SubjectConformalClassifier(alpha=0.1).conformalize([-2.0, 3.0], ["normal", "blast"], ["a", "b"])
    assert model.predict_set([9.0, -9.0]).all()
    assert model.subjects_needed() == 9


@pytest.mark.parametrize("alpha", [0, 1, -0.1, float("nan")])
def test_an_impossible_error_rate_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError):
        SubjectConformalClassifier(alpha)


def test_sets_need_fitted_limits_and_the_right_shape() -> None:
    with pytest.raises(UsageError, match="conformalize"):
        SubjectConformalClassifier().predict_set([0.0])
    with pytest.raises(UsageError, match=r"\(N, K\)"):
        SubjectConformalClassifier().conformalize(np.zeros((4, 3)), [0, 1, 0, 1], list("abcd"))
