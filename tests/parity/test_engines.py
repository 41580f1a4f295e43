"""One model in both engines and in torch: the same results on real cells."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from leukoscope.imaging.canvas import prepare_cell
from leukoscope.imaging.decode import decode_image
from leukoscope.models.bundle import Bundle
from leukoscope.models.session import Session
from leukoscope.training.export import export_onnx
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import NetworkSettings
from small_bundle import sample_paths

LOGIT_TOLERANCE = 2e-3
MAP_TOLERANCE = 1e-3


def real_cells(side: int, step: int) -> np.ndarray:
    return np.stack([prepare_cell(decode_image(path), side) for path in sample_paths()[::step]])


def test_engines_agree_on_the_shipped_model(shipped_bundle_path: Path) -> None:
    bundle = Bundle.open(shipped_bundle_path)
    cells = real_cells(bundle.manifest.input_px, 10)
    answers = [
        Session(bundle.model_path, engine=engine, streaming=streaming).run(cells)
        for engine, streaming in (("openvino", False), ("openvino", True), ("onnxruntime", False))
    ]
    reference = answers[-1]
    for answer in answers[:-1]:
        assert np.abs(answer.logits - reference.logits).max() <= LOGIT_TOLERANCE
        for have, wanted in zip(answer[1:], reference[1:], strict=True):
            assert np.abs(have - wanted).max() <= MAP_TOLERANCE * np.abs(wanted).max()


class LogitOnly(torch.nn.Module):
    """The network as the grad-cam package wants it: float images in, scores out."""

    def __init__(self, network: CellNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network.classify(self.network.standardize(self.network.embed(images)))


@pytest.mark.parametrize("head", ["linear", "paper"])
def test_maps_of_the_runtime_equal_those_of_the_grad_cam_package(head: str, tmp_path: Path) -> None:
    side = 96
    torch.manual_seed(4)
    network = CellNetwork(NetworkSettings(arch="resnet10t", input_px=side, head=head, weights="none"))
    cells = real_cells(side, 12)
    network.train()
    with torch.no_grad():  # statistics of real cells, and a head that differs from cell to cell
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.momentum = None
        network(torch.from_numpy(cells))
        for parameter in network.head.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    network.eval()
    export_onnx(network, tmp_path / "model.onnx", "float32")
    network.double()  # the oracle must be better than what it classifies
    images = network.normalize(torch.from_numpy(cells).permute(0, 3, 1, 2).double())
    target = network.backbone.units[-1]
    with GradCAM(LogitOnly(network), [target]) as cam:
        cam.compute_input_gradient = False
        # Its class divides by the maximum and enlarges; the steps before give the map itself.
        scores = cam.activations_and_grads(images)
        network.zero_grad()
        sum(ClassifierOutputTarget(0)(score) for score in scores).backward()
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        wanted = np.maximum(cam.get_cam_image(images, target, [], activations, gradients), 0)
    assert wanted.max() > 0
    for engine in ("openvino", "onnxruntime"):
        have = Session(tmp_path / "model.onnx", engine=engine).run(cells).activation_map[:, 0]
        assert np.abs(have - wanted).max() <= 1e-4 * wanted.max()
