"""Layers that compute what timm's and torch's do, with a backward pass that is faster on a processor.

- The gradient of ``Tensor.mean`` is channels first for any layout of the map. If the map has
  its channels last (all of training does), what follows in the backward pass then reads one tensor along the rows and
  another across them.
- In bfloat16 the backward pass of a depthwise convolution with a stride or a kernel above 3 takes two to three times as
  long as in float32 (torch 2.14, oneDNN, AVX-512).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST_FAST_KERNEL = 3


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


class DepthwiseConvolution(nn.Conv2d):
    """A depthwise convolution without bias; under bfloat16 autocast on a processor its gradients are float32.

    Parameters
    ----------
    original
        Its weight is taken over, not copied.
    """

    def __init__(self, original: nn.Conv2d) -> None:
        super().__init__(
            original.in_channels,
            original.out_channels,
            kernel_size=original.kernel_size,  # type: ignore[arg-type]
            stride=original.stride,  # type: ignore[arg-type]
            padding=original.padding,  # type: ignore[arg-type]
            dilation=original.dilation,  # type: ignore[arg-type]
            groups=original.groups,
            bias=False,
            device="meta",  # draws no random numbers
        )
        self.weight = original.weight

    def forward(self, stage_map: Tensor) -> Tensor:
        """Convolve a map (N, C, h, w)."""
        mixed = stage_map.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not mixed or not torch.is_grad_enabled() or torch.get_autocast_dtype("cpu") != torch.bfloat16:
            return super().forward(stage_map)
        places = (self.stride, self.padding, self.dilation, self.groups)
        result: Tensor = _FloatGradients.apply(stage_map, self.weight, places)
        return result


class _FloatGradients(torch.autograd.Function):
    """Forward in bfloat16, backward in float32."""

    @staticmethod
    def forward(ctx: Any, stage_map: Tensor, weight: Tensor, places: Any) -> Tensor:
        stage_map = stage_map.to(torch.bfloat16)
        ctx.save_for_backward(stage_map, weight)
        ctx.places = places
        return functional.conv2d(stage_map, weight.to(torch.bfloat16), None, *places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        stage_map, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.places
        of_map, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(),
            stage_map.float(),
            weight.float(),
            None,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )
        return of_map, of_weight, None


def replace_slow_layers(model: nn.Module) -> None:
    """Put the layers of this module in the places of timm's; outputs and the names of all tensors stay."""
    from timm.models._efficientnet_blocks import SqueezeExcite as SqueezeExciteOfTimm

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is SqueezeExciteOfTimm:
                setattr(parent, name, SqueezeExcite(child).train(child.training))
            elif type(child) is nn.Conv2d and _is_slow(child):
                setattr(parent, name, DepthwiseConvolution(child).train(child.training))


def _is_slow(convolution: nn.Conv2d) -> bool:
    depthwise = 1 < convolution.groups == convolution.in_channels == convolution.out_channels
    large = max(convolution.stride) > 1 or max(convolution.kernel_size) > LARGEST_FAST_KERNEL
    plain = convolution.bias is None and convolution.padding_mode == "zeros"
    return depthwise and large and plain and not isinstance(convolution.padding, str)
