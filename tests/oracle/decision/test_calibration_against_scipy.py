"""Temperature, bias and prediction sets against independent fits."""

import re

import numpy as np
import pytest
from mapie.regression import SplitConformalRegressor
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from leukoscope.decision.calibration import choose_calibration, fit_temperature
from leukoscope.decision.conformal import subject_quantile


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    subjects = rng.integers(0, 30, 800)
    labels = (subjects < 20).astype(int)
    logits = 3.5 * (labels - 0.5) + 2.5 * rng.normal(size=800) + rng.normal(size=30)[subjects] + 0.7
    return logits, labels, subjects


def negative_log_likelihood(parameters: np.ndarray, logits, labels) -> float:
    shifted = logits * np.exp(-parameters[0]) + (parameters[1] if len(parameters) > 1 else 0.0)
    return float(np.mean(np.logaddexp(0, shifted) - labels * shifted))


@pytest.mark.parametrize("with_bias", [False, True])
def test_fit_is_scipys_optimum(rows, with_bias: bool) -> None:
    logits, labels, _ = rows
    got = fit_temperature(logits, labels, with_bias=with_bias)
    best = minimize(
        negative_log_likelihood,
        np.zeros(1 + with_bias),
        (logits, labels),
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000},
    )
    assert got.reason is None
    assert got.temperature == pytest.approx(np.exp(best.x[0]), rel=1e-5)
    assert got.bias == pytest.approx((0.0, best.x[1]) if with_bias else (), abs=1e-5)


@pytest.mark.parametrize("with_bias", [False, True])
def test_weighted_fit_is_that_of_repeated_rows(rows, with_bias: bool) -> None:
    logits, labels, subjects = rows
    times = 1 + subjects % 3
    weighted = fit_temperature(logits, labels, times, with_bias=with_bias)
    repeated = fit_temperature(np.repeat(logits, times), np.repeat(labels, times), with_bias=with_bias)
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-6)
    assert weighted.bias == pytest.approx(repeated.bias, abs=1e-6)


@pytest.mark.parametrize("factor", [0.2, 0.8, 1.0, 1.25, 5.0])
@pytest.mark.parametrize("folds", [1, 5])
def test_choice_is_that_of_scikit_learn_and_the_jackknife(rows, factor: float, folds: int) -> None:
    """Held-out gain by scipy and scikit-learn; its standard error by leaving one subject out after the other."""
    logits, labels, subjects = rows
    counted = 1 / np.bincount(subjects)[subjects]
    logits = logits / fit_temperature(logits, labels, counted).temperature * factor
    scored_by = np.array([f"{subject % folds}" for subject in subjects])
    fold = subjects if folds == 1 else subjects % folds
    scaled = np.empty_like(logits)
    for held_out in (fold == number for number in np.unique(fold)):
        rest = (logits[~held_out], labels[~held_out], counted[~held_out])
        best = minimize_scalar(
            lambda t, x=rest[0], y=rest[1], w=rest[2]: log_loss(y, expit(x * np.exp(-t)), sample_weight=w),
            bounds=(-4, 4),
            method="bounded",
        )
        scaled[held_out] = logits[held_out] * np.exp(-best.x)
    gains = np.log(np.where(labels == 1, expit(scaled), expit(-scaled)))
    gains -= np.log(np.where(labels == 1, expit(logits), expit(-logits)))
    gains = np.array([gains[subjects == subject].mean() for subject in np.unique(subjects)])
    left_out = np.array([np.delete(gains, place).mean() for place in range(len(gains))])
    error = np.sqrt((len(left_out) - 1) * left_out.var())

    got = choose_calibration(logits, labels, subjects, scored_by)
    assert (got.reason is None) == (gains.mean() > error)
    assert got.temperature == pytest.approx(factor if got.reason is None else 1.0, rel=1e-6)
    if got.reason is not None:
        numbers = [float(number) for number in re.findall(r"[+-]?\d\.\d{4}", got.reason)]
        assert numbers == pytest.approx([gains.mean(), error], rel=0.1, abs=2e-4)


def test_fit_with_bias_is_platts_logistic_regression(rows) -> None:
    logits, labels, _ = rows
    got = fit_temperature(logits, labels, with_bias=True)
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    assert 1 / got.temperature == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert got.bias == pytest.approx((0.0, oracle.intercept_[0]), abs=1e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_quantile_of_single_cells_is_mapies(alpha: float) -> None:
    """With one cell per subject the quantile is the ordinary split-conformal one."""
    values = np.random.default_rng(12).normal(size=57) ** 2
    rows = np.zeros((57, 1))
    always_zero = DummyRegressor(strategy="constant", constant=0.0).fit(rows, values)
    mapie = SplitConformalRegressor(always_zero, confidence_level=1 - alpha, prefit=True)
    _, interval = mapie.conformalize(rows, values).predict_interval(rows[:1])
    assert subject_quantile(values, np.arange(57), alpha).quantile == pytest.approx(interval[0, 1, 0])
