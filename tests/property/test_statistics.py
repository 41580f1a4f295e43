"""What must hold for every set of scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from leukoscope.decision.calibration import sigmoid
from leukoscope.decision.conformal import prediction_sets, subject_quantile
from leukoscope.decision.parameters import ClassQuantile, ConformalQuantiles
from leukoscope.stats import metrics as discrimination
from leukoscope.stats import reliability
from leukoscope.stats.intervals import clopper_pearson, wilson

NUMBERS = st.floats(-50, 50, allow_subnormal=False)


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels with both classes, and scores with many ties."""
    size = draw(st.integers(2, 40))
    labels = draw(arrays.arrays(np.int64, size, elements=st.integers(0, 1)))
    labels[0], labels[1] = 0, 1
    scores = draw(arrays.arrays(np.float64, size, elements=st.one_of(NUMBERS, st.sampled_from([0.0, 1.0]))))
    return labels, scores


@given(rows())
def test_auc_is_symmetric_and_invariant_to_monotone_changes(case) -> None:
    labels, scores = case
    auc = discrimination.roc_auc(labels, scores)
    assert 0 <= auc <= 1
    assert discrimination.roc_auc(labels, -scores) == pytest.approx(1 - auc)
    assert discrimination.roc_auc(1 - labels, scores) == pytest.approx(1 - auc)
    assert discrimination.roc_auc(labels, 4 * scores) == pytest.approx(auc)


@given(rows(), st.integers(2, 4))
def test_weights_count_rows(case, times: int) -> None:
    labels, scores = case
    weights = np.where(np.arange(len(labels)) % 2, 1, times)
    again = np.repeat(np.arange(len(labels)), weights)
    for measure in (discrimination.roc_auc, discrimination.average_precision):
        assert measure(labels, scores, weights) == pytest.approx(measure(labels[again], scores[again]))
    shares = sigmoid(scores)
    assert reliability.brier(labels, shares, weights) == pytest.approx(
        reliability.brier(labels[again], shares[again])
    )


@given(rows())
def test_curves_are_monotone_from_end_to_end(case) -> None:
    labels, scores = case
    curve = discrimination.roc_curve(labels, scores)
    assert (np.diff(curve.thresholds) < 0).all()
    assert (np.diff(curve.sensitivity) >= 0).all() and (np.diff(curve.specificity) <= 0).all()
    assert (curve.sensitivity[0], curve.specificity[0]) == (0, 1)
    assert (curve.sensitivity[-1], curve.specificity[-1]) == (1, 0)
    middles = (curve.sensitivity[1:] + curve.sensitivity[:-1]) / 2
    area = float(-np.diff(curve.specificity) @ middles)
    assert area == pytest.approx(discrimination.roc_auc(labels, scores))


@given(rows(), st.integers(1, 20))
def test_bins_ignore_the_order_of_rows(case, bins: int) -> None:
    labels, scores = case
    shares = sigmoid(scores)
    order = np.random.default_rng(0).permutation(len(labels))
    assert reliability.ece(labels, shares, bins) == pytest.approx(
        reliability.ece(labels[order], shares[order], bins)
    )
    assert 0 <= reliability.ece(labels, shares, bins) <= 1
    place = reliability.equal_mass_bins(shares, bins)
    assert set(place) == set(range(place.max() + 1)) and place.max() < bins


@given(st.integers(1, 500), st.data())
def test_share_intervals_contain_the_share(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    for low, high in (wilson(successes, trials), clopper_pearson(successes, trials)):
        assert 0 <= low <= successes / trials <= high <= 1
        assert low < high


@given(rows(), st.floats(0.01, 0.99))
def test_subject_quantile_covers_its_own_calibration_mass(case, alpha: float) -> None:
    _, values = case
    subjects = np.arange(len(values)) % 7
    limit = subject_quantile(values, subjects, alpha)
    groups = len(np.unique(subjects))
    shares = (
        [float((values[subjects == s] <= limit.quantile).mean()) for s in np.unique(subjects)]
        if (limit.quantile is not None)
        else []
    )
    if shares:
        assert sum(shares) / (groups + 1) >= 1 - alpha - 1e-8
        assert limit.quantile in values
    else:
        assert groups / (groups + 1) < 1 - alpha


@settings(max_examples=50)
@given(rows(), st.floats(-5, 5), st.floats(0, 5))
def test_larger_quantiles_give_larger_sets(case, quantile: float, more: float) -> None:
    _, logits = case

    def sets(limit: float | None) -> np.ndarray:
        one = ClassQuantile(quantile=limit, subjects=20, cells=100)
        return prediction_sets(logits, ConformalQuantiles(alpha=0.1, classes={"normal": one, "blast": one}))

    for small, large, whole in zip(sets(quantile), sets(quantile + more), sets(None), strict=True):
        assert (small <= large).all() and whole.all()
