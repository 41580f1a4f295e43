"""Random samples from the bank: turned, scaled, joined, with pasted cells, and the targets that belong to them.

Everything is computed in batches on the bank's device. Pixels are sampled at twice the crop's size and averaged, labels
at the maps' size (half the crop).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leukoscope.imaging.instances import CANONICAL_UM_PER_PX, STRIDE_PX
from leukoscope.training.finder.bank import Bank
from leukoscope.training.finder.network import RED_DIAMETER_PX
from leukoscope.training.finder.tiles import (
    MOST_INSTANCES,
    TILE_PX,
    TILE_UM_PER_PX,
    UNKNOWN,
    UNKNOWN_INSTANCE,
)

_PARTNER = 8  # instances of the partner image are 9 to 14
_PASTED = 16  # those of pasted cells 17 on
_IGNORED = 255
_LEAST_PIXELS = 28  # smaller visible parts of a cell are neither asked for nor forbidden


@dataclass(frozen=True)
class SampleSettings:
    """The sampling settings.

    Attributes
    ----------
    crop_px
        Side of a sample, px of the network's input; a multiple of 32.
    zoom
        Range of the usual change of scale.
    wide_zoom, wide_share
        Range and share of the samples with an unknown scale.
    at_cell
        Share of the samples that are centered near a white cell.
    join
        Share of the samples whose empty part is filled with another image.
    paste
        Chance of each of ``most_pasted`` cells to be pasted.
    """

    crop_px: int = 160
    zoom: tuple[float, float] = (0.7, 1.4)
    wide_zoom: tuple[float, float] = (0.45, 2.2)
    wide_share: float = 0.2
    at_cell: float = 0.6
    join: float = 0.5
    paste: float = 0.3
    most_pasted: int = 3


@dataclass
class Samples:
    """A batch before the change of colors.

    Parameters
    ----------
    pixels
        (B, 3, C, C) float 0..255.
    background
        (B, 3) color of the ground image's empty background.
    targets
        See ``Targets``.
    """

    pixels: Tensor
    background: Tensor
    targets: "Targets"


@dataclass
class Targets:
    """What the maps should be, each (B, C / 2, C / 2) unless stated otherwise.

    Parameters
    ----------
    cell, nucleus, red
        0 or 1; ``*_known`` is 1 where that is certain.
    center, center_known
        Heights of the centers.
    offset
        (B, 2, C / 2, C / 2) px of the input to the cell's center; valid where ``cell`` is 1.
    smudge
        1, 0, or -1 where unknown.
    red_center, red_center_known
        As for white cells.
    red_diameter
        Logarithm of the diameter by 7.2 um; valid where ``red_center`` is above 0.5.
    """

    cell: Tensor
    cell_known: Tensor
    nucleus: Tensor
    nucleus_known: Tensor
    red: Tensor
    red_known: Tensor
    center: Tensor
    center_known: Tensor
    offset: Tensor
    smudge: Tensor
    red_center: Tensor
    red_center_known: Tensor
    red_diameter: Tensor


@dataclass
class _Planes:
    pixels: Tensor
    valid: Tensor
    instance: Tensor
    nucleus: Tensor
    red: Tensor
    smudge: Tensor
    red_center: Tensor
    red_complete: Tensor
    red_diameter: Tensor


def draw_samples(bank: Bank, count: int, settings: SampleSettings, rng: torch.Generator) -> Samples:
    """Draw a batch.

    Parameters
    ----------
    bank
        On any device.
    count
        B.
    settings
        The sampling settings.
    rng
        A generator on the bank's device; the only source of chance.
    """
    device = bank.images.device
    rows = torch.multinomial(bank.weights, count, replacement=True, generator=rng)
    zoom = _draw_zoom(count, settings, rng, device)
    matrix, origin = _draw_placement(bank, rows, zoom, settings, rng)
    planes = _sample_ground(bank, rows, matrix, origin, settings)
    _fill_outside(planes, bank.background[rows], settings, rng)
    for number in range(settings.most_pasted):
        chance = torch.rand(count, generator=rng, device=device) < settings.paste
        _paste(planes, bank, rows, zoom, chance, number, settings, rng)
    return Samples(planes.pixels, bank.background[rows], make_targets(planes))


def _uniform(count: int, low: float, high: float, rng: torch.Generator, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng, device=device)


def _draw_zoom(count: int, settings: SampleSettings, rng: torch.Generator, device: torch.device) -> Tensor:
    usual, wide = (
        _uniform(count, math.log(low), math.log(high), rng, device)
        for low, high in (settings.zoom, settings.wide_zoom)
    )
    chosen = torch.rand(count, generator=rng, device=device) < settings.wide_share
    return torch.where(chosen, wide, usual).exp()


def _draw_matrix(zoom: Tensor, rng: torch.Generator) -> Tensor:
    """Return (B, 2, 2) that turns crop pixels into tile pixels: a turn, a mirror and the scale."""
    count, device = len(zoom), zoom.device
    quarter = torch.randint(0, 4, (count,), generator=rng, device=device) * (math.pi / 2)
    upright = quarter + 0.03 * torch.randn(count, generator=rng, device=device)
    anyhow = _uniform(count, 0, 2 * math.pi, rng, device)
    angle = torch.where(torch.rand(count, generator=rng, device=device) < 0.6, upright, anyhow)
    mirror = torch.randint(0, 2, (count,), generator=rng, device=device) * 2.0 - 1.0
    stretch = _uniform(count, -0.08, 0.08, rng, device).exp()
    scale = CANONICAL_UM_PER_PX / TILE_UM_PER_PX / zoom
    cos, sin = angle.cos() * scale, angle.sin() * scale
    return torch.stack([cos * stretch, -sin * mirror, sin * stretch, cos * mirror], dim=1).view(count, 2, 2)


def _draw_placement(
    bank: Bank, rows: Tensor, zoom: Tensor, settings: SampleSettings, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the matrix and the tile position (B, 2: row, column) of the crop's middle."""
    count, device = len(rows), rows.device
    matrix = _draw_matrix(zoom, rng)
    sizes = bank.sizes[rows].float()
    anywhere = torch.rand(count, 2, generator=rng, device=device) * sizes
    cells = ((bank.labels[rows] & 7) % UNKNOWN_INSTANCE) > 0
    chances = cells.flatten(1)[:, ::17].float()  # one pixel of 17 is enough to choose a place
    has_cell = chances.sum(dim=1) > 0
    chances[~has_cell, 0] = 1.0
    pixel = torch.multinomial(chances, 1, generator=rng)[:, 0] * 17
    at = torch.stack([pixel // TILE_PX, pixel % TILE_PX], dim=1).float()
    reach = settings.crop_px * 0.45 * CANONICAL_UM_PER_PX / TILE_UM_PER_PX
    at = at + (torch.rand(count, 2, generator=rng, device=device) * 2 - 1) * reach
    near = has_cell & (torch.rand(count, generator=rng, device=device) < settings.at_cell)
    return matrix, torch.where(near[:, None], at, anywhere)


def _grid(matrix: Tensor, origin: Tensor, steps: int, crop_px: int) -> Tensor:
    """Return (B, steps, steps, 2) tile positions (row, column; the first pixel's middle is 0.5)."""
    line = (torch.arange(steps, device=matrix.device, dtype=torch.float32) + 0.5) * (
        crop_px / steps
    ) - crop_px / 2
    offsets = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).view(-1, 2)
    return (offsets @ matrix.transpose(1, 2) + origin[:, None]).view(len(matrix), steps, steps, 2)


def _sample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Sample (B, C, 256, 256) at tile positions."""
    normal = (grid.flip(-1) / TILE_PX) * 2 - 1
    return functional.grid_sample(images, normal, mode=mode, padding_mode="border", align_corners=False)


def _sample_pixels(images: Tensor, matrix: Tensor, origin: Tensor, crop_px: int) -> Tensor:
    """Sample at twice the size and average, against aliasing."""
    fine = _sample(images, _grid(matrix, origin, 2 * crop_px, crop_px), "bilinear")
    return functional.avg_pool2d(fine, 2)


def _inside(grid: Tensor, sizes: Tensor) -> Tensor:
    limits = sizes[:, None, None].float()
    return ((grid > 0.5) & (grid < limits - 0.5)).all(dim=-1)


def _sample_ground(
    bank: Bank, rows: Tensor, matrix: Tensor, origin: Tensor, settings: SampleSettings
) -> _Planes:
    crop = settings.crop_px
    images = bank.images[rows].permute(0, 3, 1, 2).float()
    pixels = _sample_pixels(images, matrix, origin, crop)
    valid = _inside(_grid(matrix, origin, crop, crop), bank.sizes[rows])
    grid = _grid(matrix, origin, crop // STRIDE_PX, crop)
    labels = _sample(bank.labels[rows][:, None].float(), grid, "nearest")[:, 0].round().long()
    labels = torch.where(_inside(grid, bank.sizes[rows]), labels, 0)
    instance = labels & 7
    smudge = bank.smudge[rows][:, None, None].expand_as(instance).clone()
    heat, diameter = _red_heat(bank.red[rows], matrix, origin, crop)
    complete = bank.red_complete[rows][:, None, None].expand_as(instance).clone()
    return _Planes(
        pixels, valid, torch.where(instance == UNKNOWN_INSTANCE, _IGNORED, instance),
        (labels >> 3) & 3, (labels >> 5) & 3, smudge, heat, complete, diameter,
    )  # fmt: skip


def _red_heat(red: Tensor, matrix: Tensor, origin: Tensor, crop_px: int) -> tuple[Tensor, Tensor]:
    """Return the heights of red cells' centers and the logarithm of the nearest one's diameter."""
    side = crop_px // STRIDE_PX
    (a, b), (c, d) = (row.unbind(dim=1) for row in matrix.unbind(dim=1))
    determinant = a * d - b * c
    back = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / determinant[:, None, None]
    at = (red[..., :2] - origin[:, None]) @ back.transpose(1, 2) + crop_px / 2
    scale = determinant.abs().rsqrt()[:, None]
    there = red[..., 2] > 0
    diameter = torch.where(there, red[..., 2] * scale, 1.0)
    line = (torch.arange(side, device=red.device, dtype=torch.float32) + 0.5) * STRIDE_PX
    square_y = (line[None, None] - at[..., 0:1]) ** 2
    square_x = (line[None, None] - at[..., 1:2]) ** 2
    spread = (0.11 * diameter).clamp(min=2.0)[..., None]
    rows, columns = torch.exp(-square_y / (2 * spread**2)), torch.exp(-square_x / (2 * spread**2))
    heights = rows[..., :, None] * columns[..., None, :] * there[..., None, None]
    heat, nearest = heights.max(dim=1)
    logarithm = torch.log(diameter / RED_DIAMETER_PX)
    return heat, torch.gather(logarithm, 1, nearest.flatten(1)).view_as(heat)


def _fill_outside(
    planes: _Planes, background: Tensor, settings: SampleSettings, rng: torch.Generator
) -> None:
    """Fill what lies outside the image: one color, or the pixels of the next sample."""
    count, device = len(background), background.device
    kind = torch.rand(count, generator=rng, device=device)
    flat = torch.rand(count, 3, generator=rng, device=device) * 255
    gray = flat[:, :1].expand(-1, 3)
    color = torch.where((kind < 0.4)[:, None], background, torch.where((kind < 0.8)[:, None], gray, flat))
    color = torch.where((kind > 0.9)[:, None], torch.zeros_like(color), color)
    planes.pixels = torch.where(planes.valid[:, None], planes.pixels, color[:, :, None, None])
    joined = (torch.rand(count, generator=rng, device=device) < settings.join)[:, None, None]
    outside = ~planes.valid & joined
    planes.pixels = torch.where(outside[:, None], planes.pixels.roll(1, 0), planes.pixels)
    coarse = outside[:, ::STRIDE_PX, ::STRIDE_PX]
    other = planes.instance.roll(1, 0)
    other = torch.where((other > 0) & (other != _IGNORED), other + _PARTNER, other)
    planes.instance = torch.where(coarse, other, planes.instance)
    for name in ("nucleus", "red", "smudge", "red_center", "red_complete", "red_diameter"):
        plane = getattr(planes, name)
        setattr(planes, name, torch.where(coarse, plane.roll(1, 0), plane))
    plain = ~planes.valid[:, ::STRIDE_PX, ::STRIDE_PX] & ~coarse
    planes.red_center = torch.where(plain, 0.0, planes.red_center)


def _paste(  # noqa: PLR0917
    planes: _Planes, bank: Bank, rows: Tensor, zoom: Tensor, chance: Tensor, number: int,
    settings: SampleSettings, rng: torch.Generator,
) -> None:  # fmt: skip
    """Paste one whole cell into the samples of ``chance``, its stain brought near the ground's."""
    if not len(bank.pasted):
        return
    count, device, crop = len(rows), rows.device, settings.crop_px
    choice = torch.randint(0, len(bank.pasted), (count,), generator=rng, device=device)
    tile, instance = bank.pasted[choice].unbind(dim=1)
    matrix = _draw_matrix(zoom * _uniform(count, -0.2, 0.2, rng, device).exp(), rng)
    mask = ((bank.labels[tile] & 7) == instance[:, None, None])[:, None].float()
    rows_of, columns_of = (torch.arange(TILE_PX, device=device).float() + 0.5 for _ in range(2))
    area = mask.sum(dim=(1, 2, 3)).clamp(min=1)
    middle = torch.stack(
        [(mask[:, 0].sum(2) * rows_of).sum(1) / area, (mask[:, 0].sum(1) * columns_of).sum(1) / area], dim=1
    )
    away = (torch.rand(count, 2, 1, generator=rng, device=device) - 0.5) * crop * 1.05
    origin = middle - (matrix @ away)[..., 0]
    alpha = _sample_pixels(mask, matrix, origin, crop) * chance[:, None, None, None]
    images = bank.images[tile].permute(0, 3, 1, 2).float()
    pixels = _sample_pixels(images, matrix, origin, crop)
    pixels = _restain(pixels, bank, tile, rows, rng)
    planes.pixels = planes.pixels * (1 - alpha) + pixels * alpha
    coarse = functional.avg_pool2d(alpha, STRIDE_PX)[:, 0]
    inner, edge = coarse > 0.5, (coarse > 0.5) & (coarse < 0.95)
    grid = _grid(matrix, origin, crop // STRIDE_PX, crop)
    labels = _sample(bank.labels[tile][:, None].float(), grid, "nearest")[:, 0].round().long()
    nucleus = torch.where(edge, UNKNOWN, (labels >> 3) & 3)
    planes.instance = torch.where(inner, _PASTED + 1 + number, planes.instance)
    planes.nucleus = torch.where(inner, nucleus, planes.nucleus)
    planes.red = torch.where(inner, 0, planes.red)
    planes.smudge = torch.where(inner, bank.smudge[tile][:, None, None], planes.smudge)
    planes.red_center = torch.where(inner, 0.0, planes.red_center)


def _restain(pixels: Tensor, bank: Bank, tile: Tensor, rows: Tensor, rng: torch.Generator) -> Tensor:
    """Bring the optical density of a cell to the mean and deviation of the ground's cells, roughly."""
    count, device = len(rows), rows.device
    own_mean, own_std = bank.density_mean[tile], bank.density_std[tile].clamp(min=0.03)
    mean, std = bank.density_mean[rows], bank.density_std[rows]
    absent = (std.sum(dim=1) == 0) | (torch.rand(count, generator=rng, device=device) < 0.25)
    mean = torch.where(absent[:, None], own_mean, mean)
    std = torch.where(absent[:, None], own_std, std)
    mean = mean * (0.2 * torch.randn(count, 1, generator=rng, device=device)).exp()
    mean = mean * (0.08 * torch.randn(count, 3, generator=rng, device=device)).exp()
    gain = (std / own_std * (0.2 * torch.randn(count, 1, generator=rng, device=device)).exp()).clamp(0.3, 3.0)
    density = -torch.log((pixels + 2) / (bank.background[tile][:, :, None, None] + 2))
    density = (density - own_mean[:, :, None, None]) * gain[:, :, None, None] + mean[:, :, None, None]
    white = bank.background[rows][:, :, None, None]
    return ((white + 2) * torch.exp(-density.clamp(min=-0.1)) - 2).clamp(0, 255)


def make_targets(planes: _Planes) -> Targets:
    """Compute centers and offsets from the instances as they are visible."""
    instance = planes.instance
    numbers = [*range(1, MOST_INSTANCES + 1), *(n + _PARTNER for n in range(1, MOST_INSTANCES + 1))]
    numbers += [_PASTED + 1 + n for n in range(4)]
    ids = torch.tensor(numbers, device=instance.device)
    each = (instance[:, None] == ids[None, :, None, None]).float()
    area = each.sum(dim=(2, 3))
    tiny = (area > 0) & (area < _LEAST_PIXELS)
    ignored = (instance == _IGNORED) | (each * tiny[:, :, None, None]).sum(dim=1).bool()
    each = each * (area >= _LEAST_PIXELS)[:, :, None, None]
    cell = each.sum(dim=1)
    side = instance.shape[-1]
    line = (torch.arange(side, device=instance.device, dtype=torch.float32) + 0.5) * STRIDE_PX
    safe = area.clamp(min=1)
    row = (each.sum(dim=3) * line).sum(dim=2) / safe
    column = (each.sum(dim=2) * line).sum(dim=2) / safe
    spread = (0.11 * STRIDE_PX * area.clamp(min=1).sqrt()).clamp(3.0, 9.0)[..., None]
    there = (area >= _LEAST_PIXELS).float()[..., None, None]
    heat_y = torch.exp(-((line - row[..., None]) ** 2) / (2 * spread**2))
    heat_x = torch.exp(-((line - column[..., None]) ** 2) / (2 * spread**2))
    center = (heat_y[..., :, None] * heat_x[..., None, :] * there).amax(dim=1)
    offset = torch.stack(
        [
            (each * row[..., None, None]).sum(1) - line[:, None],
            (each * column[..., None, None]).sum(1) - line,
        ],
        dim=1,
    )
    known = (~ignored).float()
    red_known = (planes.red != UNKNOWN).float() * known
    background = ((planes.red == 0) & ~ignored) | (cell > 0) | planes.red_complete
    return Targets(
        cell=cell, cell_known=known,
        nucleus=(planes.nucleus == 1).float() * cell,
        nucleus_known=((planes.nucleus != UNKNOWN) & ~ignored).float(),
        red=(planes.red == 1).float(), red_known=red_known,
        center=center, center_known=known, offset=offset,
        smudge=torch.where(cell > 0, planes.smudge, -1).float(),
        red_center=planes.red_center,
        red_center_known=(background | (planes.red_center > 0.3)).float(),
        red_diameter=planes.red_diameter,
    )  # fmt: skip
