"""A small change of a bundle's head, fitted on corrected cells of one laboratory.

The bundle's logits are scaled down, because a head is overconfident in a laboratory that it was not trained on, and a
change that is linear in the embedding is added. A penalty on its weights holds it near the bundle's head. Scale and
strength of the penalty are chosen by leaving corrected cells out in turn, and no change is made where none that was
tried lowers the log loss by more than its standard error. Fitted in the space of the cells (kernel logistic
regression), so that twenty cells cost milliseconds at any width of the embedding.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import UsageError
from leukoscope.decision.calibration import softmax
from leukoscope.models.profile import HeadCorrection

Floats = NDArray[np.float64]

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01)
SCALES = (1.0, 0.5, 0.25)
FOLDS = 5
LEAST_CELLS = 10
_STEPS = 400


class Change(NamedTuple):
    """``weights`` (K, D) and ``bias`` (K,) that are added to the logits."""

    weights: Floats
    bias: Floats


def refit_head(
    embeddings: NDArray[np.floating],
    logits: NDArray[np.floating],
    labels: NDArray[np.int_],
    classes: ClassSchema,
    *,
    center: NDArray[np.floating],
    seed: int = 0,
) -> tuple[HeadCorrection | None, str]:
    """Fit a correction on corrected cells, with a remark on the result.

    Parameters
    ----------
    embeddings, logits
        (N, D) and (N, K) of the corrected cells, logits of the bundle's own head before calibration.
    labels
        (N,) of 0 to K - 1.
    classes
        K of them.
    center
        (D,) mean embedding of training cells.
    seed
        Of the folds.

    Returns
    -------
    correction, remark
        None if no strength helps; the remark states this.

    Raises
    ------
    UsageError
        Fewer than ten cells.
    """
    if len(labels) < LEAST_CELLS:
        raise UsageError(
            f"{len(labels)} corrected cells: give at least {LEAST_CELLS}, better 20 or more, of every kind that matters"
        )
    truth = np.asarray(labels, np.int64)
    base = np.asarray(logits, np.float64)
    centered = np.asarray(embeddings, np.float64) - np.asarray(center, np.float64)
    spread = float(np.sqrt((centered**2).sum(axis=1).mean())) or 1.0
    features = centered / spread
    before = _log_loss(base, truth)
    folds = _folds(truth, seed)
    tried = []
    for scale, strength in product(SCALES, STRENGTHS):
        gains = before - _left_out_loss(features, scale * base, truth, folds, strength)
        tried.append((float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))), scale, strength))
    gain, error, scale, strength = max(tried)
    if gain <= error:
        return None, (
            f"no correction: on {len(truth)} corrected cells left out in turn the log loss fell by {gain:.3f} at best, "
            f"with a standard error of {error:.3f}"
        )
    weights, bias = fit_change(features, scale * base, truth, strength)
    weights = weights / spread
    counts = {name: int((truth == index).sum()) for index, name in enumerate(classes.names)}
    correction = HeadCorrection(
        cells=len(truth),
        counts={name: count for name, count in counts.items() if count},
        strength=strength,
        scale=scale,
        gain=gain,
        gain_error=error,
        weights=tuple(tuple(float(f"{value:.6g}") for value in row) for row in weights),
        bias=tuple(float(f"{value:.6g}") for value in bias - weights @ np.asarray(center, np.float64)),
    )
    return correction, (
        f"head corrected with {len(truth)} cells: the log loss of cells left out in turn fell by {gain:.3f} "
        f"(standard error {error:.3f})"
    )


def fit_change(features: Floats, base: Floats, labels: NDArray[np.int64], strength: float) -> Change:
    """Fit weights (K, D) and bias (K,) that lower the mean log loss plus ``strength`` / 2 times their squared length.

    Accelerated gradient steps on the coefficients of the cells, from no change.
    """
    count, size = base.shape
    kernel = features @ features.T + 1.0
    wanted = np.eye(size)[labels]
    step = 1.0 / (0.5 * float(np.linalg.eigvalsh(kernel)[-1]) / count + strength)
    current = np.zeros((count, size))
    ahead, momentum = current, 1.0
    for _ in range(_STEPS):
        residual = (softmax(base + kernel @ ahead) - wanted) / count
        following = ahead - step * (residual + strength * ahead)
        next_momentum = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = following + (momentum - 1) / next_momentum * (following - current)
        current, momentum = following, next_momentum
    return Change(current.T @ features, current.sum(axis=0))


def _folds(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the fold of each cell, every class spread evenly."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(labels)), labels))
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % min(FOLDS, len(labels))
    return folds


def _left_out_loss(
    features: Floats, base: Floats, labels: NDArray[np.int64], folds: NDArray[np.int64], strength: float
) -> Floats:
    losses = np.empty(len(labels))
    for fold in np.unique(folds):
        out = folds == fold
        change = fit_change(features[~out], base[~out], labels[~out], strength)
        logits = base[out] + features[out] @ change.weights.T + change.bias
        losses[out] = _log_loss(logits, labels[out])
    return losses


def _log_loss(logits: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the negative logarithm of the probability of each cell's class (N,), at most that of 1e-6."""
    shares = softmax(logits)[np.arange(len(labels)), labels]
    losses: Floats = -np.log(np.maximum(shares, 1e-6))
    return losses
