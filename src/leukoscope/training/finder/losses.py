"""The finder's loss; unknown pixels do not contribute."""

import torch
from torch import Tensor
from torch.nn import functional

from leukoscope.imaging.instances import OFFSET_SCALE_PX
from leukoscope.training.finder.network import AT
from leukoscope.training.finder.samples import Targets

WEIGHTS = {
    "cell": 1.0,
    "nucleus": 1.0,
    "red": 0.3,
    "center": 1.0,
    "offset": 1.0,
    "smudge": 0.2,
    "red_center": 0.5,
    "red_diameter": 0.5,
}
_SMUDGE_WEIGHT = 6.0  # smudge cells are rare


def finder_losses(raw: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Return the loss of each map.

    Parameters
    ----------
    raw
        (B, 9, h, w) float32, before activation.
    targets
        Of the same batch.

    Notes
    -----
    Cells and nuclei: cross-entropy and soft Dice (F. Milletari et al. 2016, doi 10.1109/3DV.2016.79). Centers:
    penalty-reduced focal loss (X. Zhou et al. 2019, arXiv 1904.07850). Offsets and diameters: absolute error.
    """
    distance = (raw[:, AT.offset : AT.offset + 2] - targets.offset / OFFSET_SCALE_PX).abs().sum(dim=1)
    size = (raw[:, AT.red_diameter] - targets.red_diameter).abs()
    on_red = (targets.red_center > 0.5).float()
    smudge_known = (targets.smudge >= 0).float() * (1 + (_SMUDGE_WEIGHT - 1) * (targets.smudge > 0.5))
    return {
        "cell": _mask_loss(raw[:, AT.cell], targets.cell, targets.cell_known),
        "nucleus": _mask_loss(raw[:, AT.nucleus], targets.nucleus, targets.nucleus_known),
        "red": _cross_entropy(raw[:, AT.red], targets.red, targets.red_known),
        "center": _focal(raw[:, AT.center], targets.center, targets.center_known),
        "offset": 4 * _mean(distance, targets.cell),
        "smudge": _cross_entropy(raw[:, AT.smudge], targets.smudge.clamp(min=0), smudge_known),
        "red_center": _focal(raw[:, AT.red_center], targets.red_center, targets.red_center_known),
        "red_diameter": 4 * _mean(size, on_red),
    }


def total_loss(losses: dict[str, Tensor]) -> Tensor:
    """Return the weighted sum."""
    return torch.stack([WEIGHTS[name] * value for name, value in losses.items()]).sum()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


def _cross_entropy(raw: Tensor, target: Tensor, known: Tensor) -> Tensor:
    return _mean(functional.binary_cross_entropy_with_logits(raw, target, reduction="none"), known)


def _mask_loss(raw: Tensor, target: Tensor, known: Tensor) -> Tensor:
    probability = torch.sigmoid(raw) * known
    target = target * known
    dice = 1 - (2 * (probability * target).sum() + 1) / (probability.sum() + target.sum() + 1)
    return 3 * _cross_entropy(raw, target, known) + dice


def _focal(raw: Tensor, target: Tensor, known: Tensor) -> Tensor:
    probability = torch.sigmoid(raw).clamp(1e-4, 1 - 1e-4)
    # A center is between pixels: its highest pixel may be below 1.
    positive = (target > 0.9).float() * known
    hit = (1 - probability) ** 2 * probability.log() * positive * target
    miss = probability**2 * (1 - probability).log() * (1 - target) ** 4 * known * (1 - positive)
    return -(hit + miss).sum() / positive.sum().clamp(min=1)
