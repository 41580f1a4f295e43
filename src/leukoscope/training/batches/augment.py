"""Random changes of cells, in batches of tensors, drawn so that nothing depends on batch, rank or thread.

The random numbers of view v of cell i are row i of a table drawn from (seed, v). Who computes the view, when, and in
which batch does not matter: resuming, several processes and cached activations see the same views.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from leukoscope.training.networks.descriptor_graph import FOREGROUND, mask_foreground
from leukoscope.training.settings import AugmentSettings

_STREAM = 0x5EED_0A06
_COLUMNS = 16
Window = tuple[slice, slice]  # rows, columns

# Optical densities of haematoxylin, eosin and DAB by red, green and blue (Ruifrok and Johnston 2001), as unit rows.
# Here only a basis of color in which Tellez et al. (2018, doi 10.1109/TMI.2018.2820199; 2019, doi
# 10.1016/j.media.2019.101544) perturb: the stain of C-NMC is another one.
_STAINS = torch.nn.functional.normalize(
    torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]), dim=1
)
_UNMIX = torch.linalg.inv(_STAINS)


@dataclass(frozen=True)
class StainStatistics:
    """Mean and standard deviation of the optical density over the foreground of every cell.

    Parameters
    ----------
    mean, std
        (N, 3) float32.
    groups
        (N,) group of each cell.
    candidates
        Rows whose statistics may be taken over: the training rows.
    """

    mean: Tensor
    std: Tensor
    groups: NDArray[np.int64]
    candidates: NDArray[np.int64]


def draw_view(count: int, seed: int, view: int) -> Tensor:
    """Return the random numbers of one view of ``count`` cells: (count, 16) float32, uniform in [0, 1)."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, view, _STREAM])))
    return torch.from_numpy(rng.random((count, _COLUMNS), dtype=np.float32))


