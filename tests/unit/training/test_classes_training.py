"""Training of K classes: losses, the exact head and Grad-CAM's Jacobian against other implementations."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.training.fit.head_fit import fit_head
from leukoscope.training.fit.optimizer import Objective, class_losses
from leukoscope.training.fit.prediction import accuracy, area_under_curve
from leukoscope.training.networks.network import CellNetwork, LinearHead, PaperHead, outputs_of
from leukoscope.training.settings import LossSettings, NetworkSettings

CPU = torch.device("cpu")


def draw(size: int, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    labels = torch.cat([torch.arange(size), torch.randint(size, (count - size,), generator=generator)])
    return torch.randn(count, size, generator=generator) * 3, labels


def test_a_binary_network_has_one_logit_and_others_one_per_class() -> None:
    assert outputs_of(BINARY) == 1
    assert outputs_of(ClassSchema.of_names(["a", "b", "c"])) == 3


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_are_torchs_cross_entropy(size: int, smoothing: float) -> None:
    logits, labels = draw(size)
    groups = torch.zeros(len(labels)).long()
    settings = LossSettings(label_smoothing=smoothing)
    found = Objective(settings, labels.float(), groups, CPU, size).cell_losses(logits, labels.float())
    wanted = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    weights = len(labels) / (size * torch.bincount(labels, minlength=size))
    weighed = Objective(LossSettings(class_weights=True), labels.float(), groups, CPU, size)
    plain = functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(weighed.cell_losses(logits, labels.float()), plain * weights[labels])


def test_one_logit_gives_torchs_binary_cross_entropy() -> None:
    logits = torch.tensor([-30.0, -3.0, 0.0, 2.0, 40.0], requires_grad=True)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    losses = class_losses(logits).gather(1, labels.long().unsqueeze(1))[:, 0]
    wanted = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    assert torch.equal(losses, wanted)
    of_two = class_losses(functional.pad(logits.unsqueeze(1), (1, 0)))  # the same as K = 2
    torch.testing.assert_close(of_two.gather(1, labels.long().unsqueeze(1))[:, 0], wanted)
    assert (of_two > 0).all()  # where the usual softmax ends at 0
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    torch.testing.assert_close(gradient, (torch.sigmoid(logits) - labels).detach(), rtol=1e-5, atol=1e-7)


def test_the_exact_head_is_scikit_learns_multinomial_regression() -> None:
    settings = NetworkSettings(arch="resnet10t", input_px=64, weights="none", standardize_features=True)
    network = CellNetwork(settings, outputs=3).eval()
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(90) % 3
    embedding = torch.randn(90, network.embedding_width, generator=generator)
    embedding[torch.arange(90), labels] += 2.0
    network.feature_mean.copy_(embedding.mean(dim=0))
    network.feature_std.copy_(embedding.std(dim=0))
    objective = Objective(LossSettings(), labels.float(), torch.zeros(90).long(), CPU, 3)
    fit_head(
        network, embedding, None, labels.float(), weights=torch.ones(90), objective=objective, penalty=0.05
    )
    inputs = network.standardize(embedding).double().numpy()
    oracle = LogisticRegression(C=1 / (0.05 * 90), tol=1e-9, max_iter=5000).fit(inputs, labels)
    with torch.no_grad():
        shares = torch.softmax(network.classify(network.standardize(embedding)), dim=1).numpy()
    np.testing.assert_allclose(shares, oracle.predict_proba(inputs), atol=2e-3)


@pytest.mark.parametrize("head", [LinearHead, PaperHead])
@pytest.mark.parametrize("outputs", [1, 4])
def test_the_jacobian_of_every_logit_is_autograds(head: type, outputs: int) -> None:
    torch.manual_seed(2)
    module = head(12, 0.3, outputs).eval()
    features = torch.randn(5, 12, requires_grad=True)
    jacobian = module.jacobian(features)
    assert jacobian.shape == (5, outputs, 12)
    logits = module(features)
    for number in range(outputs):
        (gradient,) = torch.autograd.grad(logits[:, number].sum(), features, retain_graph=True)
        torch.testing.assert_close(jacobian[:, number], gradient)


def test_metrics_of_an_epoch() -> None:
    one = np.array([[2.0], [-1.0], [0.5]], np.float32)
    labels = np.array([1.0, 0.0, 0.0], np.float32)
    assert accuracy(one, labels) == pytest.approx(2 / 3) and area_under_curve(one, labels) == 1.0
    three = np.array([[2, 0, 1], [0, 3, 1], [1, 0, 2], [0, 1, 0.5]], np.float32)
    assert accuracy(three, np.array([0, 1, 2, 2], np.float32)) == 0.75
    assert area_under_curve(three, np.zeros(4, np.float32)) is None
