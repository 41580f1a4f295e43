"""Outlines of white cells by color alone, as supervision where a data set gives only a box or the middle of the cell.

Each image is its own color card: the optical density is taken against its own background, the nucleus is what absorbs
red light most, and what lies outside the box (or far from the nucleus) shows what the surroundings look like. Two
Gaussian mixtures, one of the cell and one of the surroundings, are fitted in turns with the outline, as in GrabCut
(Rother, Kolmogorov and Blake 2004, doi 10.1145/1015706.1015720) with a smoothed likelihood in place of the graph cut.
"""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Box = tuple[float, float, float, float]

_LEAST_RED_DENSITY = 0.15  # of a nucleus; background noise stays below 0.1 in every data set used
_REACH_UM = 5.0  # the farthest that cytoplasm is looked for from the nucleus where no box is given
_ROUNDS = 4
_AREA_UM2 = (18.0, 700.0)
_LEAST_SOLIDITY = 0.86
_LEAST_SEPARATION = 0.62  # Otsu's share of the variance between nucleus and cytoplasm


@dataclass(frozen=True)
class Outline:
    """Outlines of one cell.

    Parameters
    ----------
    cell
        (H, W), the cell with its nucleus.
    unknown
        (H, W), pixels that may or may not belong to it.
    nucleus
        (H, W), or None if nucleus and cytoplasm cannot be distinguished.
    """

    cell: Bools
    unknown: Bools
    nucleus: Bools | None


def background_color(rgb: NDArray[np.uint8]) -> Floats:
    """Return the color of the brightest substantial mode of brightness, (3,): the empty background of a smear."""
    smooth = ndimage.gaussian_filter(rgb.astype(np.float32), (1, 1, 0)).reshape(-1, 3)
    brightness = smooth.sum(axis=1)
    low, high = float(brightness.min()), float(np.percentile(brightness, 99))
    if high - low < 3.0:
        return smooth.mean(axis=0)
    counts, edges = np.histogram(brightness, 64, (low, high))
    density = ndimage.gaussian_filter1d(counts.astype(float), 1.5)
    inner = np.arange(1, 63)
    peaks = inner[
        (density[1:63] >= density[:62])
        & (density[1:63] >= density[2:])
        & (density[1:63] > 0.25 * density.max())
    ]
    mode = int(peaks.max()) if len(peaks) else 63
    near = np.abs(brightness - (edges[mode] + edges[mode + 1]) / 2) < 2 * (edges[1] - edges[0])
    return np.median(smooth[near], axis=0).astype(np.float32)


def optical_density(rgb: NDArray[np.uint8], background: Floats) -> Floats:
    """Return the natural optical density against the background, (H, W, 3), smoothed by one pixel."""
    density = -np.log((rgb.astype(np.float32) + 2.0) / (background + 2.0))
    return ndimage.gaussian_filter(density, (1, 1, 0))


def flatten(rgb: NDArray[np.uint8], microns_per_pixel: float) -> NDArray[np.uint8]:
    """Divide out uneven illumination: the bright level within 12 um of each pixel, channel by channel.

    The result has a background of 235 in each channel, so that densities can be compared across a field.
    """
    step = max(1, round(1.0 / microns_per_pixel))
    small = ndimage.uniform_filter(rgb.astype(np.float32), (step, step, 1))[::step, ::step]
    level = ndimage.percentile_filter(small, 85, size=(25, 25, 1), mode="nearest")
    level = ndimage.gaussian_filter(level, (5, 5, 0), mode="nearest")
    factors = (rgb.shape[0] / level.shape[0], rgb.shape[1] / level.shape[1], 1)
    level = ndimage.zoom(level, factors, order=1, mode="nearest", grid_mode=True)[
        : rgb.shape[0], : rgb.shape[1]
    ]
    return np.clip(rgb / np.maximum(level, 8.0) * 235.0, 0, 255).astype(np.uint8)


def otsu(values: NDArray[np.floating]) -> tuple[float, float]:
    """Return Otsu's threshold and the share of the variance that it explains (N. Otsu 1979)."""
    counts, edges = np.histogram(values, 128)
    centers = (edges[:-1] + edges[1:]) / 2
    below, moment = counts.cumsum(), (counts * centers).cumsum()
    total, mean = below[-1], moment[-1]
    valid = (below > 0) & (below < total)
    between = np.where(
        valid, (mean * below / total - moment) ** 2 / np.maximum(below * (total - below), 1), 0.0
    )
    best = int(between.argmax())
    variance = float((counts * (centers - mean / total) ** 2).sum() / total)
    return float(centers[best]), float(between[best] / max(variance, 1e-9))


def outline_middle(rgb: NDArray[np.uint8], microns_per_pixel: float) -> Outline | None:
    """Outline the cell in the middle of a single-cell image; None where no nucleus is seen there."""
    density = optical_density(rgb, background_color(rgb))
    height, width = density.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    from_middle = np.hypot(rows - height / 2, columns - width / 2) * microns_per_pixel
    nuclei = _nuclei(density[..., 0], np.ones((height, width), bool))
    labels, count = ndimage.label(nuclei)
    if count == 0:
        return None
    weights = ndimage.sum_labels(np.exp(-((from_middle / 4) ** 2)), labels, np.arange(1, count + 1))
    seed = labels == 1 + int(np.argmax(weights))
    away = ndimage.distance_transform_edt(~seed) * microns_per_pixel
    for index in range(1, count + 1):  # further lobes of the same nucleus
        part = labels == index
        area = part.sum() * microns_per_pixel**2
        if area > 2 and away[part].min() < 3.0 and from_middle[part].mean() < 8:
            seed |= part
    if float(from_middle[seed].min()) > 4:
        return None
    seed = ndimage.binary_fill_holes(seed)
    away = ndimage.distance_transform_edt(~seed) * microns_per_pixel
    return _expand(density, seed, away, away > _REACH_UM, microns_per_pixel)


