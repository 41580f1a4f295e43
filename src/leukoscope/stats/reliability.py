"""Calibration of probabilities: reliability curves and calibration errors.

Unit of analysis: the rows that are given, cells or subjects; ``weights`` count a row more than once.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leukoscope.stats.metrics import Floats, checked, checked_classes

DEFAULT_BINS = 15


class ReliabilityCurve(NamedTuple):
    """Equal-mass bins from the lowest probability up: mean probability, share of blasts and mass of each."""

    predicted: Floats
    observed: Floats
    mass: Floats


def brier(labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Return the mean squared distance of probability and label, 0 (perfect) to 1; not a number without rows.

    G. W. Brier, Monthly Weather Review 78 (1950) 1-3, doi 10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    truth, shares, mass = _probabilities(labels, probabilities, weights)
    return _mean((shares - truth) ** 2, mass)


def log_loss(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Return the mean negative log-likelihood in nats, >= 0; infinite where a certainty was wrong."""
    truth, shares, mass = _probabilities(labels, probabilities, weights)
    with np.errstate(divide="ignore"):
        loss = -np.log(np.where(truth, shares, 1 - shares))
    counted = mass > 0  # 0 * inf is not a number; a row of weight 0 is not there.
    return _mean(loss[counted], mass[counted])


def class_brier(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Return the mean squared distance of the probabilities (N, K) and the one-hot label, 0 (perfect) to 2.

    Of two classes it is twice ``brier``.
    """
    truth, shares, mass = _class_probabilities(labels, probabilities, weights)
    return _mean(((shares - np.eye(shares.shape[1])[truth]) ** 2).sum(axis=1), mass)


def class_log_loss(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Return the mean negative log-likelihood in nats of probabilities (N, K); infinite where a certainty was wrong."""
    truth, shares, mass = _class_probabilities(labels, probabilities, weights)
    with np.errstate(divide="ignore"):
        loss = -np.log(shares[np.arange(len(truth)), truth])
    return _mean(loss[mass > 0], mass[mass > 0])


def top_label_ece(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = DEFAULT_BINS,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Return the ECE of the likeliest class: its probability against how often it is the true one.

    C. Gupta, A. Ramdas, "Top-label calibration and multiclass-to-binary reductions", ICLR 2022, arXiv 2107.08353.
    """
    truth, shares, mass = _class_probabilities(labels, probabilities, weights)
    return ece((shares.argmax(axis=1) == truth).astype(int), shares.max(axis=1), bins, mass)


def _class_probabilities(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    shares = np.asarray(probabilities, dtype=np.float64)
    if shares.ndim != 2:
        raise ValueError(f"probabilities {shares.shape}: expected (N, K)")
    truth = checked_classes(labels, shares.shape[1])
    mass = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(truth) != len(shares) or mass.shape != truth.shape:
        raise ValueError(
            f"labels {truth.shape}, probabilities {shares.shape}, weights {mass.shape}: expected one length"
        )
    if np.isnan(shares).any() or (shares.size and not (shares.min() >= 0 and shares.max() <= 1)):
        raise ValueError("probabilities: expected numbers from 0 to 1")
    return truth, shares, mass


def equal_mass_bins(probabilities: npt.ArrayLike, bins: int = DEFAULT_BINS) -> npt.NDArray[np.intp]:
    """Return the bin of each row, 0 the lowest: bins of as nearly equal counts as ties allow.

    Equal probabilities always share a bin, so that the order of the rows does not matter.

    Parameters
    ----------
    probabilities : (N,)
    bins : >= 1; fewer are returned if there are fewer distinct values

    Returns
    -------
    numpy.ndarray
        (N,), every number from 0 to the largest is used.
    """
    shares = np.asarray(probabilities, dtype=np.float64)
    if bins < 1:
        raise ValueError(f"bins = {bins}: expected at least 1")
    _, position, counts = np.unique(shares, return_inverse=True, return_counts=True)
    # The middle rank of a run of equal values decides for the whole run.
    middle = np.cumsum(counts) - (counts + 1) / 2
    wanted = np.minimum((middle * bins / max(1, len(shares))).astype(np.intp), bins - 1)
    _, dense = np.unique(wanted[position], return_inverse=True)
    return dense


def reliability_curve(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = DEFAULT_BINS,
    weights: npt.ArrayLike | None = None,
) -> ReliabilityCurve:
    """Return mean probability and share of blasts in equal-mass bins (the bins count rows, not weights)."""
    truth, shares, mass = _probabilities(labels, probabilities, weights)
    place = equal_mass_bins(shares, bins)
    total = np.bincount(place, mass).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return ReliabilityCurve(
            np.bincount(place, mass * shares) / total, np.bincount(place, mass * truth) / total, total
        )


def ece(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    bins: int = DEFAULT_BINS,
    weights: npt.ArrayLike | None = None,
) -> float:
    """Return the expected calibration error: mean distance of probability and share of blasts over equal-mass bins.

    Even a perfectly calibrated model gets a value above 0, the more so the fewer rows a bin holds.

    References
    ----------
    Equal mass rather than equal width: R. Roelofs et al., "Mitigating bias in calibration error estimation",
    AISTATS 2022, arXiv 2012.08668.
    """
    curve = reliability_curve(labels, probabilities, bins, weights)
    counted = curve.mass > 0
    return _mean(np.abs(curve.predicted - curve.observed)[counted], curve.mass[counted])


def _probabilities(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    truth, shares, mass = checked(labels, probabilities, weights)
    if shares.size and not (shares.min() >= 0 and shares.max() <= 1):
        raise ValueError(f"probabilities reach from {shares.min()} to {shares.max()}: expected 0 to 1")
    return truth, shares, mass


def _mean(values: Floats, mass: Floats) -> float:
    total = float(mass.sum())
    return float(values @ mass) / total if total > 0 else float("nan")
