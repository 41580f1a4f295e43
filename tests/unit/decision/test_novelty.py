"""The novelty score: what it means, what it costs, what it refuses to read."""

import re

import numpy as np
import pytest
from safetensors.numpy import load, save

from leukoscope.core.errors import BundleError
from leukoscope.decision.novelty import NoveltyModel


def draw_embeddings(rng: np.random.Generator, size: int, dimension: int = 200) -> np.ndarray:
    """Vary in ten directions, hardly in the others: like the embedding of a network."""
    return rng.normal(size=(size, 10)) @ BASIS[:10, :dimension] * 3 + 0.1 * rng.normal(size=(size, dimension))


BASIS = np.linalg.qr(np.random.default_rng(99).normal(size=(200, 200)))[0]


def test_training_cells_score_about_one_and_both_kinds_of_out_of_distribution_images_more() -> None:
    rng = np.random.default_rng(0)
    model = NoveltyModel.fit(draw_embeddings(rng, 2_000), components=10)
    unseen = model.score(draw_embeddings(rng, 500))
    assert unseen.dtype == np.float32 and unseen.shape == (500,)
    assert 0.9 < unseen.mean() < 1.1
    along = draw_embeddings(rng, 50) + 100 * BASIS[0]  # far along what training cells vary in
    beside = draw_embeddings(rng, 50) + 3 * BASIS[150]  # beside it, by less than the cells' own spread
    assert model.score(along).min() > unseen.max()
    assert model.score(beside).min() > unseen.max()


def test_score_is_the_mahalanobis_distance() -> None:
    rng = np.random.default_rng(1)
    train = rng.normal(size=(3_000, 6)) @ rng.normal(size=(6, 6))
    model = NoveltyModel.fit(train, components=5)  # all but one direction: the residual is that one
    covariance = np.cov(train.T, bias=True)
    new = rng.normal(size=(20, 6)) * 3
    centered = new - train.mean(axis=0)
    expected = np.sqrt(np.einsum("nd,de,ne->n", centered, np.linalg.inv(covariance), centered) / 6)
    np.testing.assert_allclose(model.score(new), expected, rtol=1e-3)


def test_subjects_weigh_the_same() -> None:
    rng = np.random.default_rng(2)
    large, small = rng.normal(size=(1_000, 5)), 4 + rng.normal(size=(20, 5))
    groups = np.repeat(["large", "small"], [1_000, 20])
    cells = np.concatenate([large, small])
    equal = NoveltyModel.fit(cells, groups, components=3)
    np.testing.assert_allclose(equal.mean, (large.mean(axis=0) + small.mean(axis=0)) / 2, rtol=1e-5)
    assert equal.score(small).mean() < NoveltyModel.fit(cells, components=3).score(small).mean()


def test_model_survives_safetensors_and_stays_small() -> None:
    rng = np.random.default_rng(3)
    model = NoveltyModel.fit(rng.normal(size=(300, 1536)))
    content = save(model.to_tensors())
    assert len(content) < 2_000_000  # a score multiplies by no more numbers than these, once a cell
    new = rng.normal(size=(64, 1536)).astype(np.float32)
    again = NoveltyModel.from_tensors(load(content))
    np.testing.assert_array_equal(again.score(new), model.score(new))
    np.testing.assert_allclose(model.score(new[:1]), model.score(new)[:1], rtol=1e-4)


def test_embeddings_on_one_side_of_the_origin_are_compared_by_direction() -> None:
    rng = np.random.default_rng(4)
    train = 5 + rng.normal(size=(500, 30))
    model = NoveltyModel.fit(train * rng.uniform(0.5, 2.0, size=(500, 1)))
    assert model.normalized
    new = 5 + rng.normal(size=(50, 30))
    np.testing.assert_allclose(model.score(new), model.score(7 * new), rtol=1e-3)
    assert np.isfinite(model.score(np.zeros((1, 30)))).all()
    assert not NoveltyModel.fit(train - 5).normalized
    again = NoveltyModel.from_tensors(load(save(model.to_tensors())))
    np.testing.assert_array_equal(again.score(new), model.score(new))


def test_constant_directions_do_not_divide_by_zero() -> None:
    train = np.zeros((10, 8))
    train[:, 0] = np.arange(10) - 4.5
    model = NoveltyModel.fit(train)
    scores = model.score(np.array([train[5], train[5] + np.eye(8)[3]]))
    assert np.isfinite(scores).all() and scores[1] > 100 * scores[0]
    same = NoveltyModel.fit(np.ones((5, 4)))
    assert np.isfinite(same.score(np.zeros((1, 4)))).all()


@pytest.mark.parametrize(
    "embeddings", [np.zeros((2, 4)), np.zeros(4), np.full((5, 4), np.nan), np.array([[1.0, np.inf]] * 4)]
)
def test_unusable_embeddings_are_refused(embeddings: np.ndarray) -> None:
    with pytest.raises(ValueError, match=re.escape(str(embeddings.shape))):
        NoveltyModel.fit(embeddings)


def test_embeddings_of_another_network_are_refused() -> None:
    model = NoveltyModel.fit(np.random.default_rng(0).normal(size=(9, 4)))
    with pytest.raises(ValueError, match=r"\(1, 5\).*\(N, 4\)"):
        model.score(np.zeros((1, 5)))


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan", "negative", "flag"])
def test_damaged_tensors_are_refused(fault: str) -> None:
    tensors = dict(NoveltyModel.fit(np.random.default_rng(0).normal(size=(9, 4)), components=2).to_tensors())
    if fault == "missing":
        del tensors["mean"]
    elif fault == "extra":
        tensors["more"] = np.zeros(1, np.float32)
    elif fault == "shape":
        tensors["directions"] = tensors["directions"][:, :-1]
    elif fault == "nan":
        tensors["mean"] = tensors["mean"] * np.float32(np.nan)
    elif fault == "flag":
        tensors["normalised"] = np.array([0.5], np.float32)
    else:
        tensors["scales"] = -tensors["scales"]
    with pytest.raises(BundleError):
        NoveltyModel.from_tensors(tensors)
