"""Conformal prediction sets over subjects, with the method names of MAPIE.

A set contains the true class of a random cell of a *new subject* with probability ``1 - alpha`` at least, however alike
the cells of one subject are. Method: see ``leukoscope.decision.conformal``.
"""

from typing import Self

import numpy as np
import numpy.typing as npt

from leukoscope.core.errors import UsageError
from leukoscope.decision.conformal import subject_quantile, subjects_needed

__all__ = ["SubjectConformalClassifier"]


class SubjectConformalClassifier:
    """Split-conformal sets by class, calibrated on subjects that the model was not trained on.

    Parameters
    ----------
    alpha
        Error rate, 0..1, ends excluded: 0.1 for sets that hold the true class for 90 % of new subjects' cells.

    Attributes
    ----------
    classes_ : numpy.ndarray
        (K,) class labels in sorted order.
    quantiles_ : list
        ``ClassQuantile`` of each class. With fewer than ``1 / alpha - 1`` subjects a class has no finite limit
        and stays in every set.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 40)
    >>> subjects = np.repeat(np.arange(40), 2)
    >>> logits = rng.normal(4 * y - 2, 1.0)
    >>> sets = SubjectConformalClassifier(alpha=0.2).conformalize(logits, y, subjects).predict_set([3.0, -3.0])
    >>> sets.tolist()
    [[False, True], [True, False]]
    """

    def __init__(self, alpha: float = 0.1) -> None:
        if not 0 < alpha < 1:
            raise UsageError(f"alpha = {alpha}: expected an error rate between 0 and 1")
        self.alpha = alpha

    def conformalize(self, logits: npt.ArrayLike, y: npt.ArrayLike, subjects: npt.ArrayLike) -> Self:
        """Fit the limit of each class.

        Parameters
        ----------
        logits
            (N,) log-odds of class 1 of two, or (N, K) logits in the order of the sorted class labels.
        y
            (N,) class labels.
        subjects
            (N,) subject of each row.

        Raises
        ------
        UsageError
            The shapes do not fit, or the number of columns is not the number of classes.
        """
        labels, names = np.asarray(y), np.asarray(subjects)
        self.classes_ = np.unique(labels)
        scores = _nonconformity(logits)
        if scores.shape != (len(labels), len(self.classes_)) or names.shape != labels.shape:
            raise UsageError(
                f"logits {np.shape(logits)}, y {labels.shape} of {len(self.classes_)} classes, subjects "
                f"{names.shape}: expected (N,) for two classes or (N, K), (N,) and (N,)"
            )
        rows = [labels == label for label in self.classes_]
        self.quantiles_ = [
            subject_quantile(scores[chosen, column], names[chosen], self.alpha)
            for column, chosen in enumerate(rows)
        ]
        return self

    def predict_set(self, logits: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return which classes stay in the set of each row.

        Parameters
        ----------
        logits
            As for ``conformalize``.

        Returns
        -------
        numpy.ndarray
            bool (N, K).
        """
        if not hasattr(self, "quantiles_"):
            raise UsageError("the limits are not fitted; call .conformalize(logits, y, subjects) first")
        scores = _nonconformity(logits)
        if scores.shape[1] != len(self.classes_):
            raise UsageError(f"logits of {scores.shape[1]} classes: expected {len(self.classes_)}")
        limits = [np.inf if entry.quantile is None else entry.quantile for entry in self.quantiles_]
        return np.asarray(scores <= np.array(limits), dtype=np.bool_)

    def subjects_needed(self) -> int:
        """Return how many subjects a class needs for a finite limit at ``alpha``."""
        return subjects_needed(self.alpha)


def _nonconformity(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the margin of the other classes over each class, (N, K); for two classes minus and plus the log-odds."""
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim == 1:
        values = np.stack([np.zeros_like(values), values], axis=1)
    if values.ndim != 2 or values.shape[1] < 2:
        raise UsageError(f"logits of shape {values.shape}: expected (N,) or (N, K) with K >= 2")
    if not np.isfinite(values).all():
        raise UsageError("logits hold values that are not finite")
    margins = np.empty_like(values)
    for column in range(values.shape[1]):
        others = np.delete(values, column, axis=1)
        top = others.max(axis=1)
        margins[:, column] = top + np.log(np.exp(others - top[:, None]).sum(axis=1)) - values[:, column]
    return margins
