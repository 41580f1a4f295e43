"""The frozen part of the network through the engine against torch, unit ranges and precisions."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from leukoscope.core.errors import ConfigError, EngineError
from leukoscope.models.session import OpenVinoGraphs
from leukoscope.training.batches.frozen_source import FrozenPart, choose_engine
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import EngineSettings, NetworkSettings

PX = 64


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def make_network(arch: str) -> CellNetwork:
    torch.manual_seed(0)
    stages = (-2, -1) if arch == "resnet10t" else (-1,)
    network = CellNetwork(NetworkSettings(arch=arch, input_px=PX, weights="none", pooled_stages=stages))
    for module in network.modules():  # statistics that normalize something
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.train()  # as it is during training: frozen parts have to see to their own mode


def make_pixels(count: int) -> torch.Tensor:
    return torch.rand(count, 3, PX, PX, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize("arch", ["test_efficientnet", "resnet10t"])
def test_any_range_of_units_computes_what_torch_computes(fabric, arch):
    network = make_network(arch)
    end = len(network.backbone)
    middle = network.backbone.stages[-2].last_unit
    modes = [module.training for module in network.modules()]
    images = make_pixels(5)
    boundary = FrozenPart(network, 0, middle, fabric=fabric, engine=None)(images)
    for start, stop, inputs in ((0, middle, images), (middle, end, boundary)):
        plain = FrozenPart(network, start, stop, fabric=fabric, engine=None)(inputs)
        fast = FrozenPart(network, start, stop, fabric=fabric, engine=(OpenVinoGraphs(), "f32"))(inputs)
        assert fast.shape == plain.shape
        assert float((fast - plain).abs().max()) < 2e-5 * float(plain.std())
    assert [module.training for module in network.modules()] == modes


def test_bfloat16_stays_within_its_digits(fabric):
    if not OpenVinoGraphs().supports("bf16"):
        pytest.skip("this processor computes no bfloat16")
    network = make_network("resnet10t")
    part = {
        precision: FrozenPart(
            network, 0, len(network.backbone), fabric=fabric, engine=(OpenVinoGraphs(), precision)
        )
        for precision in ("f32", "bf16")
    }
    images = make_pixels(4)
    exact, rounded = (part[precision](images) for precision in ("f32", "bf16"))
    error = float((rounded - exact).std() / exact.std())
    assert 1e-5 < error < 0.05


def test_an_image_does_not_depend_on_its_neighbors_and_a_wrong_shape_is_an_error(fabric):
    network = make_network("resnet10t")
    part = FrozenPart(network, 0, len(network.backbone), fabric=fabric, engine=(OpenVinoGraphs(), "f32"))
    images = make_pixels(7)
    together = part(images)
    plain = FrozenPart(network, 0, len(network.backbone), fabric=fabric, engine=None)(images)
    assert float((together - plain).abs().max()) < 2e-5 * float(plain.std())
    alone = torch.cat([part(images[place : place + 1]) for place in range(7)])
    assert torch.equal(together, alone)
    graph = part.compile(images)
    with pytest.raises(EngineError, match=r"\(N, 3, 64, 64\)"):
        graph(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(EngineError, match="float64"):
        graph(np.zeros((1, 3, 64, 64)))


def test_auto_takes_the_engine_where_only_rounding_differs():
    def choose(cells: int = 1000, device: str = "cpu", **settings):
        return choose_engine(EngineSettings(**settings), torch.device(device), cells, OpenVinoGraphs())

    chosen = choose()
    assert chosen is not None
    assert chosen[1] == "f32"
    if OpenVinoGraphs().supports("bf16"):
        chosen = choose(precision="bf16-mixed")
        assert chosen is not None
        assert chosen[1] == "bf16"
    assert choose(cells=100) is None
    assert choose(device="cuda") is None
    assert choose(precision="64-true") is None
    assert choose(frozen_forward="torch") is None
    assert choose_engine(EngineSettings(), torch.device("cpu"), 1000, None) is None
    assert choose(cells=4, frozen_forward="openvino") is not None
    with pytest.raises(ConfigError, match="cuda"):
        choose(device="cuda", frozen_forward="openvino")
    with pytest.raises(ConfigError, match="64-true"):
        choose(precision="64-true", frozen_forward="openvino")