def augment(
    pixels: Tensor,
    draws: Tensor,
    settings: AugmentSettings,
    partners: tuple[Tensor, Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Change a batch of cells; on the processor one cell at a time is fastest, because only its own window is computed.

    Parameters
    ----------
    pixels
        (N, 3, S, S) float, 0..255.
    draws
        (N, 16), the cells' rows of ``draw_view``.
    settings
        Kinds and strengths of the changes.
    partners
        Optical-density mean and std of the cells and of their partners, each (N, 3), for ``stain_mix``.

    Returns
    -------
    Tensor
        (N, 3, S, S) float, 0..255; the background is 0 and the foreground at least 1.
    """
    draws = draws.to(pixels.device)
    moved, foreground, window = _move(pixels, draws, settings)
    if settings.stain or (settings.stain_mix and partners is not None):
        moved = _restain(moved, draws, settings, partners)
    if settings.brightness or settings.contrast:
        gain = 1.0 + settings.brightness * (2.0 * draws[:, 6] - 1.0)
        contrast = 1.0 + settings.contrast * (2.0 * draws[:, 7] - 1.0)
        mean = _foreground_mean(moved, foreground).mean(dim=1)
        # ((pixels - mean) * contrast + mean) * gain, as one affine map
        scale, offset = contrast * gain, mean * (1.0 - contrast) * gain
        moved = torch.addcmul(offset[:, None, None, None], moved, scale[:, None, None, None])
    changed = moved.clamp(1.0, 255.0).mul_(foreground)
    if changed.shape == pixels.shape:
        return changed
    canvas = torch.zeros_like(pixels)
    canvas[:, :, window[0], window[1]] = changed
    return canvas


def measure_stain(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return mean and std of the optical density over each cell's foreground, (N, 3) each, from uint8 (N, S, S, 3)."""
    means, deviations = [], []
    for start in range(0, len(images), 64):
        batch = torch.from_numpy(np.array(images[start : start + 64])).permute(0, 3, 1, 2).float()
        foreground = mask_foreground(batch)
        density = _to_density(batch)
        mean = _foreground_mean(density, foreground)
        spread = _foreground_mean((density - mean[:, :, None, None]) ** 2, foreground).sqrt()
        means.append(mean)
        deviations.append(spread.clamp(min=1e-3))
    return torch.cat(means), torch.cat(deviations)


def choose_partners(
    statistics: StainStatistics, rows: NDArray[np.int64], draws: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the statistics of the cells and of a partner of another group for each."""
    pool = statistics.candidates
    first = np.minimum((draws[:, 14].numpy() * len(pool)).astype(np.int64), len(pool) - 1)
    partners = rows.copy()
    for index, row in enumerate(rows):
        for step in range(len(pool)):
            candidate = pool[(first[index] + step) % len(pool)]
            if statistics.groups[candidate] != statistics.groups[row]:
                partners[index] = candidate
                break
    return statistics.mean[rows], statistics.std[rows], statistics.mean[partners], statistics.std[partners]


def _move(pixels: Tensor, draws: Tensor, settings: AugmentSettings) -> tuple[Tensor, Tensor, Window]:
    """Rotate, mirror, zoom and shift by one bilinear resampling.

    Returns the pixels and the foreground (N, 1, h, w) in a window of the canvas outside which there is only background,
    and the window's rows and columns.

    The mask is resampled, too: a pixel of part background is divided by its share of foreground, or becomes
    background. A cell thus keeps its size and has no dark fringe that unchanged cells do not have.
    """
    angle = (2.0 * draws[:, 0] - 1.0) * (settings.rotation_degrees * np.pi / 180.0)
    zoom = settings.zoom_low + (settings.zoom_high - settings.zoom_low) * draws[:, 3]
    mirror_x = (
        torch.where(draws[:, 1] < 0.5, -1.0, 1.0) if settings.flip_horizontal else torch.ones_like(zoom)
    )
    mirror_y = torch.where(draws[:, 2] < 0.5, -1.0, 1.0) if settings.flip_vertical else torch.ones_like(zoom)
    shift = (2.0 * draws[:, 4:6] - 1.0) * (2.0 * settings.shift)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    top = torch.stack([cosine * mirror_x, -sine * mirror_x, shift[:, 0]], dim=1)
    bottom = torch.stack([sine * mirror_y, cosine * mirror_y, shift[:, 1]], dim=1)
    still = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], device=pixels.device)
    theta = torch.stack([top, bottom], dim=1)
    height, width = pixels.shape[2:]
    window = slice(0, height), slice(0, width)
    if bool((theta == still).all()):
        return pixels, mask_foreground(pixels), window
    if len(pixels) == 1 and pixels.device.type == "cpu":  # elsewhere, finding boxes costs more than it saves
        box = _find_box(pixels[0])
        window = _find_window(box, theta[0].numpy(), (height, width))
        pixels = pixels[:, :, box[0], box[1]]
        theta = _refer_to_box(theta, box, (height, width))
    grid = _sampling_grid(theta.to(pixels.dtype), (height, width), window)
    layers = torch.cat([pixels, mask_foreground(pixels)], dim=1)
    moved = functional.grid_sample(layers, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    share = moved[:, 3:]
    return moved[:, :3] / share.clamp(min=0.5), (share > 0.5).to(pixels.dtype), window


def _find_box(cell: Tensor) -> Window:
    """Return the rows and columns of the foreground of (3, S, S); one pixel where there is none."""
    bright = cell.permute(1, 2, 0).flatten(1)  # in memory order
    ends = []
    for found in (bright.amax(dim=1), bright.amax(dim=0).view(-1, 3).amax(dim=1)):
        places = (found > FOREGROUND).nonzero()
        ends.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1))
    return ends[0], ends[1]


def _find_window(box: Window, theta: NDArray[np.float32], sides: tuple[int, int]) -> Window:
    """Return the rows and columns of the canvas, at least one of each, in which the moved box can lie.

    ``theta`` leads from there to the cell's place, both from -1 to 1. A pixel is to spare on every side of both.
    """
    (height, width), (rows, columns) = sides, box
    across = (2.0 * np.array([columns.start - 1, columns.stop]) + 1.0) / width - 1.0
    down = (2.0 * np.array([rows.start - 1, rows.stop]) + 1.0) / height - 1.0
    corners = np.array([[x, y] for x in across for y in down])
    places = np.linalg.solve(theta[:, :2].astype(np.float64), (corners - theta[:, 2]).T).T
    last = np.array([width, height]) - 1
    pixels = ((places + 1.0) * (last + 1) - 1.0) / 2.0
    low = np.clip(np.floor(pixels.min(axis=0)) - 1, 0, last).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0)) + 1, low, last).astype(int)
    return slice(int(low[1]), int(high[1]) + 1), slice(int(low[0]), int(high[0]) + 1)


def _refer_to_box(theta: Tensor, box: Window, sides: tuple[int, int]) -> Tensor:
    """Return the transform that leads into the box, from -1 to 1, where ``theta`` leads into the canvas."""
    (height, width), (rows, columns) = sides, box
    scale = torch.tensor([width / (columns.stop - columns.start), height / (rows.stop - rows.start)])
    start = torch.tensor([2.0 * columns.start / width, 2.0 * rows.start / height])
    referred = theta * scale[:, None]
    referred[:, :, 2] += scale * (1.0 - start) - 1.0
    return referred


def _sampling_grid(theta: Tensor, sides: tuple[int, int], window: Window) -> Tensor:
    """Return where each pixel of a window comes from, (N, h, w, 2): ``affine_grid`` without its product of matrices."""
    height, width = sides
    across = ((2.0 * torch.arange(width, device=theta.device) + 1.0) / width - 1.0)[window[1]]
    down = ((2.0 * torch.arange(height, device=theta.device) + 1.0) / height - 1.0)[window[0]]
    rows = theta[:, :, :1] * across
    columns = theta[:, :, 1:2] * down + theta[:, :, 2:]
    return torch.stack([rows[:, axis, None, :] + columns[:, axis, :, None] for axis in (0, 1)], dim=-1)


def _restain(
    pixels: Tensor,
    draws: Tensor,
    settings: AugmentSettings,
    partners: tuple[Tensor, Tensor, Tensor, Tensor] | None,
) -> Tensor:
    density = _to_density(pixels)
    if settings.stain_mix and partners is not None:
        mean, std, other_mean, other_std = (part.to(pixels)[:, :, None, None] for part in partners)
        share = (settings.stain_mix * draws[:, 15])[:, None, None, None]
        density = (density - mean) / std * torch.lerp(std, other_std, share) + torch.lerp(
            mean, other_mean, share
        )
    if settings.stain:
        factor = 1.0 + settings.stain * (2.0 * draws[:, 8:11] - 1.0)
        offset = settings.stain * (2.0 * draws[:, 11:14] - 1.0)
        # In stain coordinates c = d U; (c * factor + offset) M is one affine map of the densities.
        unmix, stains = _UNMIX.to(pixels), _STAINS.to(pixels)
        matrix = unmix[None] @ (factor[:, :, None] * stains[None])
        density = torch.einsum("nchw,ncd->ndhw", density, matrix) + (offset @ stains)[:, :, None, None]
    return 256.0 * torch.exp(-density) - 1.0


def _to_density(pixels: Tensor) -> Tensor:
    return -torch.log((pixels + 1.0) / 256.0)


def _foreground_mean(values: Tensor, foreground: Tensor) -> Tensor:
    return (values * foreground).sum(dim=(2, 3)) / foreground.sum(dim=(2, 3)).clamp(min=1.0)
