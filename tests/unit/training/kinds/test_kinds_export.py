from pathlib import Path

import numpy as np
import pytest
import torch

from leukoscope.core.errors import WeightsError
from leukoscope.models.onnx_graph import read_onnx_graph
from leukoscope.models.session import Session
from leukoscope.training.kinds.classes import KINDS, class_members, class_schema, label_class
from leukoscope.training.kinds.export import ClassGraph, count_flops, export_kinds, read_weights
from leukoscope.training.kinds.network import KindsNetwork

SIDE = 64


@pytest.fixture(scope="module")
def network() -> KindsNetwork:
    torch.manual_seed(0)
    network = KindsNetwork("tf_efficientnet_lite0")
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return network.eval()


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


def test_every_kind_is_in_one_class_and_blasts_are_positive() -> None:
    schema, members = class_schema(), class_members()
    assert sorted(kind for kinds in members for kind in kinds) == list(range(len(KINDS)))
    assert [KINDS[kind].name for kind in members[schema.index("blast")]] == [
        "lymphoblast",
        "myeloblast",
        "monoblast",
    ]
    assert schema.positive_members == (schema.index("blast"),)
    assert set(schema.members("white_cell")) == {
        schema.index(name)
        for name in schema.names
        if name not in ("erythroblast", "platelet", "not_a_white_cell")
    }
    assert (label_class("neutrophil_band"), label_class("smudge_cell"), label_class("white_cell")) == (
        "neutrophil",
        "not_a_white_cell",
        None,
    )


def test_a_class_has_the_summed_probability_of_its_kinds(network: KindsNetwork, cells: np.ndarray) -> None:
    images = torch.from_numpy(cells)
    with torch.no_grad():
        logits, embedding, _ = ClassGraph(network, class_members())(images)
        kinds = network.head(embedding).double().softmax(dim=1)
    expected = torch.stack([kinds[:, list(members)].sum(dim=1) for members in class_members()], dim=1)
    torch.testing.assert_close(logits.double().softmax(dim=1), expected, rtol=1e-4, atol=1e-7)


def test_maps_are_grad_cam_by_autograd(network: KindsNetwork, cells: np.ndarray) -> None:
    images = torch.from_numpy(cells)
    with torch.no_grad():
        _, _, activation = ClassGraph(network, class_members())(images)
        maps = network.feature_maps(images.permute(0, 3, 1, 2).float() / 255.0)
    maps.requires_grad_(True)
    kinds = network.head(maps.mean((2, 3)))
    for row, members in enumerate(class_members()):
        logit = torch.logsumexp(kinds[:, list(members)], dim=1).sum()
        (gradient,) = torch.autograd.grad(logit, maps, retain_graph=True)
        expected = torch.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(dim=1))
        torch.testing.assert_close(activation[:, row], expected.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_exported_graph_answers_as_torch(
    network: KindsNetwork, cells: np.ndarray, tmp_path: Path, engine: str
) -> None:
    path = tmp_path / "model.onnx"
    described = export_kinds(network, path, SIDE, "float32")
    count = class_schema().size
    assert [entry["shape"] for entry in described["outputs"]] == [
        ("N", count),
        ("N", 1280),
        ("N", count, 2, 2),
    ]
    assert not [name for name in read_onnx_graph(path.read_bytes()).operators if "::" in name]
    answer = Session(path, engine=engine, cache_directory=tmp_path).run(cells)
    with torch.no_grad():
        expected = ClassGraph(network, class_members())(torch.from_numpy(cells))
    for found, wanted in zip(answer, expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=2e-3, atol=2e-3)


def test_operations_grow_with_the_image(network: KindsNetwork) -> None:
    small, large = count_flops(network, SIDE), count_flops(network, 2 * SIDE)
    assert 3.5 * small < large < 4.5 * small


def test_unreadable_weights_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(WeightsError):
        read_weights(path)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError):
        read_weights(path)
