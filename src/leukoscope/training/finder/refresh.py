"""Replace outlines that were drawn by color alone by the network's own, where it is certain."""

import torch
from torch import Tensor
from torch.nn import functional

from leukoscope.training.finder.bank import Bank
from leukoscope.training.finder.network import AT, FinderNetwork
from leukoscope.training.finder.tiles import MOST_INSTANCES, TILE_PX, UNKNOWN, UNKNOWN_INSTANCE

_INPUT_PX = 192  # a tile of 44.8 um at 0.233 um a pixel
_CERTAIN = 0.75
_REACH_PX = 15  # 2.6 um around an outline is looked at again
_LEAST_OVERLAP = 0.6


@torch.no_grad()
def refresh_labels(network: FinderNetwork, bank: Bank, batch: int = 64) -> dict[str, float]:
    """Change the labels of rough tiles in place.

    Within 2.6 um of a cell, what the network gives a probability above 0.75 becomes the cell, below 0.25 background,
    the rest unknown; nuclei likewise. A tile where the network and the outline disagree on more than 40 % is left as
    it is.

    Returns
    -------
    dict
        Tiles looked at and changed, mean overlap (IoU) before.
    """
    rows = torch.nonzero(bank.rough).flatten()
    overlaps, changed = [], 0
    for start in range(0, len(rows), batch):
        chosen = rows[start : start + batch]
        cell, nucleus = _predict(network, bank.images[chosen])
        labels = bank.labels[chosen]
        fresh, overlap = _merge(labels, cell, nucleus)
        good = overlap > _LEAST_OVERLAP
        bank.labels[chosen] = torch.where(good[:, None, None], fresh, labels)
        changed += int(good.sum())
        overlaps.append(overlap[overlap >= 0])
    overlap = torch.cat(overlaps) if overlaps else torch.zeros(1)
    return {"tiles": len(rows), "changed": changed, "overlap": round(float(overlap.mean()), 4)}


def _predict(network: FinderNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities of cell and nucleus (B, 256, 256), averaged over four mirrorings."""
    pixels = images.permute(0, 3, 1, 2).float()
    pixels = functional.interpolate(pixels, (_INPUT_PX, _INPUT_PX), mode="bilinear", antialias=True)
    total = torch.zeros(len(images), 2, _INPUT_PX // 2, _INPUT_PX // 2, device=images.device)
    for axes in ((), (2,), (3,), (2, 3)):
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=images.device.type == "cuda"):
            raw = network(pixels.flip(axes).contiguous(memory_format=torch.channels_last)).float().flip(axes)
        total += raw[:, [AT.cell, AT.nucleus]] / 4
    large = functional.interpolate(
        torch.sigmoid(total), (TILE_PX, TILE_PX), mode="bilinear", align_corners=False
    )
    return large[:, 0], large[:, 1]


def _merge(labels: Tensor, cell: Tensor, nucleus: Tensor) -> tuple[Tensor, Tensor]:
    """Return new label bytes and the overlap of network and outline (-1 where a tile has no cell)."""
    instance, old_nucleus, red = labels & 7, (labels >> 3) & 3, labels & 0x60
    known = (instance > 0) & (instance < UNKNOWN_INSTANCE)
    side = 2 * _REACH_PX + 1
    near = functional.max_pool2d(known[:, None].float(), side, 1, _REACH_PX)[:, 0] > 0
    own = near & (cell > 0.5)
    union = (own | known).flatten(1).sum(dim=1)
    overlap = torch.where(
        union > 0,
        (own & known).flatten(1).sum(dim=1) / union.clamp(min=1),
        torch.full_like(union, -1.0, dtype=torch.float32),
    )
    nearest = _nearest_instance(instance)
    fresh = torch.where(cell > _CERTAIN, nearest, UNKNOWN_INSTANCE)
    fresh = torch.where(cell < 1 - _CERTAIN, 0, fresh)
    fresh = torch.where(near, fresh.to(instance.dtype), instance)
    inside = (fresh > 0) & (fresh < UNKNOWN_INSTANCE)
    second = torch.where(nucleus > _CERTAIN, 1, UNKNOWN)
    second = torch.where(nucleus < 1 - _CERTAIN, 0, second)
    # An old nucleus that contrast showed stays unless the network is certain of the contrary.
    second = torch.where((second == UNKNOWN) & inside & known, old_nucleus.long(), second)
    second = torch.where(inside | near, second, old_nucleus.long())
    second = torch.where(fresh == 0, 0, second)
    return fresh | (second << 3).to(labels.dtype) | red, overlap


def _nearest_instance(instance: Tensor) -> Tensor:
    """Return for each pixel the instance whose middle is nearest in units of its radius."""
    line = torch.arange(TILE_PX, device=instance.device, dtype=torch.float32)
    best = torch.full(instance.shape, torch.inf, device=instance.device)
    owner = torch.ones_like(instance, dtype=torch.long)
    for number in range(1, MOST_INSTANCES + 1):
        mine = (instance == number).float()
        area = mine.sum(dim=(1, 2))
        row = (mine.sum(2) * line).sum(1) / area.clamp(min=1)
        column = (mine.sum(1) * line).sum(1) / area.clamp(min=1)
        distance = torch.hypot(
            line[None, :, None] - row[:, None, None], line[None, None] - column[:, None, None]
        )
        distance = distance / area.clamp(min=1).sqrt()[:, None, None]
        distance = torch.where((area > 0)[:, None, None], distance, torch.inf)
        owner = torch.where(distance < best, number, owner)
        best = torch.minimum(best, distance)
    return owner
