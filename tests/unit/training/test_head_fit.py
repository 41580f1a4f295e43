"""The exact fit of the head against scikit-learn, and what it is refused for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from leukoscope.core.config import build, read_toml
from leukoscope.core.errors import ConfigError
from leukoscope.training.fit.head_fit import fit_head
from leukoscope.training.fit.optimizer import Objective
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import LossSettings, NetworkSettings, TrainSettings

CONFIGS = Path(__file__).parents[3] / "configs"


def fitted(penalty: float, descriptors: bool, weights: np.ndarray | None = None):
    rng = np.random.default_rng(0)
    network = CellNetwork(
        NetworkSettings(
            arch="resnet10t",
            input_px=64,
            weights="none",
            standardize_features=True,
            descriptor_head=descriptors,
            descriptor_products=descriptors,
        )
    ).eval()
    count = 300
    embedding = torch.from_numpy(rng.normal(size=(count, network.embedding_width)))
    measured = torch.from_numpy(rng.normal(size=(count, 9))) if descriptors else None
    labels = (embedding[:, 0] + 0.5 * torch.from_numpy(rng.normal(size=count)) > 0).double()
    network.feature_mean.copy_(embedding.mean(dim=0))
    network.feature_std.copy_(embedding.std(dim=0))
    counted = np.ones(count) if weights is None else weights
    objective = Objective(LossSettings(), labels.float(), torch.zeros(count).long(), torch.device("cpu"))
    fit_head(
        network,
        embedding,
        measured,
        labels,
        weights=torch.from_numpy(counted),
        objective=objective,
        penalty=penalty,
    )
    inputs = [network.standardize(embedding)] + ([] if measured is None else [network.expand(measured)])
    with torch.no_grad():
        logits = network.classify(
            network.standardize(embedding).float(), None if measured is None else measured.float()
        )[:, 0]
    return torch.cat(inputs, dim=1).double().numpy(), labels.numpy(), counted, logits.numpy()


@pytest.mark.parametrize("penalty", [0.01, 0.3])
@pytest.mark.parametrize("descriptors", [False, True])
def test_fit_is_penalized_logistic_regression(penalty, descriptors):
    inputs, labels, _, logits = fitted(penalty, descriptors)
    oracle = LogisticRegression(C=1.0 / (penalty * len(labels)), max_iter=5000, tol=1e-10)
    expected = oracle.fit(inputs, labels).decision_function(inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3)


def test_cells_count_by_their_weight():
    weights = np.random.default_rng(1).uniform(0.1, 2.0, 300)
    weights /= weights.mean()
    inputs, labels, _, logits = fitted(0.05, False, weights)
    oracle = LogisticRegression(C=1.0 / (0.05 * len(labels)), max_iter=5000, tol=1e-10)
    expected = oracle.fit(inputs, labels, sample_weight=weights).decision_function(inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["default", "subjects"])
def test_recipes_without_epochs_are_valid(name):
    settings = build(TrainSettings, read_toml(CONFIGS / f"{name}.toml"))
    assert settings.stages == ()
    assert settings.head_fit.asked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"head": "paper"}}, "linear"),
        ({"network": {"standardize_features": False}}, "standardize_features"),
        ({"head_fit": {"penalties": [], "views": 0}}, r"head_fit\.penalty"),
        ({"head_fit": {"penalty": 0.1}}, r"penalty = 0\.1.*penalties"),
        ({"head_fit": {"penalties": [0.1, 0.0]}}, r"penalties = \[0\.1, 0\.0\]: 0\.0\b"),
        ({"data": {"inner_folds": 0}}, r"penalties.*inner_folds"),
        ({"stage1": {"epochs": 1, "learning_rate": 0.1}}, r"penalties.*stage1\.epochs"),
        ({"head_fit": {"views": 3}}, r"views = 3\b.*augment\.views = 2"),
        ({"head_fit": {"penalty": -1.0, "penalties": []}}, r"penalty = -1\.0\b.*\b0\b"),
        ({"network": {"input_px": 300}}, r"\b300\b.*\b32\b"),
        ({"network": {"pixel_mean": [], "pixel_std": []}}, "pixel_mean"),
        ({"network": {"pixel_std": [1.0, 1.0]}}, r"pixel_std.*1\.0, 1\.0\]"),
        ({"network": {"pixel_std": [1.0, 0.0, 1.0]}}, r"pixel_std.*1\.0, 0\.0, 1\.0\]"),
        ({"network": {"pixel_mean": [69.0, 30.0, 80.0]}}, r"pixel_mean.*69\.0, 30\.0, 80\.0\]"),
    ],
)
def test_invalid_head_fit_settings_are_refused(changes, message):
    mapping = read_toml(CONFIGS / "subjects.toml")
    for section, values in changes.items():
        mapping[section] = {**mapping.get(section, {}), **values}
    with pytest.raises(ConfigError, match=message):
        build(TrainSettings, mapping)
