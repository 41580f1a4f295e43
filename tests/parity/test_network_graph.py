"""The exported graph against the network, and its closed-form Grad-CAM against autograd and the grad-cam package."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from pytorch_grad_cam import GradCAM

from leukoscope.core.errors import WeightsError
from leukoscope.training.export import export_onnx, write_graph
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import NetworkSettings

PX = 64


def make_network(**options) -> CellNetwork:
    torch.manual_seed(3)
    network = CellNetwork(NetworkSettings(input_px=PX, weights="none", **options)).eval()
    network.train()
    with torch.no_grad():  # statistics and a head that make the outputs differ from cell to cell
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.momentum = None
        network(make_cells(24, seed=1))
        for parameter in (
            *network.head.parameters(),
            *(network.descriptor_head or torch.nn.Module()).parameters(),
        ):
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
        network.feature_mean.uniform_(-0.2, 0.2)
        network.feature_std.uniform_(0.5, 2.0)
    network.eval()
    if (
        network(make_cells(5, seed=2)).activation_map.max() == 0
    ):  # no evidence for blast anywhere: ask for the other class
        with torch.no_grad():
            network.head.dense.weight.neg_()
            network.head.dense.bias.neg_()
    return network


def make_cells(count: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    cells = np.zeros((count, PX, PX, 3), np.uint8)
    for cell in cells:
        y, x, h, w = rng.integers(8, 20, 4)
        cell[y : y + h + 12, x : x + w + 12] = rng.integers(1, 256, (h + 12, w + 12, 3))
    return torch.from_numpy(cells)


NETWORKS = {
    "linear": {"arch": "efficientnet_lite0"},
    "paper": {"arch": "resnet10t", "head": "paper", "drop_rate": 0.5},
    "stages": {"arch": "mobilenetv3_small_050", "pooled_stages": (-3, -2, -1), "standardize_features": True},
    "stages_any_order": {
        "arch": "resnet10t",
        "head": "paper",
        "drop_rate": 0.5,
        "pooled_stages": (-1, -2),
        "standardize_features": True,
    },
    "descriptors": {"arch": "resnet10t", "head": "paper", "descriptor_head": True},
    "products": {"arch": "resnet10t", "descriptor_head": True, "descriptor_products": True},
    "nhwc": {"arch": "convnext_atto", "descriptor_head": True},
}
MOMENTS = {
    "arch": "resnet10t",
    "pixel_mean": (120.5, 121.5, 122.5),
    "pixel_std": (70.0, 71.0, 72.0),
    "pooling": "moments",
    "pooled_stages": (1, 2, 3),
    "standardize_features": True,
}
STATISTICS = {**MOMENTS, "pooling": "statistics"}


@pytest.mark.parametrize("name", NETWORKS)
def test_activation_map_is_the_gradient_weighted_map(name):
    network = make_network(**NETWORKS[name])
    cells = make_cells(5, seed=2)
    outputs = network(cells)
    captured = {}
    last = network.backbone.units[-1]
    handle = last.register_forward_hook(lambda module, args, out: captured.setdefault("map", out))
    logits = network(cells).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.sum(), captured["map"])
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    expected = torch.relu((weights * captured["map"]).sum(dim=1, keepdim=True)).detach()
    assert outputs.activation_map.max() > 0
    torch.testing.assert_close(outputs.activation_map, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("name", ["linear", "paper"])
def test_activation_map_agrees_with_the_public_grad_cam_package(name):
    network = make_network(**NETWORKS[name])
    cells = make_cells(4, seed=4)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network.classify(self.network.standardize(self.network.embed(images)))

    images = network.normalize(cells.permute(0, 3, 1, 2).float())
    with GradCAM(model=Logits(), target_layers=[network.backbone.units[-1]]) as cam:
        # The package's own step before it rescales each map to 0..1 for drawing.
        logits = cam.activations_and_grads(images)
        logits.sum().backward()
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        expected = np.maximum(
            cam.get_cam_image(images, network.backbone.units[-1], None, activations, gradients, False), 0
        )
    ours = network(cells).activation_map[:, 0].detach().numpy()
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * expected.max())


class Explained(torch.nn.Module):
    """The pooled stages of a network as one map, written down without the network's own pooling."""

    def __init__(self, network: CellNetwork, *, deviations: bool) -> None:
        super().__init__()
        self.network, self.deviations = network, deviations

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        network, side = self.network, cells.shape[1]
        pixels = cells.permute(0, 3, 1, 2).double().float()
        cell = (pixels.sum(dim=1, keepdim=True) > 0).float()
        images = (pixels * network.pixel_scale + network.pixel_shift) * cell
        maps = network.backbone.stage_maps(images, network.pooled_stages)
        grid = maps[-1].shape[-1]
        parts = []
        for stage_map in maps:
            size = stage_map.shape[-1]
            share = cell.unfold(2, side // size, side // size).unfold(3, side // size, side // size)
            share = share.mean(dim=(4, 5))
            weight = share / share.mean(dim=(2, 3), keepdim=True)
            mean = (stage_map * weight).mean(dim=(2, 3), keepdim=True) if self.deviations else 0.0
            for values in (stage_map, (stage_map - mean).square()):
                parts.append(torch.nn.functional.interpolate(values * weight, (grid, grid), mode="area"))
        weight = torch.nn.functional.interpolate(weight, (grid, grid), mode="area")
        return torch.cat(parts, dim=1) - self.average_cell()[:, None, None] * weight

    def average_cell(self) -> torch.Tensor:
        """What the map of the average training cell averages to."""
        mean = self.network.feature_mean
        return (
            torch.where(self.network.pooling.second, torch.exp(2 * mean), mean) if self.deviations else mean
        )


@pytest.mark.parametrize("settings", [MOMENTS, STATISTICS], ids=lambda chosen: chosen["pooling"])
def test_map_over_the_cell_agrees_with_the_public_grad_cam_package(settings):
    network = make_network(**settings)
    cells = make_cells(4, seed=4)
    deviations = settings["pooling"] == "statistics"

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.explained = Explained(network, deviations=deviations)

        def forward(self, cells):
            averages = self.explained(cells).mean(dim=(2, 3)) + self.explained.average_cell()
            if deviations:
                averages = torch.where(network.pooling.second, averages.sqrt().log(), averages)
            return network.head((averages - network.feature_mean) / network.feature_std)

    model = Logits().eval()
    outputs = network(cells)
    torch.testing.assert_close(model(cells), outputs.logits, rtol=1e-3, atol=1e-3)
    with GradCAM(model=model, target_layers=[model.explained]) as cam:
        cam.activations_and_grads(cells).sum().backward()
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        expected = np.maximum(
            cam.get_cam_image(cells, model.explained, None, activations, gradients, False), 0
        )
    ours = outputs.activation_map[:, 0].detach().numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-3 * expected.max())


