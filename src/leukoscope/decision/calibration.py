"""Calibration and operating points: a few numbers fitted on validation rows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from leukoscope.decision.parameters import OperatingPoint
from leukoscope.stats import metrics as discrimination
from leukoscope.stats.metrics import Floats, checked_classes

TEMPERATURE_RANGE = (0.02, 50.0)
"""Fits outside are cut: there a logit would be switched on or off rather than scaled."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """``probabilities = softmax(logits / temperature + bias)``; ``reason`` states why nothing was fitted.

    ``bias`` has one number per class, the first of them 0; empty means no bias.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    reason: str | None = None

    def logits(self, logits: npt.ArrayLike) -> Floats:
        """Return calibrated logits (N, K); logits (N,) are the log-odds of the second of two classes."""
        scaled = as_matrix(logits) / self.temperature
        return scaled + np.asarray(self.bias, dtype=np.float64) if self.bias else scaled

    def probabilities(self, logits: npt.ArrayLike) -> Floats:
        """Return calibrated probabilities (N, K), 0..1, which sum to 1 in each row."""
        return softmax(self.logits(logits))


def as_matrix(logits: npt.ArrayLike, size: int | None = None) -> Floats:
    """Return logits as float64 (N, K); log-odds (N,) of the second of two classes become [0, z].

    Raises
    ------
    ValueError
        Another number of axes, or of classes than ``size``.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim == 1:
        values = np.stack([np.zeros_like(values), values], axis=1)
    if values.ndim != 2 or values.shape[1] < 2 or (size is not None and values.shape[1] != size):
        raise ValueError(
            f"logits of shape {np.shape(logits)}: expected (N, {size or 'K'}), or (N,) for two classes"
        )
    return values


def softmax(logits: npt.ArrayLike) -> Floats:
    """Return probabilities over the last axis without overflow; of [0, z] the second is the sigmoid of z."""
    values = np.asarray(logits, dtype=np.float64)
    small = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(small / small.sum(axis=-1, keepdims=True))


def log_sum_exp(logits: npt.ArrayLike) -> Floats:
    """Return log(sum(exp(logits))) over the last axis without overflow; of one number that number itself."""
    values = np.asarray(logits, dtype=np.float64)
    largest = values.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(values - largest).sum(axis=-1)) + largest[..., 0])


def group_log_odds(logits: npt.ArrayLike, members: Sequence[int]) -> Floats:
    """Return the log-odds of a group of classes against all others.

    Parameters
    ----------
    logits : (..., K)
    members : positions of the group's classes; some but not all of them
    """
    values = np.asarray(logits, dtype=np.float64)
    others = [position for position in range(values.shape[-1]) if position not in members]
    return np.asarray(log_sum_exp(values[..., list(members)]) - log_sum_exp(values[..., others]))


def class_log_odds(logits: npt.ArrayLike) -> Floats:
    """Return the log-odds of each class against all others, of the shape of ``logits`` (..., K)."""
    values = np.asarray(logits, dtype=np.float64)
    return np.stack([group_log_odds(values, [member]) for member in range(values.shape[-1])], axis=-1)


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
    """Fit a temperature on all rows, and keep it only if it helps on held-out subjects.

    Every subject has the same weight. Each inner fold in turn is scaled by the temperature of the others. The
    temperature is kept where the mean log-likelihood of the held-out subjects rises by more than one standard error
    over subjects; else the logits stay as they are. With few subjects the hardest ones dominate a temperature,
    and logits that come from an exactly fitted head are calibrated already.

    Parameters
    ----------
    logits : (N, K) of validation rows, or (N,) log-odds of the second of two classes
    labels : (N,) of 0 to K - 1
    groups : (N,), the merged subject of each row
    inner_folds : (N,), which inner network scored each row; where one network scored all, every group is a fold
    with_bias : bool
        See ``fit_temperature``.

    Returns
    -------
    Calibration
        Temperature 1 and a reason if nothing is fitted or fitting does not help.

    Notes
    -----
    The one-standard-error rule: L. Breiman et al., "Classification and regression trees",
    1984, chapter 3.4.3.
    """
    weights = equal_subject_weights(groups)
    fitted = fit_temperature(logits, labels, weights, with_bias=with_bias)
    if fitted.reason:
        return fitted
    values = as_matrix(logits)
    truth = checked_classes(labels, values.shape[1])
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
        others = fit_temperature(values[~held_out], truth[~held_out], weights[~held_out], with_bias=with_bias)
        scaled[held_out] = others.logits(values[held_out])
    of_cells = _losses(values, truth) - _losses(scaled, truth)
    gains = np.bincount(group, of_cells) / np.bincount(group)  # the mean over the cells of each subject
    gain = float(gains.mean())
    error = float(gains.std(ddof=1)) / math.sqrt(len(names))
    if gain > error:
        return fitted
    biases = ", ".join(f"{one:.3g}" for one in fitted.bias[1:])
    words = f"a temperature of {fitted.temperature:.3g}" + (f" and a bias of {biases}" if with_bias else "")
    return Calibration(
        reason=f"{words} would fit best, but on held-out subjects fitting changed the mean log-likelihood by "
        f"{gain:+.4f}, no more than its standard error of {error:.4f}: the logits were left as they are"
    )


def fit_temperature(
    logits: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    with_bias: bool = False,
) -> Calibration:
    """Fit the temperature (and, on request, a bias) that make the labels of all rows most likely.

    Parameters
    ----------
    logits : (N, K) of validation rows, or (N,) log-odds of the second of two classes
    labels : (N,) of 0 to K - 1
    weights : (N,) >= 0, how much each row counts; None for equally
    with_bias : bool
        A bias moves the threshold with the classes' shares in the validation rows; leave it out where the shares
        at use are others.

    Returns
    -------
    Calibration
        Temperature 1 and a reason where a class is missing, or the logits do not rise with the label.

    Notes
    -----
    Minimizes the mean negative log-likelihood, which is convex in (1 / temperature, bias): golden-section
    search over log temperature, with the best bias by Newton's steps inside. C. Guo et al., "On calibration
    of modern neural networks", ICML 2017, arXiv 1706.04599.
    """
    values = as_matrix(logits)
    size = values.shape[1]
    truth = checked_classes(labels, size)
    if np.isnan(values).any():
        raise ValueError(
            f"{int(np.isnan(values).any(axis=1).sum())} of {len(values)} rows of logits are not a number"
        )
    mass: Floats = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    mass = np.asarray(mass / max(float(mass.sum()), 1e-300), dtype=np.float64)
    shares = np.asarray(np.bincount(truth, mass, minlength=size), dtype=np.float64)
    if (shares > 0).sum() < 2:
        return Calibration(reason="only one class is present: the logits were left as they are")
    if size > 2 and not shares.all():
        return Calibration(reason="a class is missing: the logits were left as they are")
    if not np.isfinite(values).all():
        raise ValueError("logits must be finite")
    # The slope of the likelihood where the logits count nothing yet.
    if mass @ values[np.arange(len(truth)), truth] <= shares @ (mass @ values):
        return Calibration(reason="the logits do not rise with the label: they were left as they are")

    def best_bias(scaled: Floats) -> Floats:
        return _fit_bias(scaled, shares, mass) if with_bias else np.zeros(size)

    def loss(log_temperature: float) -> float:
        scaled = values / math.exp(log_temperature)
        return float(mass @ _losses(scaled + best_bias(scaled), truth))

    low, high = (math.log(end) for end in TEMPERATURE_RANGE)
    temperature = math.exp(_golden_section(loss, low, high))
    return Calibration(temperature, tuple(best_bias(values / temperature).tolist()) if with_bias else ())


def _losses(logits: Floats, truth: npt.NDArray[np.intp]) -> Floats:
    """Negative log-likelihood of each row."""
    return log_sum_exp(logits) - logits[np.arange(len(truth)), truth]


def _fit_bias(logits: Floats, shares: Floats, mass: Floats) -> Floats:
    """The bias of each class, the first one's 0, at which mean probabilities equal the classes' shares.

    ``mass`` (N,) are weights of sum 1. It minimizes a convex function, the mean of log-sum-exp minus bias times
    share, by Newton's steps that are halved until the function falls.
    """
    bias = np.zeros(len(shares))

    def value(at: Floats) -> float:
        return float(mass @ log_sum_exp(logits + at) - at @ shares)

    current = value(bias)
    for _ in range(200):
        probabilities = softmax(logits + bias)
        mean = mass @ probabilities
        slope = (mean - shares)[1:]
        curvature = (np.diag(mean) - (probabilities.T * mass) @ probabilities)[1:, 1:]
        # Saturated rows leave almost no curvature: a small part of the identity keeps the step finite.
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(slope)), slope)
        step *= min(1.0, 10.0 / max(float(np.abs(step).max()), 1e-300))
        for _ in range(60):
            following = bias.copy()
            following[1:] -= step
            if (lower := value(following)) <= current:
                break
            step /= 2
        if float(np.abs(following - bias).max()) < 1e-12:
            break
        bias, current = following, lower
    return bias


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
        ``argmax``: no threshold, the likeliest class is called.
    target : 0..1
        Not used by ``youden`` and ``argmax``.
    unit
        Statistical unit: ``cell``, or ``subject``: cells weighted so that every subject has the same weight.
    """

    kind: Literal["sensitivity", "specificity", "youden", "fixed", "argmax"]
    target: float = 0.5
    unit: Literal["cell", "subject"] = "cell"

    @property
    def words(self) -> str:
        """The rule as a sentence."""
        counted = "over cells" if self.unit == "cell" else "over cells, every subject counting the same"
        if self.kind == "argmax":
            return "the likeliest class"
        if self.kind == "fixed":
            return f"threshold fixed at {self.target:g}"
        if self.kind == "youden":
            return f"largest sensitivity + specificity {counted} of the validation part"
        other = "specificity" if self.kind == "sensitivity" else "sensitivity"
        return f"{self.kind} >= {self.target:g} {counted} of the validation part, with the best {other}"

    @property
    def name(self) -> str:
        """Short name for programs."""
        if self.kind in ("youden", "argmax"):
            return self.kind
        return f"{self.kind}_{f'{self.target * 100:g}'.replace('.', '_')}"


@dataclass(frozen=True)
class Infeasible:
    """No threshold satisfies the rule; ``reason`` states why."""

    reason: str


def choose_operating_point(
    rule: Rule,
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    subjects: npt.ArrayLike | None = None,
) -> OperatingPoint | Infeasible:
    """Choose the threshold on the positive group's probability that satisfies the rule on validation rows.

    The threshold is halfway between two neighboring probabilities, so that the rounding of another engine
    does not move a row across it.

    Parameters
    ----------
    probabilities : (N,) of the positive group, calibrated, 0..1
    labels : (N,) of 0 and 1, 1 for the positive group
    subjects : (N,); needed for a rule over subjects

    Returns
    -------
    OperatingPoint or Infeasible
        Infeasible if one class is missing, or if the rule can be met only by calling all cells one
        class.
    """
    if rule.kind == "argmax":
        return OperatingPoint(name=rule.name, threshold=None, rule=rule.words)
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
        everything = "negative" if best == 0 else "positive"
        return Infeasible(f"{rule.words}: met only by calling every row {everything}")
    threshold = float(curve.thresholds[best] + curve.thresholds[best + 1]) / 2
    return OperatingPoint(name=rule.name, threshold=threshold, rule=rule.words)
