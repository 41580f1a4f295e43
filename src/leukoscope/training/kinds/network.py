"""The network of the kinds: an EfficientNet-Lite, global average pooling and one linear layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from leukoscope.core.errors import ConfigError, WeightsError
from leukoscope.core.io import replacing
from leukoscope.training.kinds.classes import KINDS

Norm = Literal["train", "frozen", "group"]
ARCHITECTURES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
_MIXED_STAGES = 3
_INT8_STEPS = 127.0
_SCALE = "scale of "


class Output(NamedTuple):
    """``logits`` (N, K) and the ``embedding`` (N, 1280) that they are linear in."""

    logits: Tensor
    embedding: Tensor


@dataclass
class StyleMixing:
    """Mix channel means and deviations of the feature maps between images of a batch (Zhou et al. 2021, MixStyle).

    The laboratory shows in these statistics. ``share`` is the probability that a stage's maps are mixed; the shares of
    the two images are drawn from Beta(0.1, 0.1) (arXiv:2104.02008).
    """

    share: float = 0.5
    alpha: float = 0.1

    def __call__(self, maps: Tensor) -> Tensor:
        """Return mixed maps (N, C, h, w)."""
        if torch.rand(()).item() >= self.share:
            return maps
        values = maps.float()
        mean = values.mean((2, 3), keepdim=True)
        deviation = (values.var((2, 3), keepdim=True) + 1e-6).sqrt()
        order = torch.randperm(len(maps), device=maps.device)
        own = torch.distributions.Beta(self.alpha, self.alpha).sample((len(maps), 1, 1, 1)).to(maps.device)
        mixed_mean = torch.lerp(mean[order], mean, own).detach()
        mixed_deviation = torch.lerp(deviation[order], deviation, own).detach()
        return ((values - mean.detach()) / deviation.detach() * mixed_deviation + mixed_mean).to(maps.dtype)


class KindsNetwork(nn.Module):
    """From (N, 3, S, S) intensities in 0..1 to logits of kinds.

    Parameters
    ----------
    arch
        A Lite network of timm.
    norm
        ``train`` updates batch statistics, ``frozen`` uses ImageNet's, ``group`` puts group norms of 8 channels a group
        in the place of batch norms.
    style_mixing
        Mix the statistics of the first three stages in training.
    drop_rate
        Dropout before the linear layer, 0 to 1.
    """

    def __init__(
        self, arch: str, norm: Norm = "train", style_mixing: bool = False, drop_rate: float = 0.2
    ) -> None:
        super().__init__()
        if arch not in ARCHITECTURES:
            raise ConfigError(f"arch = {arch!r}; give one of {', '.join(ARCHITECTURES)}")
        backbone: Any = timm.create_model(arch, num_classes=0, drop_path_rate=0.1)
        self.backbone = backbone
        self.norm = norm
        self.mixing = StyleMixing() if style_mixing else None
        self.dropout = nn.Dropout(drop_rate)
        width: int = backbone.num_features
        self.head = nn.Linear(width, len(KINDS))
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Output:
        """Return logits and embedding."""
        maps = self.feature_maps(images)
        embedding = maps.mean((2, 3))
        return Output(self.head(self.dropout(embedding)), embedding)

    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the last maps (N, 1280, h, w), whose means the logits are linear in."""
        maps = self.backbone.bn1(self.backbone.conv_stem((images - 0.5) / 0.5))
        for index, stage in enumerate(self.backbone.blocks):
            maps = stage(maps)
            if self.training and self.mixing is not None and index < _MIXED_STAGES:
                maps = self.mixing(maps)
        last: Tensor = self.backbone.bn2(self.backbone.conv_head(maps))
        return last

    def train(self, mode: bool = True) -> "KindsNetwork":
        """Set the mode; frozen batch norms stay in evaluation mode."""
        super().train(mode)
        if self.norm == "frozen":
            for module in self.backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def use_group_norms(self) -> None:
        """Exchange batch norms for group norms with their gains and offsets; call it after the weights are loaded."""
        for parent in list(self.backbone.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, _GroupNorm(child))


class _GroupNorm(nn.Module):
    """Group norm with the gains, offsets and activation of a batch norm of timm."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        channels = norm.num_features
        self.norm = nn.GroupNorm(max(1, channels // 8), channels)
        with torch.no_grad():
            self.norm.weight.copy_(norm.weight)
            self.norm.bias.copy_(norm.bias)
        self.act = norm.act

    def forward(self, maps: Tensor) -> Tensor:
        """Normalize and activate."""
        activated: Tensor = self.act(self.norm(maps))
        return activated


def create_network(
    arch: str, initial: Path | None, norm: Norm = "train", style_mixing: bool = False
) -> KindsNetwork:
    """Return a network, with initial weights of ``write_initial`` or random ones."""
    network = KindsNetwork(arch, norm, style_mixing)
    if initial is not None:
        tensors = read_initial(initial)
        try:
            network.backbone.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            raise WeightsError(f"{initial}: does not fit {arch}: {error}") from None
    if norm == "group":
        network.use_group_norms()
    return network


def map_published(tensors: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Give the tensors of a published EfficientNet-Lite file timm's names; its classifier is left out.

    The file has other names in the same order; every shape is compared.
    """
    expected = timm.create_model(arch, num_classes=1000).state_dict()
    if len(expected) != len(tensors):
        raise WeightsError(f"{len(tensors)} tensors, expected {len(expected)} of {arch}")
    mapped = dict(zip(expected, tensors.values(), strict=True))
    for name, tensor in mapped.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"{name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)} of {arch}"
            )
    return {name: tensor for name, tensor in mapped.items() if not name.startswith("classifier.")}


def write_initial(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write initial weights small: 1x1 convolutions as int8 with one scale an output channel."""
    small: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.shape[2:] != (1, 1):
            # Few numbers, on which much depends: depthwise kernels and the first layer in half precision.
            small[name] = (tensor.half() if tensor.ndim == 4 else tensor).contiguous()
            continue
        scale = tensor.abs().amax(dim=(1, 2, 3)).clamp_min(1e-12) / _INT8_STEPS
        small[name] = (tensor / scale.view(-1, 1, 1, 1)).round().to(torch.int8).contiguous()
        small[_SCALE + name] = scale
    with replacing(path) as part:
        save_file(small, part)


def read_initial(path: Path) -> dict[str, Tensor]:
    """Read what ``write_initial`` wrote, as float32."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file of initial weights; write it with write_initial")
    small = load_file(path)
    return {
        name: _restored(tensor, small.get(_SCALE + name))
        for name, tensor in small.items()
        if not name.startswith(_SCALE)
    }


def _restored(tensor: Tensor, scale: Tensor | None) -> Tensor:
    if scale is not None:
        return tensor * scale.view(-1, 1, 1, 1)
    return tensor.float() if tensor.is_floating_point() else tensor
