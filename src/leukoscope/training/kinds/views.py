"""Views of cells for training: turned, scaled, in other surroundings or cut out, in another stain, focus and coding.

A view has one of two forms. In *context* form a cell stands in its own surroundings, or in those of another crop of any
laboratory: cells that come cut out (C-NMC) always, others with ``swap_share``. In *cut-out* form everything but the
cell is black. Both forms exist for every laboratory and every kind, so that the form does not give the class away.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leukoscope.training.kinds.bank import Bank
from leukoscope.training.kinds.stain import (
    compress,
    from_density,
    match_density,
    refocus,
    restain,
    to_density,
    uniform,
)

INPUT_PX = 192  # 24 um
_GRAINS = (2, 5, 12, 40, 192)


@dataclass(frozen=True)
class ViewSettings:
    """How views are made.

    Attributes
    ----------
    input_px
        Side of a view, a multiple of 8.
    strength
        0 leaves geometry, stain, focus and coding alone; 1 is the full range.
    cut_out_share
        Share of views in cut-out form.
    swap_share
        Share of context views whose surroundings are another crop's.
    stain_mix_share
        Share of views that take over another laboratory's stain before the random change.
    """

    input_px: int = INPUT_PX
    strength: float = 1.0
    cut_out_share: float = 0.5
    swap_share: float = 0.3
    stain_mix_share: float = 0.35


@dataclass(frozen=True)
class Draw:
    """Which crops a batch of views is made of.

    Attributes
    ----------
    rows
        (N,) the cells; -1 for surroundings without a cell.
    surroundings
        (N,) rows of context crops.
    stains
        (N,) rows whose laboratory's stain may be taken over.
    """

    rows: Tensor
    surroundings: Tensor
    stains: Tensor


def make_views(bank: Bank, draw: Draw, settings: ViewSettings, generator: torch.Generator) -> Tensor:
    """Compose a batch of views.

    Returns
    -------
    Tensor
        (N, 3, S, S) float32 in 0..1.
    """
    count, side = len(draw.rows), settings.input_px
    empty = draw.rows < 0
    rows = draw.rows.clamp_min(0)
    comes_cut_out = bank.cut_out[rows]
    cut_out = (uniform(count, 0, 1, generator) < settings.cut_out_share) & ~empty
    swapped = (uniform(count, 0, 1, generator) < settings.swap_share) | comes_cut_out | empty
    own = bank.stains[rows]
    # A cell in other surroundings has to have their stain; a cut-out view may have any.
    partner = torch.where(swapped[:, None], bank.stains[draw.surroundings], bank.stains[draw.stains])
    mix = (uniform(count, 0, 1, generator) < settings.stain_mix_share) | (swapped & ~cut_out)
    share = torch.where(mix, uniform(count, 0.5, 1.0, generator), torch.zeros(count, device=rows.device))

    cells = warp(bank.images[rows], bank.masks[rows], side, settings.strength, generator)
    density = match_density(to_density(cells[:, :3]), own, partner, share)
    inside = cells[:, 3:]
    around = warp(bank.emptied[draw.surroundings], None, side, settings.strength, generator)
    inside = torch.where(empty.view(-1, 1, 1, 1), torch.zeros_like(inside), inside)
    pasted = torch.lerp(to_density(around), density, _soft(inside, comes_cut_out))
    density = torch.where((swapped & ~cut_out).view(-1, 1, 1, 1), pasted, density)

    if settings.strength > 0:
        density = restain(density, generator, settings.strength)
    images = from_density(density)
    rim = _rim(inside, uniform(count, 0, 1, generator), comes_cut_out)
    images = torch.where(cut_out.view(-1, 1, 1, 1), images * rim, images)
    if settings.strength > 0:
        images = _degrade(images, settings.strength, generator)
    # The black of a cut-out is exact, as in the files.
    return torch.where(cut_out.view(-1, 1, 1, 1) & (rim < 0.01), torch.zeros_like(images), images)


def plain_views(bank: Bank, rows: Tensor, cut_out: bool, input_px: int = INPUT_PX, turns: int = 0) -> Tensor:
    """Return the middle of crops unchanged, (N, 3, S, S) in 0..1, turned by ``turns`` quarters.

    Cells that come cut out stay so. With ``cut_out``, everything but the cell is black.
    """
    start = (bank.images.shape[-1] - input_px) // 2
    window = slice(start, start + input_px)
    images = bank.images[rows][..., window, window].float() / 255.0
    if cut_out:
        inside = bank.masks[rows][..., window, window].float() / 255.0
        images = torch.where(bank.cut_out[rows].view(-1, 1, 1, 1), images, images * inside)
    return torch.rot90(images, turns, (2, 3))


def warp(
    images: Tensor, masks: Tensor | None, side: int, strength: float, generator: torch.Generator
) -> Tensor:
    """Turn by any angle, mirror, scale by 0.8 to 1.25, stretch by up to 6 % and shift by up to 1.3 um.

    Parameters
    ----------
    images, masks
        uint8 (N, 3, C, C) and (N, 1, C, C); both are moved alike.
    side
        Side of the result in px; at ``strength`` 0 the middle of the crop.

    Returns
    -------
    Tensor
        (N, 3 or 4, side, side) in 0..1.
    """
    count, crop = len(images), images.shape[-1]
    angle = strength * uniform(count, 0, 2 * torch.pi, generator)
    mirror = torch.where((uniform(count, 0, 1, generator) < 0.5) & (strength > 0), -1.0, 1.0)
    scale = torch.exp(strength * uniform(count, -0.223, 0.223, generator)) * (side / crop)
    stretch = torch.exp(strength * uniform(count, -0.06, 0.06, generator))
    shift = strength * uniform(count, -0.1, 0.1, generator, 2)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    matrix = torch.stack(
        [
            torch.stack([cosine * scale * stretch * mirror, -sine * scale, shift[:, 0]], dim=1),
            torch.stack([sine * scale * stretch * mirror, cosine * scale, shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(matrix, [count, 3, side, side], align_corners=False)
    moved = functional.grid_sample(images.float() / 255.0, grid, "bilinear", "reflection", False)
    if masks is None:
        return moved
    inside = functional.grid_sample(masks.float() / 255.0, grid, "bilinear", "zeros", False)
    return torch.cat([moved, inside], dim=1)


def textures(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Return images of no cell: smooth noise of random grain, color and contrast, flat colors and stripes."""
    choice = torch.softmax(
        8.0 * torch.randn(len(_GRAINS), count, generator=generator, device=generator.device), dim=0
    )
    result = torch.zeros(count, 3, side, side, device=generator.device)
    for weight, grain in zip(choice, _GRAINS, strict=True):
        noise = uniform(count, 0, 1, generator, 3, min(grain, side), min(grain, side))
        noise[::4] = noise[::4, :, :1]  # stripes
        result += weight.view(-1, 1, 1, 1) * functional.interpolate(noise, (side, side), mode="bilinear")
    contrast = uniform(count, 0, 1, generator, 1, 1, 1)
    return torch.lerp(uniform(count, 0, 1, generator, 3, 1, 1).expand_as(result), result, contrast)


