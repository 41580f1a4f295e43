"""Shortcut baselines: size and color alone, on the same split as the network.

In C-NMC the area of a cell predicts most labels. A network's result should be compared with
these two, on the same cells: the area alone, and gradient boosting on nine scalars (area, box, color moments).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import BaggingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from leukoscope.core.errors import SplitError
from leukoscope.core.terms import Label
from leukoscope.data.table import LABEL_VALUES
from leukoscope.decision.calibration import equal_subject_weights
from leukoscope.imaging.descriptors import NINE_SCALARS
from leukoscope.stats.metrics import confusion, f1_weighted, roc_auc

BAGS: Final = 10
"""Boosted models that are averaged. One alone moves by about 0.005 in AUC when the mask's threshold moves by some gray
levels; the mean of ten on bootstrap samples does not depend on such accidents."""
_PROBABILITY_MARGIN: Final = 1e-6


@dataclass(frozen=True)
class BaselineScores:
    """Scores of a baseline for the cells of a test part, row by row."""

    name: str
    cells: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,) of 0 (normal) and 1 (blast)."""
    logit: NDArray[np.float64]
    """(N,) log-odds of blast."""
    probability: NDArray[np.float64]
    """(N,), 0 to 1."""

    @property
    def auc(self) -> float:
        """Return the ROC AUC over cells; not a number where the part lacks a class."""
        return roc_auc(self.labels, self.logit)

    @property
    def weighted_f1(self) -> float:
        """Return the weighted F1 over cells at a probability of 0.5."""
        return float(f1_weighted(confusion(self.labels, self.probability >= 0.5)))


def area_baseline(cells: pd.DataFrame, train: Sequence[str], test: Sequence[str]) -> BaselineScores:
    """Classify cells by their foreground area alone.

    Parameters
    ----------
    cells
        Cell table.
    train, test
        Keys of the two sides.

    Returns
    -------
    BaselineScores
        Logistic regression on the area, every subject of the same weight within its class: its AUC is that of the
        area itself, oriented as on the training side.

    Raises
    ------
    SplitError
        The training side lacks a class, or a key is not among the labeled cells of the table.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return _predict("area", model, ("area_px",), cells, (train, test))


def nine_scalars_baseline(
    cells: pd.DataFrame, train: Sequence[str], test: Sequence[str], seed: int = 0
) -> BaselineScores:
    """Classify cells by nine scalars: area, sides of the box, mean and standard deviation of R, G and B.

    Parameters
    ----------
    cells
        Cell table.
    train, test
        Keys of the two sides.
    seed
        Of the bootstrap samples.

    Returns
    -------
    BaselineScores
        The mean of ten histogram gradient boosting models with scikit-learn's defaults, every subject of the same
        weight within its class.

    Raises
    ------
    SplitError
        As ``area_baseline``.
    """
    boosting = HistGradientBoostingClassifier(random_state=seed)
    model = BaggingClassifier(boosting, n_estimators=BAGS, random_state=seed)
    return _predict("nine_scalars", model, NINE_SCALARS, cells, (train, test))


BASELINES: Final[Mapping[str, Callable[[pd.DataFrame, Sequence[str], Sequence[str]], BaselineScores]]] = (
    MappingProxyType({"area": area_baseline, "nine_scalars": nine_scalars_baseline})
)
"""The baselines by name, with default seeds."""


def _predict(
    name: str,
    model: Any,
    columns: Sequence[str],
    cells: pd.DataFrame,
    sides: tuple[Sequence[str], Sequence[str]],
) -> BaselineScores:
    train, test = sides
    rows = cells.set_index("cell")
    train_labels, test_labels = _labels(rows, train, "train"), _labels(rows, test, "test")
    if len(np.unique(train_labels)) < len(Label):
        raise SplitError(f"baseline {name!r}: the training side of {len(train)} cells lacks a class")
    # One thread: with some thousand rows the threads wait for each other longer than they work.
    with threadpool_limits(1):
        model.fit(_features(rows, train, columns), train_labels, **_weights(model, rows, train, train_labels))
        probability = model.predict_proba(_features(rows, test, columns))[:, 1]
    inner = np.clip(probability, _PROBABILITY_MARGIN, 1 - _PROBABILITY_MARGIN)
    return BaselineScores(name, tuple(test), test_labels, np.log(inner / (1 - inner)), probability)


def _features(rows: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> NDArray[np.float64]:
    return rows.loc[list(keys), list(columns)].to_numpy(np.float64)


def _labels(rows: pd.DataFrame, keys: Sequence[str], side: str) -> NDArray[np.int64]:
    known = rows["label"].reindex(list(keys))
    wrong = ~known.isin(list(LABEL_VALUES))
    if wrong.any() or not len(known):
        named = repr(keys[int(wrong.to_numpy().argmax())]) if len(known) else "none"
        raise SplitError(f"baseline, {side} side: {named}: labeled cells of the table are needed")
    return np.array([int(LABEL_VALUES[word]) for word in known], np.int64)


def _weights(
    model: Any, rows: pd.DataFrame, keys: Sequence[str], labels: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Return the fit's keyword with a weight for each row: classes of the same weight, and subjects within them."""
    subjects = rows.loc[list(keys), "group"].astype(str).to_numpy()
    pairs = np.array([f"{label}/{name}" for label, name in zip(labels, subjects, strict=True)])
    weights = equal_subject_weights(pairs)
    for label in Label:
        chosen = labels == int(label)
        weights[chosen] *= len(labels) / (len(Label) * weights[chosen].sum())
    name = f"{model.steps[-1][0]}__sample_weight" if isinstance(model, Pipeline) else "sample_weight"
    return {name: weights}
