"""Every measure against scikit-learn, with ties and weights; intervals against scipy and statsmodels-free formulas."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn import metrics

from leukoscope.stats import metrics as ours
from leukoscope.stats import reliability
from leukoscope.stats.intervals import clopper_pearson, delong, student_t_quantile, wilson


@pytest.fixture(params=["plain", "ties", "weights"])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 400)
    scores = 1 / (1 + np.exp(-(rng.normal(size=400) + 1.2 * labels - 0.6)))
    if request.param == "ties":
        scores = np.round(scores, 1)
    weights = rng.integers(0, 4, 400).astype(float) if request.param == "weights" else None
    return labels, scores, weights


def test_measures_of_calls(case) -> None:
    labels, scores, weights = case
    calls = scores >= 0.5
    counts = ours.confusion(labels, calls, weights)
    table = metrics.confusion_matrix(labels, calls, sample_weight=weights)
    assert (
        counts.true_negative,
        counts.false_positive,
        counts.false_negative,
        counts.true_positive,
    ) == pytest.approx(tuple(table.ravel()))
    options = {"sample_weight": weights}
    expected = {
        ours.accuracy: metrics.accuracy_score(labels, calls, **options),
        ours.sensitivity: metrics.recall_score(labels, calls, **options),
        ours.specificity: metrics.recall_score(labels, calls, pos_label=0, **options),
        ours.ppv: metrics.precision_score(labels, calls, **options),
        ours.npv: metrics.precision_score(labels, calls, pos_label=0, **options),
        ours.f1_blast: metrics.f1_score(labels, calls, **options),
        ours.f1_normal: metrics.f1_score(labels, calls, pos_label=0, **options),
        ours.f1_weighted: metrics.f1_score(labels, calls, average="weighted", **options),
        ours.balanced_accuracy: metrics.balanced_accuracy_score(labels, calls, **options),
        ours.mcc: metrics.matthews_corrcoef(labels, calls, **options),
    }
    for measure, value in expected.items():
        assert measure(counts) == pytest.approx(value, abs=1e-12), measure.__name__


def test_areas(case) -> None:
    labels, scores, weights = case
    assert ours.roc_auc(labels, scores, weights) == pytest.approx(
        metrics.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12
    )
    assert ours.average_precision(labels, scores, weights) == pytest.approx(
        metrics.average_precision_score(labels, scores, sample_weight=weights), abs=1e-12
    )


def test_curves(case) -> None:
    labels, scores, weights = case
    false_positive, true_positive, thresholds = metrics.roc_curve(
        labels, scores, sample_weight=weights, drop_intermediate=False
    )
    curve = ours.roc_curve(labels, scores, weights)
    kept = np.isin(
        curve.thresholds, thresholds
    )  # scikit-learn leaves out thresholds held by rows of weight 0 only.
    np.testing.assert_allclose(curve.thresholds[kept], thresholds)
    np.testing.assert_allclose(curve.sensitivity[kept], true_positive, atol=1e-12)
    np.testing.assert_allclose(1 - curve.specificity[kept], false_positive, atol=1e-12)

    precision, recall, thresholds = metrics.precision_recall_curve(labels, scores, sample_weight=weights)
    curve = ours.precision_recall_curve(labels, scores, weights)
    kept = np.isin(curve.thresholds, thresholds)
    np.testing.assert_allclose(curve.ppv[kept][::-1], precision[:-1], atol=1e-12)
    np.testing.assert_allclose(curve.sensitivity[kept][::-1], recall[:-1], atol=1e-12)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 1.0])
def test_points_of_the_curve(case, target: float) -> None:
    labels, scores, weights = case
    false_positive, true_positive, _ = metrics.roc_curve(
        labels, scores, sample_weight=weights, drop_intermediate=False
    )
    assert ours.sensitivity_at_specificity(labels, scores, target, weights) == pytest.approx(
        true_positive[1 - false_positive >= target - 1e-12].max()
    )
    assert ours.specificity_at_sensitivity(labels, scores, target, weights) == pytest.approx(
        (1 - false_positive)[true_positive >= target - 1e-12].max()
    )


def test_reliability(case) -> None:
    labels, scores, weights = case
    assert reliability.brier(labels, scores, weights) == pytest.approx(
        metrics.brier_score_loss(labels, scores, sample_weight=weights)
    )
    inside = np.clip(scores, 1e-6, 1 - 1e-6)
    assert reliability.log_loss(labels, inside, weights) == pytest.approx(
        metrics.log_loss(labels, inside, sample_weight=weights)
    )


def test_reliability_curve_against_calibration_curve() -> None:
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(5)
    probabilities = rng.random(1000)  # no ties: quantile bins are then beyond dispute
    labels = (rng.random(1000) < probabilities).astype(int)
    observed, predicted = calibration_curve(labels, probabilities, n_bins=10, strategy="quantile")
    curve = reliability.reliability_curve(labels, probabilities, bins=10)
    np.testing.assert_allclose(curve.predicted, predicted, atol=1e-12)
    np.testing.assert_allclose(curve.observed, observed, atol=1e-12)
    assert reliability.ece(labels, probabilities, bins=10) == pytest.approx(
        np.abs(observed - predicted).mean()
    )


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (3, 10), (11, 11), (28, 42), (999, 4815)])
def test_share_intervals(successes: int, trials: int) -> None:
    test = scipy_stats.binomtest(successes, trials)
    assert wilson(successes, trials) == pytest.approx(tuple(test.proportion_ci(method="wilson")), abs=1e-12)
    assert clopper_pearson(successes, trials) == pytest.approx(
        tuple(test.proportion_ci(method="exact")), abs=1e-9
    )


@pytest.mark.parametrize("degrees", [1, 2, 2.5, 11, 41, 5000])
@pytest.mark.parametrize("probability", [1e-7, 0.025, 0.3, 0.5, 0.9, 0.999])
def test_student_t(degrees: float, probability: float) -> None:
    expected = scipy_stats.t.ppf(probability, degrees)
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_delong_against_the_definition() -> None:
    """The variance as DeLong wrote it: the covariance of structural components over all pairs, ties counting half."""
    rng = np.random.default_rng(6)
    labels = np.repeat([0, 1], [60, 90])
    scores = np.round(rng.normal(size=150) + labels, 1)
    kernel = np.array([[(x > y) + 0.5 * (x == y) for y in scores[labels == 0]] for x in scores[labels == 1]])
    variance = kernel.mean(axis=1).var(ddof=1) / 90 + kernel.mean(axis=0).var(ddof=1) / 60
    got = delong(labels, scores)
    assert got.value == pytest.approx(kernel.mean())
    assert got.value == pytest.approx(metrics.roc_auc_score(labels, scores))
    half = scipy_stats.norm.ppf(0.975) * np.sqrt(variance)
    assert (got.low, got.high) == pytest.approx((kernel.mean() - half, kernel.mean() + half))
