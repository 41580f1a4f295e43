import numpy as np
import pytest
from scipy.optimize import minimize

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import UsageError
from leukoscope.decision.calibration import softmax
from leukoscope.learning.refit import LEAST_CELLS, fit_change, refit_head

CLASSES = ClassSchema.of_names(["blast", "lymphocyte", "monocyte"], positive=["blast"])


def cells(count: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings whose first three axes tell the class; a head that errs by ``shift`` on the second class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    embeddings = rng.normal(0, 0.6, (count, 24))
    embeddings[np.arange(count), labels] += 2.0
    logits = 3.0 * embeddings[:, :3].copy()
    logits[:, 1] -= shift
    return embeddings, logits, labels


def test_the_fit_is_the_minimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(0)
    features, base, labels = rng.normal(0, 0.4, (15, 4)), rng.normal(0, 1, (15, 3)), rng.integers(0, 3, 15)
    strength = 0.05

    def objective(flat: np.ndarray) -> float:
        weights = flat.reshape(3, 5)
        logits = base + features @ weights[:, :4].T + weights[:, 4]
        shares = softmax(logits)[np.arange(15), labels]
        return float(-np.log(shares).mean() + strength / 2 * (flat**2).sum())

    best = minimize(objective, np.zeros(15), method="BFGS", options={"gtol": 1e-7}).x.reshape(3, 5)
    weights, bias = fit_change(features, base, labels, strength)
    np.testing.assert_allclose(weights, best[:, :4], atol=2e-3)
    np.testing.assert_allclose(bias, best[:, 4], atol=2e-3)


def test_twenty_cells_improve_a_wrong_head() -> None:
    embeddings, logits, labels = cells(20, shift=8.0)
    head, remark = refit_head(embeddings, logits, labels, CLASSES, center=np.zeros(24))
    assert head is not None and head.gain > head.gain_error
    assert head.cells == 20 and sum(head.counts.values()) == 20
    assert "20 cells" in remark
    others, before, truth = cells(500, shift=8.0, seed=1)
    after = head.scale * before + others @ np.array(head.weights).T + np.array(head.bias)
    assert (after.argmax(1) == truth).mean() > (before.argmax(1) == truth).mean() + 0.15


def test_a_head_that_is_right_stays_as_it_is() -> None:
    embeddings, logits, labels = cells(40, shift=0.0)
    head, remark = refit_head(embeddings, 4.0 * logits, labels, CLASSES, center=np.zeros(24))
    assert head is None
    assert remark.startswith("no correction")


def test_labels_that_say_nothing_change_nothing() -> None:
    embeddings, logits, _ = cells(60, shift=0.0)
    rng = np.random.default_rng(3)
    head, _ = refit_head(rng.permutation(embeddings), np.zeros_like(logits), rng.integers(0, 3, 60), CLASSES,
                         center=np.zeros(24))  # fmt: skip
    assert head is None or head.gain < 0.2


def test_too_few_cells_are_an_error() -> None:
    embeddings, logits, labels = cells(LEAST_CELLS - 1, shift=1.0)
    with pytest.raises(UsageError, match=str(LEAST_CELLS)):
        refit_head(embeddings, logits, labels, CLASSES, center=np.zeros(24))
