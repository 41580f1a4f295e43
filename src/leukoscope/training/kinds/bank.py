"""All crops of a pack as tensors on one device, with what composing views needs: stains and emptied surroundings."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from leukoscope.training.kinds.classes import NAMES, label_kinds
from leukoscope.training.kinds.packing import Item, Pack
from leukoscope.training.kinds.stain import to_density

_CHUNK = 128
_NOT_WHITE = NAMES.index("not_a_white_cell")
_HOLE_PX = 21  # the emptied surroundings lose the cell and 1.25 um around it


@dataclass(frozen=True)
class Bank:
    """Crops on a device.

    Attributes
    ----------
    images
        uint8 (N, 3, C, C).
    masks
        uint8 (N, 1, C, C), 255 in the cell.
    emptied
        uint8 (N, 3, C, C), the surroundings, the cell replaced by the light of the glass; zeros for cut-outs.
    kinds
        bool (N, K), the kinds that each label leaves possible.
    stains
        float (N, 3), optical density of the nuclei of the row's laboratory (median over its white cells).
    laboratories
        int (N,) index into ``laboratory_names``.
    cut_out
        bool (N,), whether the crop comes on black.
    """

    images: Tensor
    masks: Tensor
    emptied: Tensor
    kinds: Tensor
    stains: Tensor
    laboratories: Tensor
    cut_out: Tensor
    laboratory_names: tuple[str, ...]
    items: tuple[Item, ...]

    def rows(self, **wanted: object) -> NDArray[np.int64]:
        """Return the rows whose item has the wanted values, as ``rows(laboratory="pbc", held_out=True)``."""
        return np.array(
            [
                row
                for row, item in enumerate(self.items)
                if all(getattr(item, name) == value for name, value in wanted.items())
            ],
            np.int64,
        )


def build_bank(pack: Pack, device: torch.device) -> Bank:
    """Move a pack to a device and compute stains and emptied surroundings there."""
    images = torch.from_numpy(pack.rgb).permute(0, 3, 1, 2).contiguous().to(device)
    masks = torch.from_numpy(pack.masks).to(device)[:, None].to(torch.uint8) * 255
    names = tuple(dict.fromkeys(item.laboratory for item in pack.items))
    laboratories = torch.tensor([names.index(item.laboratory) for item in pack.items], device=device)
    emptied = torch.zeros_like(images)
    nuclei = torch.zeros(len(images), 3, device=device)
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        pixels, inside = images[part].float() / 255.0, smooth_masks(masks[part].float() / 255.0)
        masks[part] = (inside * 255.0).round().to(torch.uint8)
        nuclei[part] = nuclear_density(to_density(pixels), inside)
        emptied[part] = (empty_surroundings(pixels, inside) * 255.0).round().to(torch.uint8)
    cut_out = torch.tensor([item.cut_out for item in pack.items], device=device)
    emptied[cut_out] = 0
    kinds = torch.from_numpy(np.stack([label_kinds(item.label) for item in pack.items])).to(device)
    white = ~kinds[:, _NOT_WHITE]
    stains = torch.zeros_like(nuclei)
    for index in range(len(names)):
        own = (laboratories == index) & white
        own = own if bool(own.any()) else laboratories == index
        stains[laboratories == index] = nuclei[own].median(dim=0).values
    return Bank(images, masks, emptied, kinds, stains, laboratories, cut_out, names, pack.items)


def nuclear_density(density: Tensor, inside: Tensor) -> Tensor:
    """Return the mean optical density where a cell is darker than its own mean, which is mostly its nucleus.

    (N, 3) of (N, 3, H, W) and the mask (N, 1, H, W) in 0..1.
    """
    gray = density.mean(dim=1, keepdim=True)
    mean = (gray * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp_min(1.0)
    dark = inside * (gray >= mean)
    return (density * dark).sum((2, 3)) / dark.sum((2, 3)).clamp_min(1.0)


def smooth_masks(masks: Tensor) -> Tensor:
    """Round off the corners of masks of half resolution: (N, 1, H, W) in 0..1, with an edge of about 2 px."""
    return ((functional.avg_pool2d(masks, 7, 1, 3) - 0.5) * 3.0 + 0.5).clamp(0.0, 1.0)


def empty_surroundings(images: Tensor, inside: Tensor) -> Tensor:
    """Replace the cell by a smooth patch of the glass: (N, 3, H, W) in 0..1 and the mask (N, 1, H, W) in 0..1."""
    hole = functional.max_pool2d(inside, _HOLE_PX, stride=1, padding=_HOLE_PX // 2)
    gray = images.mean(dim=1, keepdim=True)
    outside = torch.where(hole > 0.5, torch.full_like(gray, -1.0), gray)
    bright = torch.quantile(outside.flatten(1)[:, ::7], 0.85, dim=1).view(-1, 1, 1, 1)
    glass = ((outside >= bright * 0.98) & (hole < 0.5)).float()
    # Glass near the cell counts most: a wide mean of the glass on an eighth of the resolution, falling back on the
    # whole image's mean.
    near = functional.avg_pool2d(functional.avg_pool2d(glass, 8), 9, 1, 4) + 1e-4
    light = functional.avg_pool2d(functional.avg_pool2d(images * glass, 8), 9, 1, 4)
    whole = (images * glass).mean((2, 3), keepdim=True) / (glass.mean((2, 3), keepdim=True) + 1e-6)
    fill = functional.interpolate((light + 1e-4 * whole) / near, images.shape[2:], mode="bilinear")
    soft = functional.avg_pool2d(hole, 9, 1, 4)
    return torch.lerp(images, fill.clamp(0.0, 1.0), soft)
