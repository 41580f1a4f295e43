"""The finder's network: an EfficientNet-Lite encoder, a light feature pyramid, maps at half the size."""

from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.core.errors import WeightsError
from leukoscope.imaging.instances import MAPS, OFFSET_SCALE_PX, STRIDE_PX

DIVISOR_PX = 32
ARCH = "efficientnet_lite0"
_STAGE_BLOCKS = (
    0,
    1,
    2,
    4,
    5,
)  # last block of the strides 2, 4, 8, 16 and 32; the head and the widest block are left out
_WIDTH = 64
_FINE_WIDTH = 32
_PRIOR_LOGIT = -3.0  # of a center or a cell at the start: both are rare


class FinderNetwork(nn.Module):
    """Maps of white cells, nuclei and red cells from pixels.

    Notes
    -----
    Input: (N, 3, H, W) float 0..255, sides divisible by 32, at ``CANONICAL_UM_PER_PX``. Output: (N, 10, H / 2, W / 2),
    logits and values in the order of ``MAPS``. Encoder as in M. Tan and Q. Le 2019 (arXiv 1905.11946) in its Lite form,
    without squeeze-excitation; pyramid as in T.-Y. Lin et al. 2017 (doi 10.1109/CVPR.2017.106) with depthwise
    convolutions;
    instances by centers and offsets as in B. Cheng et al. 2020 (doi 10.1109/CVPR42600.2020.01249).
    """

    def __init__(self) -> None:
        super().__init__()
        encoder: Any = timm.create_model(ARCH, pretrained=False, num_classes=0)
        self.stem = nn.Sequential(encoder.conv_stem, encoder.bn1)
        self.blocks = nn.ModuleList(encoder.blocks[: _STAGE_BLOCKS[-1] + 1])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3  # what the published Lite weights were trained with
                module.momentum = 0.03
        widths = [
            encoder.blocks[index][-1].get_submodule("bn3" if index else "bn2").num_features
            for index in _STAGE_BLOCKS
        ]
        self.lateral = nn.ModuleList(nn.Conv2d(width, _WIDTH, 1) for width in widths[1:])
        self.smooth = nn.ModuleList(_separable(_WIDTH, _WIDTH) for _ in widths[1:])
        self.refine = nn.Sequential(_separable(_WIDTH, _WIDTH), _separable(_WIDTH, _WIDTH))
        self.narrow = nn.Conv2d(_WIDTH, _FINE_WIDTH, 1)
        self.fine_lateral = nn.Conv2d(widths[0], _FINE_WIDTH, 1)
        self.fine = nn.Sequential(
            _separable(_FINE_WIDTH, _FINE_WIDTH, 5), _separable(_FINE_WIDTH, _FINE_WIDTH)
        )
        self.heads = nn.Conv2d(_FINE_WIDTH, len(MAPS), 1)
        nn.init.normal_(self.heads.weight, std=0.01)
        nn.init.zeros_(self.heads.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            for name in ("cell", "nucleus", "center", "red_center"):
                self.heads.bias[MAPS.index(name)] = _PRIOR_LOGIT  # type: ignore[index]

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start from ImageNet."""
        return [*self.stem.parameters(), *self.blocks.parameters()]

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start at random."""
        known = {id(parameter) for parameter in self.encoder_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in known]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the raw maps (logits for probabilities)."""
        x = self.stem((pixels - 127.0) / 128.0)
        stages = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _STAGE_BLOCKS:
                stages.append(x)
        top = self.smooth[-1](self.lateral[-1](stages[-1]))
        for level in range(len(stages) - 2, 0, -1):
            top = self.lateral[level - 1](stages[level]) + _double(top)
            top = self.smooth[level - 1](top)
        top = self.refine(top)
        fine = self.fine_lateral(stages[0]) + _double(self.narrow(top))
        return self.heads(self.fine(fine))


class FinderGraph(nn.Module):
    """The network as it is exported: uint8 (N, H, W, 3) in, activated maps (N, 10, H / 2, W / 2) out."""

    def __init__(self, network: FinderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, rgb: Tensor) -> Tensor:
        """Return probabilities, offsets in px and the red cells' diameter in px."""
        return activate(self.network(rgb.permute(0, 3, 1, 2).float()))


class Names(NamedTuple):
    """Where each map stands."""

    cell: int = MAPS.index("cell")
    nucleus: int = MAPS.index("nucleus")
    red: int = MAPS.index("red")
    center: int = MAPS.index("center")
    offset: int = MAPS.index("offset_y")
    smudge: int = MAPS.index("smudge")
    red_center: int = MAPS.index("red_center")
    red_diameter: int = MAPS.index("red_diameter")


AT = Names()


def activate(raw: Tensor) -> Tensor:
    """Turn raw maps into probabilities, offsets in px of the input and diameters in px of the input."""
    probability = torch.sigmoid(raw)
    offset = raw[:, AT.offset : AT.offset + 2] * OFFSET_SCALE_PX
    diameter = torch.exp(raw[:, AT.red_diameter : AT.red_diameter + 1].clamp(-2.5, 2.5)) * RED_DIAMETER_PX
    return torch.cat(
        [probability[:, : AT.offset], offset, probability[:, AT.offset + 2 : AT.red_diameter], diameter],
        dim=1,
    )


RED_DIAMETER_PX = 28.8  # 7.2 um at 0.25 um a pixel
assert MAPS[-1] == "red_diameter" and STRIDE_PX == 2  # noqa: S101  (activate relies on the order)


def load_encoder(network: FinderNetwork, path: Path) -> None:
    """Fill the encoder from a file with timm's names of ``efficientnet_lite0`` (.safetensors).

    Raises
    ------
    WeightsError
        Missing tensors or other shapes.
    """
    from leukoscope.training.weights.loading import read_tensors

    fill_encoder(network, read_tensors(path), str(path))


def fill_encoder(network: FinderNetwork, tensors: dict[str, Tensor], source: str) -> None:
    """Fill the encoder from tensors with timm's names; tensors after its last block are ignored."""
    own = {
        **{f"conv_stem.{k}": v for k, v in network.stem[0].state_dict().items()},
        **{f"bn1.{k}": v for k, v in network.stem[1].state_dict().items()},
        **{f"blocks.{k}": v for k, v in network.blocks.state_dict().items()},
    }
    for name, tensor in own.items():
        if name.endswith("num_batches_tracked"):
            continue
        if name not in tensors or tensors[name].shape != tensor.shape:
            raise WeightsError(
                f"{source}: {name} is missing or of another shape; give timm's weights of {ARCH}"
            )
        tensor.copy_(tensors[name].to(tensor.dtype))


def _separable(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, padding=kernel // 2, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs, momentum=0.03),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.03),
        nn.ReLU(inplace=True),
    )


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
