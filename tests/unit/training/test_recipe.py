"""Freezing, optimizer, loss, weights, settings, configurations."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from leukoscope.core.config import apply_overrides, build, read_toml
from leukoscope.core.errors import ConfigError, TrainingError, WeightsError
from leukoscope.training.fit.optimizer import AveragedWeights, Objective, make_optimizer, set_learning_rate
from leukoscope.training.fit.prediction import explain_failures
from leukoscope.training.networks.freezing import freeze_boundary, list_layers, set_modes, set_trainable
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import (
    LossSettings,
    NetworkSettings,
    OptimizerSettings,
    StageSettings,
    TrainSettings,
)
from leukoscope.training.weights import loading as weights
from leukoscope.training.weights.loading import load_weights

CONFIGS = Path(__file__).parents[3] / "configs"


def small(**options) -> CellNetwork:
    return CellNetwork(NetworkSettings(**{"arch": "resnet10t", "input_px": 64, "weights": "none", **options}))


@pytest.mark.parametrize("name", ["paper", "paper-fast", "default"])
def test_shipped_configurations_are_valid(name):
    settings = build(TrainSettings, read_toml(CONFIGS / f"{name}.toml"))
    assert settings.network.arch == "efficientnet_b3"


def test_fast_paper_recipe_differs_in_the_views_only():
    paper, fast = (read_toml(CONFIGS / f"{name}.toml") for name in ("paper", "paper-fast"))
    assert fast["augment"].pop("views") > 0
    assert paper["augment"].pop("views") == 0
    assert paper == fast


def test_layers_of_the_paper_network_are_counted_in_order():
    network = CellNetwork(NetworkSettings(weights="none", head="paper"))
    names = [name for name, _ in list_layers(network.backbone)]
    assert len(names) == 312
    assert names[0] == "conv_stem"
    assert names[-3:] == ["conv_head", "bn2", "bn2.act"]
    stage = StageSettings(1, 1e-5, unfreeze_layers=30)
    boundary = freeze_boundary(network, (stage,))
    assert network.backbone.unit_names[boundary] == "blocks.5.5"
    set_trainable(network, stage)
    trained = {
        name for name, parameter in network.backbone.model.named_parameters() if parameter.requires_grad
    }
    assert "blocks.5.5.conv_pwl.weight" in trained
    assert "blocks.5.5.se.conv_expand.weight" not in trained
    assert "blocks.6.0.conv_pw.weight" in trained
    assert all(parameter.requires_grad for parameter in network.head.parameters())


def test_boundary_without_trained_layers_is_behind_the_backbone():
    network = small()
    assert freeze_boundary(network, (StageSettings(1, 1e-3),)) == len(network.backbone)
    assert freeze_boundary(network, (StageSettings(1, 1e-3), StageSettings(1, 1e-3, unfreeze_layers=-1))) == 0
    pooled = small(pooled_stages=(-3, -1))
    late = StageSettings(1, 1e-3, unfreeze_layers=3)
    assert freeze_boundary(pooled, (late,)) <= pooled.backbone.stages[-3].last_unit
    with pytest.raises(ConfigError, match="unfreeze_layers = 10000"):
        freeze_boundary(network, (StageSettings(1, 1e-3, unfreeze_layers=10_000),))


@pytest.mark.parametrize("train_batch_norm", [True, False])
def test_frozen_batch_norms_keep_their_statistics(train_batch_norm):
    network = small()
    set_trainable(network, StageSettings(1, 1e-3, unfreeze_layers=6))
    set_modes(network, train_batch_norm)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.backbone(torch.randn(4, 3, 64, 64))
    changed = {
        name
        for name, tensor in network.state_dict().items()
        if name.endswith(("running_mean", "running_var")) and not torch.equal(tensor, before[name])
    }
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name.rpartition(".")[0] + ".weight" for name in changed} <= trained
    assert bool(changed) == train_batch_norm


def test_learning_rates_decrease_toward_the_input():
    network = small()
    stage = StageSettings(5, 1e-3, unfreeze_layers=-1)
    set_trainable(network, stage)
    optimizer = make_optimizer(network, stage, OptimizerSettings(layer_decay=0.5, weight_decay=0.1))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(network.named_parameters())
    assert rates[id(parameters["head.dense.weight"])] == 1e-3
    assert rates[id(parameters["backbone.model.layer4.0.conv1.weight"])] == pytest.approx(5e-4)
    assert rates[id(parameters["backbone.model.layer3.0.conv1.weight"])] == pytest.approx(2.5e-4)
    assert len(rates) == sum(parameter.requires_grad for parameter in parameters.values())
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(parameters["head.dense.bias"])] == 0
    assert decays[id(parameters["head.dense.weight"])] == 0.1
    settings = OptimizerSettings(schedule="cosine")
    assert set_learning_rate(optimizer, settings, 0.05, 0.1) == pytest.approx(5e-4)
    assert set_learning_rate(optimizer, settings, 0.1, 0.1) == pytest.approx(1e-3)
    assert set_learning_rate(optimizer, settings, 0.55, 0.1) == pytest.approx(5e-4)


def test_averaged_weights_follow_and_swap_back():
    network = small()
    set_trainable(network, StageSettings(1, 1e-3))
    average = AveragedWeights(network, 0.5)
    start = network.head.dense.weight.detach().clone()
    with torch.no_grad():
        network.head.dense.weight.add_(1.0)
    average.update(network)
    average.swap(network)
    torch.testing.assert_close(
        network.head.dense.weight.detach(), start + 1 - 2 / 11
    )  # (1 + 1) / (10 + 1) early on
    average.swap(network)
    torch.testing.assert_close(network.head.dense.weight.detach(), start + 1)


def test_loss_smooths_weighs_and_attends_to_the_worst_group():
    labels, groups = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([5, 5, 9, 7])
    logits = torch.tensor([2.0, 2.0, -2.0, -2.0])
    device = torch.device("cpu")
    good, bad = math.log1p(math.exp(-2.0)), math.log1p(math.exp(2.0))
    plain = Objective(LossSettings(), labels, groups, device)
    assert float(plain.batch_loss(plain.cell_losses(logits, labels), groups)) == pytest.approx(
        (3 * good + bad) / 4
    )
    weighted = Objective(LossSettings(class_weights=True), labels, groups, device)
    expected = ((2 * good + bad) * (0.5 / 0.75) + good * (0.5 / 0.25)) / 4
    assert float(weighted.batch_loss(weighted.cell_losses(logits, labels), groups)) == pytest.approx(expected)
    smooth = Objective(LossSettings(label_smoothing=0.2), labels, groups, device)
    assert float(smooth.cell_losses(logits, labels)[0]) == pytest.approx(0.9 * good + 0.1 * bad)
    robust = Objective(LossSettings(group_robust_rate=1.0), labels, groups, device)
    losses = robust.cell_losses(logits, labels)
    weights = torch.softmax(torch.tensor([good, good, bad]), dim=0)  # groups 5, 7, 9
    expected = float(weights @ torch.tensor([good, good, bad]))
    assert float(robust.batch_loss(losses, groups)) == pytest.approx(expected, rel=1e-5)


def test_local_weights_must_fit_and_are_loaded_exactly(tmp_path):
    source, target = small(), small()
    tensors = {name: tensor.clone() for name, tensor in source.backbone.model.state_dict().items()}
    save_file(tensors, tmp_path / "good.safetensors")
    origin = load_weights(target, str(tmp_path / "good.safetensors"))
    assert origin.source == "good.safetensors"
    assert len(origin.sha256) == 64
    assert all(
        torch.equal(tensor, tensors[name]) for name, tensor in target.backbone.model.state_dict().items()
    )

    wrong = dict(tensors)
    del wrong["conv1.0.weight"]
    wrong["surprise"] = torch.zeros(2)
    wrong["bn1.weight"] = torch.zeros(7)
    wrong["bn1.bias"] = torch.full_like(tensors["bn1.bias"], torch.nan)
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_weights(target, str(tmp_path / "wrong.safetensors"))
    for part in ("conv1.0.weight", "surprise", "bn1.weight", "(7,)", "bn1.bias"):
        assert part in str(caught.value)


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        load_weights(small(), str(tmp_path / "none.safetensors"))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "pickled.safetensors")
    with pytest.raises(WeightsError, match=r"pickled\.safetensors"):
        load_weights(small(), str(tmp_path / "pickled.safetensors"))


def test_imagenet_weights_come_from_the_hubs_cache_or_say_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    network = small()
    with pytest.raises(WeightsError, match=r"timm/resnet10t.*network\.weights=model\.safetensors"):
        load_weights(network, "imagenet")


def test_imagenet_weights_are_read_from_the_hubs_cache_without_their_classifier(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    source, target = small(), small()
    commit = "0123456789" * 4
    cached = tmp_path / "models--timm--resnet10t.c3_in1k"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots" / commit).mkdir(parents=True)
    tensors = {name: tensor.clone() for name, tensor in source.backbone.model.state_dict().items()}
    classifier = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    save_file(tensors | classifier, cached / "snapshots" / commit / "model.safetensors")
    origin = load_weights(target, "imagenet")
    assert (origin.source, origin.revision) == ("timm/resnet10t.c3_in1k", commit)
    assert all(
        torch.equal(tensor, tensors[name]) for name, tensor in target.backbone.model.state_dict().items()
    )
    monkeypatch.setitem(weights.PINS, "timm/resnet10t.c3_in1k", weights.Pin(commit, "0" * 64))
    with pytest.raises(WeightsError, match="0" * 64):
        load_weights(target, "imagenet")


def test_invalid_networks_are_refused():
    with pytest.raises(ConfigError, match="efficientnet_b33"):
        small(arch="efficientnet_b33")
    with pytest.raises(ConfigError, match="test_vit"):
        small(arch="test_vit")
    with pytest.raises(ValueError, match="pooled_stages"):
        NetworkSettings(pooled_stages=())
    with pytest.raises(ConfigError, match="-40"):
        small(pooled_stages=(-40, -1))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.clip_norm=-1", r"clip_norm = -1\.0\b.*\b0\b"),
        ("optimizer.warmup_epochs=-1", r"warmup_epochs = -1\.0\b.*\b0\b"),
        ("optimizer.weight_decay=-0.1", r"weight_decay = -0\.1\b.*\b0\b"),
        ("augment.rotation_degrees=-15", r"rotation_degrees = -15\.0\b.*\b0\b.*\b180\b"),
        ("augment.rotation_degrees=270", r"rotation_degrees = 270\.0\b.*\b0\b.*\b180\b"),
        ("augment.stain=nan", r"stain = nan\b.*\b0\b.*\b0\.5\b"),
        ("batch_norm.reestimate_cells=-5", r"reestimate_cells = -5\b.*\b0\b.*\b2\b"),
        ("batch_norm.reestimate_cells=1", r"reestimate_cells = 1\b.*\b0\b.*\b2\b"),
        ("score.batch_size=0", r"batch_size = 0\b.*\b1\b"),
        ("engine.devices=0", r"devices = 0\b.*\b1\b"),
        ("stage1.patience=-1", r"patience = -1\b.*\b0\b"),
        ("stage1.learning_rate=nan", r"learning_rate = nan\b.*\b0\b"),
        ("head_fit.penalty=inf", r"penalty = inf\b.*\b0\b"),
        ("loss.label_smoothing=0.6", r"label_smoothing = 0\.6\b.*\b0\b.*\b0\.5\b"),
    ],
)
def test_impossible_settings_are_refused_with_value_and_limit(override, expected):
    with pytest.raises(ConfigError, match=expected):
        build(TrainSettings, apply_overrides({}, [override]))


@pytest.mark.parametrize("sampling", ["class", "subject"])
def test_the_classes_are_not_corrected_for_twice(sampling):
    build(TrainSettings, {"loss": {"class_weights": True}})
    with pytest.raises(ConfigError, match=rf"class_weights.*data\.sampling.*{sampling}"):
        build(TrainSettings, {"loss": {"class_weights": True}, "data": {"sampling": sampling}})


def test_lack_of_memory_is_explained():
    remedy = r"\b16\b.*engine\.batch_size"
    with pytest.raises(TrainingError, match=remedy), explain_failures(16):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="something else"), explain_failures(16):
        raise RuntimeError("something else")
