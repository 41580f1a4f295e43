"""The estimators follow scikit-learn's rules and stand in its pipelines."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from leukoscope import datasets
from leukoscope.estimators import CellEmbedding, SubjectLogisticRegression


def test_the_classifier_keeps_the_rules_of_scikit_learn() -> None:
    check_estimator(SubjectLogisticRegression(), on_skip=None)


def test_without_subjects_it_is_a_standardized_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(80, 5)), rng.integers(0, 2, 80)
    ours = SubjectLogisticRegression(C=0.1).fit(features, labels)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(features, labels)
    assert ours.predict_proba(features) == pytest.approx(theirs.predict_proba(features), abs=1e-6)


def test_subjects_have_equal_weight() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(40, 3)), np.repeat([0, 1], 20)
    subjects = np.arange(40) // 2
    repeated = np.concatenate([np.arange(40), np.repeat([0, 1], 50)])  # subject 0 has 51 times its two cells
    once = SubjectLogisticRegression().fit(features, labels, subjects=subjects)
    often = SubjectLogisticRegression().fit(features[repeated], labels[repeated], subjects=subjects[repeated])
    ratio = often.decision_function(features) - once.decision_function(features)
    unweighted = SubjectLogisticRegression().fit(features[repeated], labels[repeated])
    stale = unweighted.decision_function(features) - once.decision_function(features)
    assert np.abs(ratio).max() < 0.3 * np.abs(stale).max()


def test_embedding_and_classifier_form_a_pipeline(small_bundle_path) -> None:
    cells = datasets.sample()[::6]
    pipeline = make_pipeline(CellEmbedding(small_bundle_path), SubjectLogisticRegression(C=1.0))
    name = "subjectlogisticregression__subjects"
    fitted = pipeline.fit(cells.paths, cells.labels, **{name: cells.subjects})
    assert fitted.predict_proba(cells.paths).sum(axis=1) == pytest.approx(np.ones(len(cells)))
    embeddings = CellEmbedding(small_bundle_path).fit_transform(cells.paths)
    predicted = cross_val_predict(
        SubjectLogisticRegression(), embeddings, cells.labels, groups=cells.subjects, cv=GroupKFold(2)
    )
    assert set(predicted) <= {"blast", "normal"}
