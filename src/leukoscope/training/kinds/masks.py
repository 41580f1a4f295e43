"""Where the cell lies in a crop with its surroundings: the nucleus by its absorption of red light, and what adheres.

Nuclei absorb red light, red cells hardly do; so the optical density of the red channel parts them under every
Romanowsky stain. The cytoplasm is what is no glass and no red cell within some microns of the nucleus.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from leukoscope.training.kinds.sources import MICRONS_PER_PIXEL

Mask = NDArray[np.bool_]

_CYTOPLASM_UM = 2.5
_RIM_UM = 0.6
_LARGEST_UM = 10.0


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the optical density against the glass, the brightest tenth of each channel: float32 (H, W, 3), >= 0."""
    glass = np.maximum(np.percentile(rgb.reshape(-1, 3), 90, axis=0), 1.0)
    density = -np.log((rgb.astype(np.float32) + 1.0) / (glass + 1.0))
    return np.maximum(density, 0.0).astype(np.float32)


def segment_cell(rgb: NDArray[np.uint8], microns_per_pixel: float = MICRONS_PER_PIXEL) -> Mask:
    """Return the nucleated cell (or platelet) nearest to the center of a crop: bool (H, W).

    Where nothing absorbs red light, the object nearest to the center (a red cell) is returned; a crop of plain glass
    gives a disc of 3 um radius.
    """
    density = ndimage.gaussian_filter(optical_density(rgb), (1.5, 1.5, 0))
    red, total = density[..., 0], density.mean(axis=2)
    threshold = max(otsu(red), 0.25)
    nucleus = _near_center(red > threshold, microns_per_pixel)
    if nucleus is None:
        thing = _near_center(total > max(otsu(total), 0.08), microns_per_pixel)
        disc = _disc(rgb.shape[0], (3.0 if thing is None else 5.0) / microns_per_pixel)
        return disc if thing is None else _filled(thing) & disc
    hull = _hull(nucleus)
    distance_um = ndimage.distance_transform_edt(~hull) * microns_per_pixel
    reddish = (density[..., 1:].mean(axis=2) - red > 0.18) & (distance_um > 1.0)
    other_nuclei = (red > threshold) & ~hull
    near = (distance_um < _CYTOPLASM_UM) & _disc(rgb.shape[0], _LARGEST_UM / microns_per_pixel)
    cytoplasm = (total > 0.3 * max(otsu(total), 0.15)) & ~reddish & ~other_nuclei & near
    cell = hull | (distance_um < _RIM_UM) | ndimage.binary_opening(cytoplasm, iterations=4)
    labels, _ = ndimage.label(cell)
    return _filled(labels == labels[tuple(np.argwhere(nucleus)[0])])


def otsu(values: NDArray[np.float32]) -> float:
    """Return the threshold that parts values best into two (Otsu 1979, doi 10.1109/TSMC.1979.4310076)."""
    counts, edges = np.histogram(values, bins=128)
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(centers[int(np.nanargmax(spread[:-1]))])


def _near_center(foreground: Mask, microns_per_pixel: float) -> Mask | None:
    """Return the components of at least 1.5 um2 that lie within 3.5 um of the center, lobes of one nucleus together."""
    labels, count = ndimage.label(ndimage.binary_opening(foreground, iterations=1))
    if not count:
        return None
    side = foreground.shape[0]
    rows, columns = np.ogrid[:side, :side]
    from_center = np.hypot(rows - side / 2, columns - side / 2) * microns_per_pixel
    index = np.arange(1, count + 1)
    nearest = ndimage.minimum(from_center, labels, index)
    areas = ndimage.sum_labels(foreground, labels, index) * microns_per_pixel**2
    wanted = index[(nearest < 3.5) & (areas > 1.5)]
    return np.isin(labels, wanted) if wanted.size else None


def _hull(mask: Mask) -> Mask:
    """Return the convex hull; a mask too thin to have one as it is."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    try:
        facets = ConvexHull(points).equations
    except QhullError:
        return mask
    rows, columns = np.indices(mask.shape)
    inside = np.ones(mask.shape, np.bool_)
    for normal_y, normal_x, offset in facets:
        inside &= normal_y * rows + normal_x * columns + offset <= 1e-6
    return inside


def _filled(mask: Mask) -> Mask:
    filled: Mask = ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=3))
    return filled


def _disc(side: int, radius: float) -> Mask:
    rows, columns = np.ogrid[:side, :side]
    disc: Mask = np.hypot(rows - side / 2, columns - side / 2) < radius
    return disc
