"""Estimators for scikit-learn pipelines: embeddings of a bundle, and a subject-balanced logistic regression.

Needs the extra ``evaluate``.

>>> from sklearn.pipeline import make_pipeline
>>> from leukoscope import datasets
>>> from leukoscope.estimators import CellEmbedding, SubjectLogisticRegression
>>> cells = datasets.sample()
>>> pipeline = make_pipeline(CellEmbedding(), SubjectLogisticRegression())
>>> pipeline = pipeline.fit(cells.paths, cells.labels, subjectlogisticregression__subjects=cells.subjects)
>>> pipeline.predict_proba(cells.paths[:2]).shape
(2, 2)
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from leukoscope.metrics import subject_weights

__all__ = ["CellEmbedding", "SubjectLogisticRegression"]


class CellEmbedding(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images in, embeddings of a bundle's network out; nothing is fitted.

    Parameters
    ----------
    model
        A name of ``leukoscope.list_models()`` or the folder of a bundle; None for the default.
    tta
        1, 4 or 8 views whose embeddings are averaged.
    """

    def __init__(self, model: Any = None, tta: int = 1) -> None:
        self.model = model
        self.tta = tta

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Load the model.

        Parameters
        ----------
        X
            Paths, bytes, Pillow images or uint8 arrays.
        y
            Ignored.
        """
        from leukoscope.api import load_model

        self.predictor_ = load_model(self.model, tta=self.tta)
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:  # noqa: N803
        """Return the embeddings, float32 (N, D).

        Raises
        ------
        ImageError
            An image cannot be read.
        """
        check_is_fitted(self, "predictor_")
        return self.predictor_.embed(X)

    def __sklearn_tags__(self) -> Any:
        """Return the error for an input that is not a numeric matrix."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags


class SubjectLogisticRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Standardized logistic regression in which each subject has the same weight within its class.

    Parameters
    ----------
    C
        Inverse strength of the L2 penalty. With subjects the total weight is the number of subjects, without them
        the number of rows.
    max_iter
        Of the solver.

    Attributes
    ----------
    classes_ : numpy.ndarray
        (K,) class labels.
    """

    def __init__(self, C: float = 1.0, max_iter: int = 1000) -> None:  # noqa: N803
        self.C = C
        self.max_iter = max_iter

    def fit(
        self,
        X: npt.ArrayLike,  # noqa: N803
        y: npt.ArrayLike,
        subjects: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Fit the regression.

        Parameters
        ----------
        X
            (N, D) features.
        y
            (N,) class labels.
        subjects
            (N,) subject of each row; without it each row has the same weight.
        sample_weight
            (N,) >= 0, multiplied with the subjects' weights.
        """
        features, labels = validate_data(self, X, y)
        check_classification_targets(labels)
        weights = _check_sample_weight(sample_weight, features, ensure_non_negative=True)
        if subjects is not None:
            weights = weights * subject_weights(labels, subjects)
        if not weights.sum() > 0:
            raise ValueError("sample_weight: every weight is 0; at least one row must count")
        self.pipeline_: Pipeline = make_pipeline(
            StandardScaler(), LogisticRegression(C=self.C, max_iter=self.max_iter)
        )
        self.pipeline_.fit(
            features,
            labels,
            standardscaler__sample_weight=weights,
            logisticregression__sample_weight=weights,
        )
        self.classes_ = self.pipeline_.classes_
        self.n_iter_ = self.pipeline_[-1].n_iter_
        return self

    def decision_function(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:  # noqa: N803
        """Return the logits: (N,) for two classes, (N, K) for more."""
        return np.asarray(self._fitted().decision_function(self._checked(X)))

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float64]:  # noqa: N803
        """Return class probabilities, (N, K)."""
        return np.asarray(self._fitted().predict_proba(self._checked(X)))

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:  # noqa: N803
        """Return the class of each row, (N,)."""
        return np.asarray(self._fitted().predict(self._checked(X)))

    def _fitted(self) -> Pipeline:
        check_is_fitted(self, "pipeline_")
        return self.pipeline_

    def _checked(self, X: npt.ArrayLike) -> Any:  # noqa: N803
        return validate_data(self, X, reset=False)
