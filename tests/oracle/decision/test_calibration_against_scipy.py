"""Temperature, bias and prediction sets against independent fits."""

import numpy as np
import pytest
from mapie.regression import SplitConformalRegressor
from scipy.optimize import minimize
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression

from leukoscope.decision.abstain import subject_quantile
from leukoscope.decision.calibrate import equal_subject_weights, fit_temperature


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    subjects = rng.integers(0, 30, 800)
    labels = (subjects < 20).astype(int)
    logits = 3.5 * (labels - 0.5) + 2.5 * rng.normal(size=800) + rng.normal(size=30)[subjects] + 0.7
    return logits, labels, equal_subject_weights(subjects)


def negative_log_likelihood(parameters: np.ndarray, logits, labels, weights) -> float:
    shifted = logits * np.exp(-parameters[0]) + (parameters[1] if len(parameters) > 1 else 0.0)
    return float(np.average(np.logaddexp(0, shifted) - labels * shifted, weights=weights))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_fit_is_scipys_optimum(rows, weighted: bool, with_bias: bool) -> None:
    logits, labels, weights = rows
    used = weights if weighted else np.ones(len(labels))
    got = fit_temperature(logits, labels, used if weighted else None, with_bias=with_bias)
    best = minimize(
        negative_log_likelihood,
        np.zeros(1 + with_bias),
        (logits, labels, used),
        method="Nelder-Mead",
        options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000},
    )
    assert got.reason is None
    assert got.temperature == pytest.approx(np.exp(best.x[0]), rel=1e-5)
    assert got.bias == pytest.approx(best.x[1] if with_bias else 0.0, abs=1e-5)


def test_fit_with_bias_is_platts_logistic_regression(rows) -> None:
    logits, labels, _ = rows
    got = fit_temperature(logits, labels, with_bias=True)
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels)
    assert 1 / got.temperature == pytest.approx(oracle.coef_[0, 0], rel=1e-4)
    assert got.bias == pytest.approx(oracle.intercept_[0], abs=1e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_quantile_of_single_cells_is_mapies(alpha: float) -> None:
    """With one cell a subject the quantile is the ordinary split-conformal one."""
    values = np.random.default_rng(12).normal(size=57) ** 2
    rows = np.zeros((57, 1))
    always_zero = DummyRegressor(strategy="constant", constant=0.0).fit(rows, values)
    mapie = SplitConformalRegressor(always_zero, confidence_level=1 - alpha, prefit=True)
    _, interval = mapie.conformalize(rows, values).predict_interval(rows[:1])
    assert subject_quantile(values, np.arange(57), alpha).quantile == pytest.approx(interval[0, 1, 0])
