"""Averages over a map whose gradients have the map's own layout.

The gradient of ``Tensor.mean`` comes out with the channels first, whatever the layout of the map. Where the map has its
channels last (all of training does), what follows in the backward pass then reads one tensor along the rows and
another across them: the backward pass of the batch norm before EfficientNet-B3's last pooling took nine times as long.
"""

from torch import Tensor, nn
from torch.nn import functional


def average_over_places(stage_map: Tensor) -> Tensor:
    """Return the average (N, C, 1, 1) of a map (N, C, h, w) over its places."""
    if not stage_map.requires_grad:
        return stage_map.mean(dim=(2, 3), keepdim=True)
    return functional.avg_pool2d(stage_map, tuple(stage_map.shape[2:]))


class SqueezeExcite(nn.Module):
    """timm's squeeze-and-excitation of the EfficientNets, made of the same parts under the same names.

    Parameters
    ----------
    original
        A ``timm.models._efficientnet_blocks.SqueezeExcite``.
    """

    conv_reduce: nn.Module
    act1: nn.Module
    conv_expand: nn.Module
    gate: nn.Module

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        for name, part in original.named_children():
            self.add_module(name, part)

    def forward(self, stage_map: Tensor) -> Tensor:
        """Weigh the channels of a map (N, C, h, w)."""
        squeezed = self.act1(self.conv_reduce(average_over_places(stage_map)))
        gate: Tensor = self.gate(self.conv_expand(squeezed))
        return stage_map * gate


def replace_squeezes(model: nn.Module) -> None:
    """Put ``SqueezeExcite`` in the places of timm's; what the model computes and what its tensors are called stay."""
    from timm.models._efficientnet_blocks import SqueezeExcite as Original

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Original:
                setattr(parent, name, SqueezeExcite(child).train(child.training))
