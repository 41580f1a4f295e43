"""Calibration and operating points: one or two numbers fitted on validation rows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from leukoscope.decision.parameters import OperatingPoint
from leukoscope.stats import metrics as discrimination
from leukoscope.stats.metrics import Floats

TEMPERATURE_RANGE = (0.02, 50.0)
"""Fits outside are cut: there a logit would be switched on or off rather than scaled."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """``probability = sigmoid(logit / temperature + bias)``; ``reason`` says why nothing was fitted."""

    temperature: float = 1.0
    bias: float = 0.0
    reason: str | None = None

    def logits(self, logits: npt.ArrayLike) -> Floats:
        """Return calibrated logits of the same shape."""
        return np.asarray(np.asarray(logits, dtype=np.float64) / self.temperature + self.bias)

    def probabilities(self, logits: npt.ArrayLike) -> Floats:
        """Return calibrated probabilities of blast, 0..1, of the same shape."""
        return sigmoid(self.logits(logits))


def sigmoid(values: npt.ArrayLike) -> Floats:
    """Return 1 / (1 + exp(-value)) without overflow."""
    logits = np.asarray(values, dtype=np.float64)
    small = np.exp(-np.abs(logits))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1 + small))


def equal_subject_weights(subjects: npt.ArrayLike) -> Floats:
    """Return weights with which every subject counts the same, however many cells it gave; their mean is 1."""
    _, index, counts = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    return len(index) / (len(counts) * counts[index].astype(np.float64))


def choose_calibration(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    inner_folds: npt.ArrayLike,
    *,
    with_bias: bool = False,
) -> Calibration:
    """Fit a temperature on all rows, and keep it only where fitting one helps people it was not fitted on.

    Each inner fold in turn is scaled by the temperature of the others. The temperature is kept where the mean
    log-likelihood of the held-out cells rises by more than one standard error over groups; else the logits stay
    as they are. With few people a temperature follows the hardest of them, and logits that come from an exactly
    fitted head are calibrated already.

    Parameters
    ----------
    logits : (N,) of validation rows
    labels : (N,) of 0 and 1
    groups : (N,), the merged subject of each row
    inner_folds : (N,), which inner network scored each row; where one network scored all, every group is a fold
    with_bias : bool
        See ``fit_temperature``.

    Returns
    -------
    Calibration
        Temperature 1 and a reason where nothing is fitted or what is fitted does not help.

    Notes
    -----
    One standard error as the price of a parameter: L. Breiman et al., "Classification and regression trees",
    1984, chapter 3.4.3.
    """
    fitted = fit_temperature(logits, labels, with_bias=with_bias)
    if fitted.reason:
        return fitted
    values, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return Calibration(
            reason="one subject only cannot show what helps others: the logits were left as they are"
        )
    _, fold = np.unique(np.asarray(inner_folds), return_inverse=True)
    if fold.max() == 0:
        fold = group
    scaled = np.empty_like(values)
    for number in range(fold.max() + 1):
        held_out = fold == number
        others = fit_temperature(values[~held_out], truth[~held_out], with_bias=with_bias)
        scaled[held_out] = others.logits(values[held_out])
    gains = _losses(values, truth) - _losses(scaled, truth)
    gain = gains.mean()
    of_groups = np.bincount(group, gains - gain)
    error = math.sqrt(len(names) / (len(names) - 1) * float(of_groups @ of_groups)) / len(gains)
    if gain > error:
        return fitted
    words = f"a temperature of {fitted.temperature:.3g}" + (
        f" and a bias of {fitted.bias:.3g}" if with_bias else ""
    )
    return Calibration(
        reason=f"{words} would fit best, but on held-out people fitting changed the log-likelihood of a cell by "
        f"{gain:+.4f}, no more than its standard error of {error:.4f}: the logits were left as they are"
    )


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike, *, with_bias: bool = False) -> Calibration:
    """Fit the temperature (and, on request, a bias) that make the labels of all rows most likely.

    Parameters
    ----------
    logits : (N,) of validation rows
    labels : (N,) of 0 and 1
    with_bias : bool
        A bias moves the threshold with the validation rows' share of blasts; leave it out where the share at
        use is another one.

    Returns
    -------
    Calibration
        Temperature 1 and a reason where one class is missing, or the logits do not rise with the label.

    Notes
    -----
    Minimises the mean negative log-likelihood, which is convex in (1 / temperature, bias): golden-section
    search over log temperature, with the best bias by Newton's steps inside. C. Guo et al., "On calibration
    of modern neural networks", ICML 2017, arXiv 1706.04599.
    """
    truth, values, _ = discrimination.checked(labels, logits)
    if truth.all() or not truth.any():
        return Calibration(reason="only one class is present: the logits were left as they are")
    if not np.isfinite(values).all():
        raise ValueError("logits must be finite")
    if values[truth].mean() <= values[~truth].mean():
        return Calibration(reason="the logits do not rise with the label: they were left as they are")
    target = truth.astype(np.float64)

    def best_bias(scaled: Floats) -> float:
        return _fit_bias(scaled, target) if with_bias else 0.0

    def loss(log_temperature: float) -> float:
        scaled = values / math.exp(log_temperature)
        return float(_losses(scaled + best_bias(scaled), target).mean())

    low, high = (math.log(end) for end in TEMPERATURE_RANGE)
    temperature = math.exp(_golden_section(loss, low, high))
    return Calibration(temperature, best_bias(values / temperature))


def _losses(logits: Floats, target: Floats) -> Floats:
    """Negative log-likelihood of each row."""
    return np.asarray(np.logaddexp(0.0, logits) - target * logits)


def _fit_bias(logits: Floats, target: Floats) -> float:
    """The bias at which the mean probability equals the share of blasts: the root of a rising function."""
    bias, low, high = 0.0, -np.abs(logits).max() - 40.0, np.abs(logits).max() + 40.0
    for _ in range(200):
        probabilities = sigmoid(logits + bias)
        excess = float((probabilities - target).mean())
        low, high = (low, bias) if excess > 0 else (bias, high)
        slope = float((probabilities * (1 - probabilities)).mean())
        step = bias - excess / slope if slope > 0 else math.nan
        following = step if low < step < high else (low + high) / 2
        if abs(following - bias) < 1e-12:
            break
        bias = following
    return float(bias)


def _golden_section(loss: Callable[[float], float], low: float, high: float) -> float:
    """Return the minimum of a function with one valley, to 1e-9."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-9:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return (low + high) / 2


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen.

    Attributes
    ----------
    kind
        ``sensitivity``: the highest threshold with at least this sensitivity (hence the best specificity).
        ``specificity``: the lowest threshold with at least this specificity.
        ``youden``: the largest sum of sensitivity and specificity.
        ``fixed``: ``target`` itself.
    target : 0..1
        Not used by ``youden``.
    unit
        What is counted: ``cell``, or ``subject``: cells weighted so that every subject counts the same.
    """

    kind: Literal["sensitivity", "specificity", "youden", "fixed"]
    target: float = 0.5
    unit: Literal["cell", "subject"] = "cell"

    @property
    def words(self) -> str:
        """The rule as a sentence for people."""
        counted = "over cells" if self.unit == "cell" else "over cells, every subject counting the same"
        if self.kind == "fixed":
            return f"threshold fixed at {self.target:g}"
        if self.kind == "youden":
            return f"largest sensitivity + specificity {counted} of the validation part"
        other = "specificity" if self.kind == "sensitivity" else "sensitivity"
        return f"{self.kind} >= {self.target:g} {counted} of the validation part, with the best {other}"

    @property
    def name(self) -> str:
        """Short name for programs."""
        if self.kind == "youden":
            return "youden"
        return f"{self.kind}_{f'{self.target * 100:g}'.replace('.', '_')}"


@dataclass(frozen=True)
class Infeasible:
    """No threshold satisfies the rule; ``reason`` says why."""

    reason: str


def choose_operating_point(
    rule: Rule,
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    subjects: npt.ArrayLike | None = None,
) -> OperatingPoint | Infeasible:
    """Choose the threshold that satisfies the rule on validation rows.

    The threshold lies halfway between two neighbouring probabilities, so that the rounding of another engine
    does not move a row across it.

    Parameters
    ----------
    probabilities : (N,), calibrated, 0..1
    labels : (N,) of 0 and 1
    subjects : (N,); needed for a rule over subjects

    Returns
    -------
    OperatingPoint or Infeasible
        Infeasible where one class is missing, or where the rule can be met only by calling everything one
        class.
    """
    if rule.kind == "fixed":
        return OperatingPoint(name=rule.name, threshold=rule.target, rule=rule.words)
    if not 0 < rule.target <= 1:
        raise ValueError(f"target = {rule.target}: expected a share above 0 and at most 1")
    weights = None
    if rule.unit == "subject":
        if subjects is None:
            raise ValueError("a rule over subjects needs the subject of each row")
        weights = equal_subject_weights(subjects)
    curve = discrimination.roc_curve(labels, probabilities, weights)
    if np.isnan(curve.sensitivity).any() or np.isnan(curve.specificity).any():
        return Infeasible(f"{rule.words}: only one class is present")
    if rule.kind == "youden":
        best = int(np.argmax(curve.sensitivity + curve.specificity))
    elif rule.kind == "sensitivity":
        best = int(np.argmax(curve.sensitivity >= rule.target - 1e-12))
    else:
        best = len(curve.specificity) - 1 - int(np.argmax(curve.specificity[::-1] >= rule.target - 1e-12))
    if best == 0 or best == len(curve.thresholds) - 1:
        everything = "normal" if best == 0 else "blast"
        return Infeasible(f"{rule.words}: met only by calling every row {everything}")
    threshold = float(curve.thresholds[best] + curve.thresholds[best + 1]) / 2
    return OperatingPoint(name=rule.name, threshold=threshold, rule=rule.words)