def outline_in_box(rgb: NDArray[np.uint8], box: Box, microns_per_pixel: float) -> Outline | None:
    """Outline the cell of a box ``(y0, x0, y1, x1)``; None where no nucleus is seen inside."""
    height, width = rgb.shape[:2]
    margin = int(10 / microns_per_pixel)
    top, left = max(0, int(box[0]) - margin), max(0, int(box[1]) - margin)
    bottom, right = min(height, int(box[2]) + margin), min(width, int(box[3]) + margin)
    density = optical_density(rgb[top:bottom, left:right], background_color(rgb[top:bottom, left:right]))
    inside = np.zeros(density.shape[:2], bool)
    slack = 0.4 / microns_per_pixel
    inside[
        max(0, round(box[0] - top - slack)) : round(box[2] - top + slack),
        max(0, round(box[1] - left - slack)) : round(box[3] - left + slack),
    ] = True
    nuclei = _nuclei(density[..., 0], inside)
    labels, count = ndimage.label(nuclei & inside)
    areas = ndimage.sum_labels(np.ones_like(labels), labels, np.arange(1, count + 1))
    large = 1 + np.flatnonzero(areas > 2 / microns_per_pixel**2)
    seed = np.isin(labels, large)
    if not seed.any():
        return None
    seed = ndimage.binary_fill_holes(seed)
    away = ndimage.distance_transform_edt(~seed) * microns_per_pixel
    found = _expand(density, seed, away, ~inside, microns_per_pixel)
    whole = [np.zeros((height, width), bool) for _ in range(3)]
    for plane, part in zip(whole, (found.cell, found.unknown, found.nucleus), strict=True):
        if part is not None:
            plane[top:bottom, left:right] = part
    return Outline(whole[0], whole[1], whole[2] if found.nucleus is not None else None)


def nucleus_of(density: Floats, cell: Bools) -> Bools | None:
    """Return the nucleus of an outlined cell, or None where it does not stand out from the cytoplasm.

    Parameters
    ----------
    density
        (H, W, 3) optical density; red is used, which eosinophil granules hardly absorb.
    cell
        (H, W).
    """
    inner = ndimage.binary_erosion(cell, iterations=2)
    if inner.sum() < 60:
        return None
    threshold, separation = otsu(density[..., 0][inner])
    nucleus = ndimage.binary_opening(cell & (density[..., 0] > threshold))
    share = nucleus.sum() / cell.sum()
    if separation < _LEAST_SEPARATION or not 0.1 < share < 0.9:
        return None
    return ndimage.binary_fill_holes(nucleus)


def _nuclei(red: Floats, where: Bools) -> Bools:
    stained = red[where & (red > 0.08)]
    threshold = otsu(stained)[0] if stained.size > 50 else 0.3
    return ndimage.binary_opening(red > max(threshold, _LEAST_RED_DENSITY))


def _expand(density: Floats, seed: Bools, away: Floats, outside: Bools, microns_per_pixel: float) -> Outline:
    shape = seed.shape
    features = density.reshape(-1, 3)
    cell = away < 1.2
    trusted = False
    if outside.sum() > 500:
        surroundings = _fit(features[outside.ravel()], 6)
        against = surroundings.score_samples(features).reshape(shape)
        for _ in range(_ROUNDS):
            own = _fit(features[cell.ravel()], 4).score_samples(features).reshape(shape)
            evidence = np.clip(own - against, -6, 6) - np.clip(away - 2, 0, None) * 0.6
            evidence = ndimage.gaussian_filter(evidence, 0.3 / microns_per_pixel)
            cell = _tidy((evidence > 0) & ~outside, seed, microns_per_pixel)
        trusted = _plausible(cell, microns_per_pixel)
    if trusted:
        ring = ndimage.binary_dilation(cell, iterations=3) & ~ndimage.binary_erosion(cell, iterations=1)
        return Outline(cell, ring & ~seed, nucleus_of(density, cell))
    # The nucleus is certain, its surroundings are not.
    return Outline(seed, (away < 4.5) & ~seed, None)


def _fit(features: Floats, components: int) -> "GaussianMixture":
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    step = max(1, len(features) // 4000)
    mixture = GaussianMixture(components, random_state=0, reg_covar=1e-4, max_iter=30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(features[::step])


def _tidy(cell: Bools, seed: Bools, microns_per_pixel: float) -> Bools:
    steps = max(1, int(0.5 / microns_per_pixel))
    cell = ndimage.binary_opening(cell | seed, iterations=steps) | seed
    padded = np.pad(cell, steps + 1)
    cell = ndimage.binary_closing(padded, iterations=steps + 1)[
        steps + 1 : -steps - 1, steps + 1 : -steps - 1
    ]
    cell = ndimage.binary_fill_holes(cell)
    labels, _ = ndimage.label(cell)
    kept = np.unique(labels[seed])
    return np.isin(labels, kept[kept > 0])


def _plausible(cell: Bools, microns_per_pixel: float) -> bool:
    area = cell.sum() * microns_per_pixel**2
    if not _AREA_UM2[0] < area < _AREA_UM2[1]:
        return False
    hull = spatial.ConvexHull(np.argwhere(cell))
    return bool(cell.sum() / max(hull.volume, 1.0) > _LEAST_SOLIDITY)
