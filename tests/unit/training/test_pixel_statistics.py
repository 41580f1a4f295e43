"""Pixel means and deviations on the wrong scale are refused wherever they stand, with the scale that was expected."""

import json
from pathlib import Path

import pytest
import timm
import torch

from leukoscope.core.config import build
from leukoscope.core.errors import BundleError, ConfigError, WeightsError
from leukoscope.models.bundle import Bundle
from leukoscope.models.manifest import Manifest
from leukoscope.training.fit.checkpoint import FINAL, load_final
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.pixel_statistics import why_not_of_pixels, why_not_of_timm, why_not_of_weights
from leukoscope.training.settings import NetworkSettings, TrainSettings

CELLS = {"pixel_mean": [69.1, 29.8, 79.8], "pixel_std": [20.3, 15.1, 16.2]}


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ([0.27, 0.12, 0.31], [0.08, 0.06, 0.06], "0 to 255"),
        ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], "0 to 255"),
        ([69.1, 29.8, 79.8], [0.08, 0.06, 0.06], "1 to 127.5"),
        ([69.1, 29.8, 79.8], [200.0, 15.0, 16.0], "1 to 127.5"),
        ([-1.5, 29.8, 79.8], [20.3, 15.1, 16.2], "0 to 255"),
        ([17000.5, 29.8, 79.8], [20.3, 15.1, 16.2], "0 to 255"),
        ([float("nan"), 29.8, 79.8], [20.3, 15.1, 16.2], "finite"),
    ],
)
def test_settings_on_another_scale_are_refused(mean, std, expected):
    with pytest.raises(ConfigError, match=expected):
        build(TrainSettings, {"network": {"pixel_mean": mean, "pixel_std": std}})


def test_statistics_of_cells_are_accepted():
    assert build(TrainSettings, {"network": CELLS}).network.pixel_std == (20.3, 15.1, 16.2)
    assert why_not_of_pixels((0.5, 12.0, 0.2), (3.0, 4.0, 5.0)) is None


def test_a_configuration_of_timm_in_0_to_255_is_refused(monkeypatch):
    create = timm.create_model

    def wrong(*args, **extra):
        model = create(*args, **extra)
        model.pretrained_cfg = {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}
        return model

    settings = NetworkSettings(arch="resnet10t", input_px=64, weights="none")
    CellNetwork(settings)
    monkeypatch.setattr(timm, "create_model", wrong)
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        CellNetwork(settings)
    CellNetwork(NetworkSettings(arch="resnet10t", input_px=64, weights="none", **_tuples()))


def test_every_configuration_that_timm_knows_is_on_the_scale_0_to_1():
    names = timm.list_pretrained()
    wrong = []
    for name in names:
        configuration = timm.models.get_pretrained_cfg(name)
        if configuration is not None and len(configuration.mean) == 3:
            wrong += [name] if why_not_of_timm(configuration.mean, configuration.std) else []
    assert len(names) > 500
    assert wrong == []


@pytest.mark.parametrize("options", [{}, {"cells": True}])
def test_trained_weights_on_another_scale_are_refused(options, tmp_path: Path):
    from safetensors.torch import save_file

    extra = _tuples() if options else {}
    settings = NetworkSettings(arch="resnet10t", input_px=64, weights="none", **extra)
    network = CellNetwork(settings)
    state = network.state_dict()
    save_file(state, tmp_path / FINAL)
    load_final(CellNetwork(settings), tmp_path / FINAL)
    state["pixel_scale"] = 255.0 * state["pixel_scale"]  # for pixels of 0 to 1; the shift has no scale
    save_file(state, tmp_path / FINAL)
    with pytest.raises(WeightsError, match="expected 0 to 255"):
        load_final(CellNetwork(settings), tmp_path / FINAL)


def test_buffers_of_pixels_as_they_are_pass():
    one = torch.ones(3)
    assert why_not_of_weights(one.tolist(), (0 * one).tolist()) is None
    assert why_not_of_weights((one / 255).tolist(), (0 * one).tolist()) is None
    assert why_not_of_weights([float("inf")] * 3, [0.0] * 3) is not None
    assert why_not_of_weights([0.0] * 3, [0.0] * 3) is not None


@pytest.mark.parametrize("stated", ["0 to 1", "0..1", "-1 to 1", "unbounded", "0 to 65535"])
def test_a_manifest_with_an_input_of_another_range_is_refused(stated, small_bundle_path):
    content = json.loads((small_bundle_path / "manifest.json").read_bytes())
    content["inputs"][0]["value_range"] = stated
    with pytest.raises(BundleError, match="0 to 255"):
        Manifest.from_json(json.dumps(content))


def test_the_shipped_and_the_small_bundle_pass(small_bundle_path, shipped_bundle_path):
    for path in (small_bundle_path, shipped_bundle_path):
        assert Bundle.open(path).manifest.inputs[0].dtype == "uint8"


def _tuples():
    return {name: tuple(values) for name, values in CELLS.items()}
