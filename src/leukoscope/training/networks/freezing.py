"""Trained and frozen layers of a network."""

import torch
from torch import Tensor, nn

from leukoscope.core.errors import ConfigError
from leukoscope.training.networks.backbone import BackboneChain
from leukoscope.training.networks.network import CellNetwork
from leukoscope.training.settings import StageSettings

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


def list_layers(backbone: BackboneChain) -> list[tuple[str, nn.Module]]:
    """Return the backbone's layers in the order of their first execution.

    A layer is a module that owns parameters, or has no children and is not an Identity:
    convolutions, norms, activations, sigmoids, pooling. EfficientNet-B3 has 312; Keras, which counts reshapes, sums and
    products too, 384. The last 30 are the final convolution, the last two blocks and the end of the third last.
    """
    layers: dict[nn.Module, str] = {}
    handles = []
    names = {module: name for name, module in backbone.model.named_modules()}

    def note(module: nn.Module, _inputs: tuple[Tensor, ...]) -> None:
        layers.setdefault(module, names[module])

    for module in names:
        own = any(True for _ in module.parameters(recurse=False))
        leaf = not any(True for _ in module.children()) and not isinstance(module, nn.Identity)
        if own or leaf:
            handles.append(module.register_forward_pre_hook(note))
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    with torch.no_grad():
        device = next(backbone.parameters()).device
        backbone(torch.zeros(1, 3, backbone.probe_px, backbone.probe_px, device=device))
    for handle in handles:
        handle.remove()
    for module, mode in modes:
        module.training = mode
    return [(name, module) for module, name in layers.items()]


def unfrozen_layers(backbone: BackboneChain, count: int) -> list[nn.Module]:
    """Return the last ``count`` layers; -1 for all.

    Raises
    ------
    ConfigError
        The backbone has fewer layers.
    """
    layers = [module for _, module in list_layers(backbone)]
    if count > len(layers):
        raise ConfigError(f"unfreeze_layers = {count}: the backbone has {len(layers)} layers; use -1 for all")
    return layers if count == -1 else layers[len(layers) - count :]


def freeze_boundary(network: CellNetwork, stages: tuple[StageSettings, ...]) -> int:
    """Return the first unit that any stage trains, or whose output is pooled before: units before it never change.

    ``len(network.backbone)`` if no part of the backbone is ever trained: the embedding never changes.
    """
    trained: set[nn.Module] = set()
    for stage in stages:
        trained.update(unfrozen_layers(network.backbone, stage.unfreeze_layers))
    end = len(network.backbone)
    boundary = end
    for index, unit in enumerate(network.backbone.units):
        if any(module in trained for module in unit.modules()):
            boundary = index
            break
    else:
        boundary = 0 if trained else end  # a model that is no chain hides its modules from its one unit
    if boundary == end:
        return end
    if network.settings.pools_cell:
        return 0  # pooling asks the images where the cell is
    earliest = min(network.backbone.stages[stage].last_unit for stage in network.pooled_stages)
    return min(boundary, earliest)


def set_trainable(network: CellNetwork, stage: StageSettings) -> None:
    """Let the head and the stage's layers have gradients, and nothing else."""
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    if network.descriptor_head is not None:
        network.descriptor_head.requires_grad_(True)
    for module in unfrozen_layers(network.backbone, stage.unfreeze_layers):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(True)


def set_modes(network: CellNetwork, train_batch_norm: bool) -> None:
    """Set trained layers to training mode, frozen units and (unless asked) backbone batch norms in evaluation mode."""
    network.train()
    for module in network.backbone.model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, BATCH_NORMS):
            module.train(train_batch_norm and any(parameter.requires_grad for parameter in own))
    for unit in network.backbone.units:
        if not any(parameter.requires_grad for parameter in unit.parameters()):
            unit.eval()


@torch.no_grad()
def collect_batch_norm_statistics(network: CellNetwork) -> list[tuple[nn.Module, float | None]]:
    """Prepare the backbone's batch norms to gather fresh statistics; returns their momenta, to be put back."""
    momenta: list[tuple[nn.Module, float | None]] = []
    network.eval()
    for module in network.backbone.model.modules():
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None:
            momenta.append((module, module.momentum))
            module.reset_running_stats()
            module.momentum = None  # cumulative average
            module.train()
    return momenta
