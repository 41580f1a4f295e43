"""Red cells as a ruler: circles are fitted to their outlines, and their median diameter gives the scale.

Whole red cells that lie apart are rare in thick fields and in small pictures, where most overlap or are cut by the
edge. So each outline is cut where it turns inwards, and a circle is fitted to each arc that spans enough of it.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from leukoscope.smear.raster import Bools, Floats, fill_holes, label_parts, ring_area, smooth, trace_outlines

RED_CELL_UM = 7.2
"""Mean diameter of a red cell in a dried smear, micrometers."""

LEAST_RADIUS_PX, MOST_RADIUS_PX = 9.0, 30.0
"""Radii that one level of the pyramid measures; levels differ by a factor of two."""

_SHORTEST_PIECE = 12  # points
_OUTLINE_SIGMA = 2.5  # px along the outline
_SPAN = math.radians(150)  # of an arc, least
_RESIDUAL = 0.06  # of an arc, root mean square by the radius, most


@dataclass(frozen=True)
class Circle:
    """A red cell as far as it is seen.

    Attributes
    ----------
    y, x, radius
        Center and radius, px.
    span
        Angle of its outline that is seen, radians.
    shrunk
        How much the image was shrunk in which it was fitted.
    """

    y: float
    x: float
    radius: float
    span: float
    shrunk: float = 1.0


def foreground_threshold(density: Floats, noise: float) -> float:
    """Return the optical density that separates cells from background, above the noise.

    It is a third of the density of most stained pixels.
    """
    above = density[(density > max(4.0 * noise, 0.015)) & (density < 0.8)]
    if above.size < 20:
        return max(4.0 * noise, 0.04)
    typical = float(np.quantile(np.minimum(above, 0.25), 0.6))
    return max(0.35 * typical, 3.0 * noise, 0.015)


def find_circles(density: Floats, noise: float) -> list[Circle]:
    """Fit circles to the outlines of red cells.

    Parameters
    ----------
    density
        float32 (H, W, 3), optical density above the background.
    noise
        Of the background, in optical density.
    """
    absorbing = smooth(np.maximum(density[..., 1], density[..., 2]), 1, 1)
    cells = absorbing > foreground_threshold(absorbing, noise)
    cells = fill_holes(cells, math.pi * MOST_RADIUS_PX**2 / 3)
    parts = label_parts(cells, diagonal=False)
    cells = parts.select(parts.areas_px > 0.5 * math.pi * LEAST_RADIUS_PX**2)
    nuclear = nuclear_mask(density)
    found: list[Circle] = []
    for ring in trace_outlines(cells):
        if ring_area(ring) > 0:
            found.extend(_arcs(ring, cells.shape))
    return [circle for circle in found if _nuclear_share(nuclear, circle) < 0.05]


def nuclear_mask(density: Floats) -> Bools:
    """Return where the stain absorbs red light as only nuclei, platelets and basophilic cytoplasm do."""
    red = density[..., 0]
    cells = red[density[..., 1] > 0.05]
    if cells.size < 50:
        return red > 0.3
    threshold = max(otsu(np.clip(cells, 0, 0.8)), 0.12)
    return red > threshold


def otsu(values: NDArray[np.floating], bins: int = 128) -> float:
    """Return the threshold that parts values into two classes of least variance.

    Notes
    -----
    N. Otsu, IEEE SMC 9 (1979) 62-66, doi 10.1109/TSMC.1979.4310076.
    """
    counts, edges = np.histogram(values, bins)
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between[:-1])
    if not between.size or between.max() <= 0:
        return float(edges[-1])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best].mean())


def _nuclear_share(nuclear: Bools, circle: Circle) -> float:
    y0, y1 = max(0, int(circle.y - circle.radius)), int(circle.y + circle.radius) + 1
    x0, x1 = max(0, int(circle.x - circle.radius)), int(circle.x + circle.radius) + 1
    part = nuclear[y0:y1, x0:x1]
    return float(part.mean()) if part.size else 1.0


def _arcs(ring: NDArray[np.intp], shape: tuple[int, int]) -> list[Circle]:
    """Cut an outline where it turns inwards or meets the edge of the image, and fit a circle to each piece."""
    points = _resample(ring.astype(np.float64))
    if len(points) < 2 * math.pi * LEAST_RADIUS_PX * 0.5:
        return []
    wave = _smooth_loop(points, _OUTLINE_SIGMA)
    ahead, behind = np.roll(wave, -4, axis=0), np.roll(wave, 4, axis=0)
    first, second = wave - behind, ahead - wave
    turn = np.arctan2(
        first[:, 1] * second[:, 0] - first[:, 0] * second[:, 1],
        first[:, 0] * second[:, 0] + first[:, 1] * second[:, 1],
    )
    at_edge = (
        (points[:, 0] < 1.5)
        | (points[:, 1] < 1.5)
        | (points[:, 0] > shape[0] - 1.5)
        | (points[:, 1] > shape[1] - 1.5)
    )
    at_edge |= np.roll(at_edge, 4) | np.roll(at_edge, -4)
    broken = (turn < -0.06) | at_edge
    circles = (_fit(wave[piece]) for piece in _pieces(broken))
    return [circle for circle in circles if circle is not None]


def _resample(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points one pixel apart along a closed outline."""
    closed = np.concatenate((ring, ring[:1]))
    lengths = np.abs(np.diff(closed, axis=0)).sum(axis=1)
    along = np.concatenate(([0], np.cumsum(lengths)))
    steps = np.arange(0, along[-1], 1.0)
    return np.stack([np.interp(steps, along, closed[:, axis]) for axis in (0, 1)], axis=1)


def _smooth_loop(points: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    reach = int(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    looped = np.concatenate((points[-reach:], points, points[:reach]))
    return np.stack([np.convolve(looped[:, axis], weights, "valid") for axis in (0, 1)], axis=1)


def _pieces(broken: Bools) -> list[NDArray[np.intp]]:
    count = len(broken)
    if not broken.any():
        return [np.arange(count)]
    start = int(np.flatnonzero(broken)[0])
    order = (np.arange(count) + start) % count
    ends = np.flatnonzero(broken[order])
    bounds = np.append(ends, count)
    return [
        order[first + 1 : last] for first, last in pairwise(bounds.tolist()) if last - first > _SHORTEST_PIECE
    ]


def _fit(points: NDArray[np.float64]) -> Circle | None:
    """Fit a circle by least squares (I. Kasa 1976, doi 10.1109/TIM.1976.6312298)."""
    middle = points.mean(axis=0)
    y, x = (points - middle).T
    system = np.stack([y, x, np.ones_like(x)], axis=1)
    solution, *_ = np.linalg.lstsq(system, y * y + x * x, rcond=None)
    cy, cx = solution[0] / 2, solution[1] / 2
    radius = math.sqrt(max(solution[2] + cy * cy + cx * cx, 0.0))
    if not LEAST_RADIUS_PX <= radius <= MOST_RADIUS_PX:
        return None
    distance = np.hypot(y - cy, x - cx)
    if math.sqrt(float(np.mean((distance - radius) ** 2))) > _RESIDUAL * radius:
        return None
    angle = np.unwrap(np.arctan2(y - cy, x - cx))
    span = float(min(abs(angle[-1] - angle[0]) + 1 / radius, 2 * math.pi))
    if span < _SPAN:
        return None
    return Circle(float(cy + middle[0]), float(cx + middle[1]), radius, span)
