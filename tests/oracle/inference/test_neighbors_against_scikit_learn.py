"""Nearest cells: the same as scikit-learn finds, and never of a person who was left out."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from leukoscope.core.errors import UsageError
from leukoscope.inference.neighbors import NeighborIndex
from leukoscope.inference.predictor import Predictor
from small_bundle import sample_paths


def test_the_same_neighbors_as_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    references, asked = rng.normal(1, 1, (200, 24)), rng.normal(1, 1, (30, 24))
    oracle = NearestNeighbors(n_neighbors=7, metric="cosine").fit(references)
    distances, rows = oracle.kneighbors(asked)
    index = NeighborIndex(references)
    for number, embedding in enumerate(asked):
        found = index.nearest(embedding, 7)
        assert [one.row for one in found] == rows[number].tolist()
        np.testing.assert_allclose([one.distance for one in found], distances[number], atol=1e-6)


def test_a_cell_is_nearest_to_itself_unless_its_subject_is_excluded(small_predictor: Predictor) -> None:
    predictions = [
        small_predictor.predict(path, subject=path.name.split("_")[1]) for path in sample_paths()[:12]
    ]
    scored = [one for one in predictions if one.embedding is not None]
    index = NeighborIndex.of(scored)
    for row, one in enumerate(scored):
        first = index.nearest(one.embedding, 1)[0]
        assert first.distance == pytest.approx(0, abs=1e-6)
        assert first.row == row
        others = index.nearest(one.embedding, 99, without_subjects={one.result.subject})
        assert {index.subjects[other.row] for other in others}.isdisjoint({one.result.subject})
        assert len(others) == sum(other.result.subject != one.result.subject for other in scored)


@pytest.mark.parametrize(
    ("embeddings", "subjects"), [(np.ones(3), None), (np.zeros((2, 3)), None), (np.ones((2, 3)), ["a"])]
)
def test_what_cannot_be_indexed_is_refused(embeddings: np.ndarray, subjects: list[str] | None) -> None:
    with pytest.raises(UsageError):
        NeighborIndex(embeddings, subjects)


def test_refused_images_and_other_bundles_are_refused(small_predictor: Predictor) -> None:
    blank = small_predictor.predict(np.zeros((450, 450, 3), np.uint8))
    with pytest.raises(UsageError, match="image"):
        NeighborIndex.of([blank])
    with pytest.raises(UsageError, match=r"\(4,\).*\(3,\)"):
        NeighborIndex(np.ones((2, 3))).nearest(np.ones(4))