@pytest.mark.parametrize("settings", [MOMENTS, STATISTICS], ids=lambda chosen: chosen["pooling"])
def test_moments_are_those_of_the_cell_alone(settings):
    network = make_network(**settings)
    cells = make_cells(3, seed=7)
    images = network.normalize(cells.permute(0, 3, 1, 2).float())
    shape = network.backbone.stage_maps(images, network.pooled_stages)[0].shape
    with torch.no_grad():
        embedding = network(cells).embedding
        first = network.backbone.stage_maps(images, network.pooled_stages)[0]
    share = (cells.amax(dim=3) > 0).float().view(3, shape[2], PX // shape[2], shape[3], -1).mean(dim=(2, 4))
    total = share.sum(dim=(1, 2))
    mean = torch.einsum("nchw,nhw->nc", first, share) / total[:, None]
    square = torch.einsum("nchw,nhw->nc", first**2, share) / total[:, None]
    width = shape[1]
    second = square if settings is MOMENTS else 0.5 * torch.log(square - mean**2)
    torch.testing.assert_close(embedding[:, :width], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding[:, width : 2 * width], second, rtol=1e-3, atol=1e-4)


def test_stages_after_the_deepest_pooled_one_are_neither_run_nor_counted():
    whole, cut = make_network(arch="resnet10t"), make_network(**MOMENTS)
    assert len(cut.backbone) < len(whole.backbone)
    assert cut.used_parameters() < whole.used_parameters() == sum(p.numel() for p in whole.parameters())
    behind = [name for name, _ in cut.backbone.model.named_parameters() if name.startswith("layer4")]
    assert behind  # a file of timm's weights still fits
    before = cut(make_cells(2, seed=3)).logits
    with torch.no_grad():
        for name, parameter in cut.backbone.model.named_parameters():
            if name.startswith("layer4"):
                parameter.fill_(float("nan"))
    torch.testing.assert_close(cut(make_cells(2, seed=3)).logits, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stages_any_order", "nhwc", "moments", "statistics"])
def test_exported_graph_gives_the_networks_outputs(name, tmp_path: Path):
    cell_pooling = {"moments": MOMENTS, "statistics": STATISTICS}
    network = make_network(**(cell_pooling.get(name) or NETWORKS[name]))
    description = export_onnx(network, tmp_path / "model.onnx", "float32")
    assert [entry["name"] for entry in description["outputs"]] == ["logits", "embedding", "activation_map"]
    assert description["inputs"] == [{"name": "cells", "dtype": "uint8", "shape": ("N", PX, PX, 3)}]
    assert description["outputs"][1]["shape"] == ("N", network.embedding_width)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    compiled = openvino.Core().compile_model(
        tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for count in (1, 5):
        cells = make_cells(count, seed=5)
        with torch.no_grad():
            expected = [output.numpy() for output in network(cells)]
        by_openvino = compiled(cells.numpy())
        for index, theirs in enumerate(session.run(list(network(cells)._fields), {"cells": cells.numpy()})):
            scale = max(float(np.abs(expected[index]).max()), 1.0 if index == 0 else 1e-6)
            assert np.abs(theirs - expected[index]).max() < 1e-4 * scale
            assert np.abs(by_openvino[index] - expected[index]).max() < 1e-4 * scale


def test_half_stored_weights_compute_in_float32_and_stay_close(tmp_path: Path):
    network = make_network(arch="resnet10t")
    network.train()
    export_onnx(network, tmp_path / "half.onnx")
    assert network.training
    network.eval()
    float32_bytes = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert (tmp_path / "half.onnx").stat().st_size < 0.52 * float32_bytes
    model = onnx.load(tmp_path / "half.onnx")
    halves = {
        tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16
    }
    users = [node.op_type for node in model.graph.node for name in node.input if name in halves]
    assert len(users) == len(halves) > 5
    assert set(users) == {"Cast"}
    cells = make_cells(6, seed=6)
    with torch.no_grad():
        full = network(cells).logits.numpy()
    (half,) = onnxruntime.InferenceSession(tmp_path / "half.onnx").run(["logits"], {"cells": cells.numpy()})
    assert 0 < np.abs(half - full).max() < 0.02 * np.abs(full).max()
    assert not list(tmp_path.glob("*.part"))


class Tiny(torch.nn.Module):
    """A module with the input and the outputs of a bundle, and one weight matrix."""

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.dense = torch.nn.Linear(3, 128)
        with torch.no_grad():
            self.dense.weight[0, 0] = largest

    def forward(self, cells):
        embedding = self.dense(cells.float().mean(dim=(1, 2)))
        return embedding[:, :1], embedding, embedding[:, :, None, None]


@pytest.mark.parametrize("largest", [70_000.0, float("nan"), 60_000.0])
def test_weights_beyond_16_bits_are_refused(largest: float, tmp_path: Path):
    example = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    path = tmp_path / "model.onnx"
    if largest < 65_504:
        write_graph(Tiny(largest), example, path, "float16")
        assert path.exists()
        return
    with pytest.raises(WeightsError, match="float32"):
        write_graph(Tiny(largest), example, path, "float16")
    assert not path.exists()