def _degrade(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    count = len(images)
    amount = uniform(count, -0.5, 1.0, generator) * (uniform(count, 0, 1, generator) < 0.6)
    images = refocus(images, strength * amount)
    level = (
        strength
        * uniform(count, 0, 0.03, generator, 1, 1, 1)
        * (uniform(count, 0, 1, generator, 1, 1, 1) < 0.4)
    )
    images = images + level * torch.randn(images.shape, generator=generator, device=images.device)
    coarseness = strength * uniform(count, 0, 12, generator) * (uniform(count, 0, 1, generator) < 0.4)
    return compress(images.clamp(0.0, 1.0), coarseness)


def _soft(inside: Tensor, comes_cut_out: Tensor) -> Tensor:
    """Soften the edge; from cells that come cut out first take the outermost 0.25 um, which the black has darkened."""
    eroded = -functional.max_pool2d(-inside, 5, 1, 2)
    narrow = torch.where(comes_cut_out.view(-1, 1, 1, 1), eroded, inside)
    return functional.avg_pool2d(narrow, 3, 1, 1)


def _rim(inside: Tensor, chance: Tensor, comes_cut_out: Tensor) -> Tensor:
    """Return where a cut-out is not black: a third of the masks 0.25 um narrower, a third 0.4 um wider.

    Cells that come cut out have the edge they came with.
    """
    wider = functional.max_pool2d(inside, 7, 1, 3)
    narrower = -functional.max_pool2d(-inside, 5, 1, 2)
    wide = (chance > 2 / 3) | comes_cut_out
    narrow = (chance < 1 / 3) & ~comes_cut_out
    rim = torch.where(wide.view(-1, 1, 1, 1), wider, inside)
    return torch.where(narrow.view(-1, 1, 1, 1), narrower, rim)
