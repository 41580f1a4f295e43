"""Growing B3 out of Lite2: exact where it claims to be exact, refusing what it was not made for."""

import hashlib
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from leukoscope.core.errors import WeightsError
from leukoscope.training.weights import expansion as growth

SIDE_PX = 64


def random_source(seed: int = 0) -> nn.Module:
    """A Lite2 with symmetric padding (as B3 has it) and batch-norm statistics that are not the trivial ones."""
    torch.manual_seed(seed)
    model = timm.create_model("efficientnet_lite2", num_classes=1000).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def without_activations(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.act = nn.Identity()
    return model


def normalized(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(model.default_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images - mean) / std


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_expansion_preserves_the_function_for_linear_activations(images: torch.Tensor) -> None:
    source = random_source()
    expanded = growth.expand(source)
    source, expanded = without_activations(source), without_activations(expanded)
    expected = source.forward_features(normalized(source, images))
    found = expanded.forward_features(normalized(expanded, images))[:, : expected.shape[1]] / growth.SHARPNESS
    # The pixel normalization is folded into the stem; its zero padding then differs along the border alone.
    inner = (slice(None), slice(None), slice(1, None), slice(1, None))
    relative = (found - expected)[inner].abs().max() / expected[inner].abs().max()
    assert float(relative) < 0.05
    source.default_cfg = expanded.default_cfg  # the same normalization: nothing is folded, and all is exact
    expanded = without_activations(growth.expand(source))
    expected = source.forward_features(images)
    found = expanded.forward_features(images)[:, : expected.shape[1]] / growth.SHARPNESS
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_matched_statistics_bring_the_features_closer(images: torch.Tensor) -> None:
    source = random_source()
    plain, matched = growth.expand(source), growth.expand(source)
    growth.match_statistics(
        source, matched, torch.rand(16, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(2))
    )

    def distance(model: nn.Module) -> float:
        expected = source.forward_features(normalized(source, images)).mean((2, 3))
        found = model.forward_features(normalized(model, images)).mean((2, 3))[:, : expected.shape[1]]
        return float((found / growth.SHARPNESS - expected).norm() / expected.norm())

    assert distance(matched) < 0.5 * distance(plain)


def test_every_new_parameter_has_a_gradient() -> None:
    expanded = growth.expand(random_source()).train()
    expanded(torch.rand(2, 3, SIDE_PX, SIDE_PX)).square().mean().backward()
    silent = [
        name
        for name, value in expanded.named_parameters()
        if value.grad is None or not value.grad.abs().max() > 0
    ]
    # Behind a gain of zero nothing is learnt until the gain itself has moved; the gains must move.
    assert not [name for name in silent if name.endswith("bn3.weight")]
    assert not [name for name in silent if "se.conv_expand" in name and ".0.se" in name]


def test_the_same_seed_expands_the_same_network() -> None:
    source = random_source()
    first, second, other = growth.expand(source), growth.expand(source), growth.expand(source, seed=1)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.conv_stem.weight, other.conv_stem.weight)


def test_a_narrower_network_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"efficientnet_b0|\(.*\)"):
        growth.expand(random_source(), arch="efficientnet_b0")


def test_the_source_file_is_opened_only_with_the_pinned_hash(tmp_path: Path) -> None:
    file = tmp_path / "lite2.pth"
    torch.save(random_source().state_dict(), file)
    with pytest.raises(WeightsError, match=r"lite2\.pth.*SHA-256"):
        growth.read_source(file)
    model = growth.read_source(file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    assert not model.training
    with pytest.raises(WeightsError, match=r"absent\.pth"):
        growth.read_source(tmp_path / "absent.pth")


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lite0.pth"
    torch.save(timm.create_model("efficientnet_lite0").state_dict(), file)
    with pytest.raises(WeightsError, match=r"lite0\.pth"):
        growth.read_source(file, sha256=hashlib.sha256(file.read_bytes()).hexdigest())


@torch.no_grad()
def test_networks_with_the_same_normalization_need_no_folding(images: torch.Tensor) -> None:
    source = random_source()
    expanded = growth.expand(source, same_pixels=True)
    source, expanded = without_activations(source), without_activations(expanded)
    expected = source.forward_features(images)
    found = expanded.forward_features(images)[:, : expected.shape[1]] / growth.SHARPNESS
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_statistics_are_matched_under_the_given_normalization(images: torch.Tensor) -> None:
    source = random_source()
    expanded = growth.expand(source, same_pixels=True)
    growth.match_statistics(source, expanded, images, lambda values: 4.0 * values - 2.0)
    seen: dict[str, torch.Tensor] = {}
    for name, model in (("source", source), ("expanded", expanded)):
        norm = model.bn1
        normed = growth._normalized(norm, model.conv_stem(4.0 * images - 2.0))
        seen[name] = normed.mean((0, 2, 3))
    width = len(seen["source"])
    torch.testing.assert_close(
        seen["expanded"][:width] / growth.SHARPNESS, seen["source"], rtol=1e-2, atol=1e-2
    )
