"""Cells from the finder's maps: centers, votes and masks, with numpy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAPS = (
    "cell",  # probability that the pixel belongs to a white cell
    "nucleus",
    "red",  # to a red cell
    "center",  # height of 1 at the center of a white cell
    "offset_y",  # from the pixel to its cell's center, px of the input
    "offset_x",
    "smudge",  # probability that the white cell here is a smudge cell
    "red_center",
    "red_diameter",  # of the red cell here, px of the input
)
"""The network's outputs in their order, each at half the input's size."""

CANONICAL_UM_PER_PX = 0.25
STRIDE_PX = 2
OFFSET_SCALE_PX = 32.0

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class DecodeSettings:
    """Thresholds of the decoder.

    Attributes
    ----------
    center
        Least height of a center, 0 to 1.
    cell, nucleus
        A pixel above it belongs to the cell, to the nucleus.
    apart_um
        Centers nearer than this are one.
    reach_um
        A pixel votes for no center farther than this.
    least_area_um2, least_border_area_um2
        Smaller cells are dropped; the second holds for cells cut by the border.
    """

    center: float = 0.35
    cell: float = 0.5
    nucleus: float = 0.5
    apart_um: float = 3.0
    reach_um: float = 9.0
    least_area_um2: float = 15.0
    least_border_area_um2: float = 6.0


@dataclass(frozen=True)
class MapInstance:
    """A cell in the coordinates of the maps.

    Attributes
    ----------
    box
        (y0, x0, y1, x1) in map pixels, half-open.
    cell, nucleus
        Probabilities in the box, float32 (h, w); 0 where the pixel belongs to another cell or to none.
    score
        Height of the center times the mean probability of the cell's pixels, 0 to 1.
    smudge
        Mean probability of a smudge cell, 0 to 1.
    center
        Row and column in map pixels.
    touches_border
        Whether the cell reaches the edge of the maps.
    """

    box: tuple[int, int, int, int]
    cell: Floats
    nucleus: Floats
    score: float
    smudge: float
    center: tuple[float, float]
    touches_border: bool


def decode_maps(
    maps: Floats, settings: DecodeSettings | None = None, um_per_px: float = CANONICAL_UM_PER_PX
) -> list[MapInstance]:
    """Return the white cells of one image's maps, best score first.

    Parameters
    ----------
    maps
        float32 (9, h, w), activated.
    settings
        Thresholds.
    um_per_px
        Scale of the network's input.

    Notes
    -----
    Every pixel of a cell points at a center; it joins the center nearest to where it points (B. Cheng et al. 2020,
    doi 10.1109/CVPR42600.2020.01249). Of the pixels assigned to one center the largest connected component is the
    cell, with its holes filled.
    """
    settings = settings or DecodeSettings()
    um = um_per_px * STRIDE_PX
    centers, heights = find_peaks(maps[MAPS.index("center")], settings.center, settings.apart_um / um)
    if not len(centers):
        return []
    cell = maps[MAPS.index("cell")]
    rows, columns = np.nonzero(cell > settings.cell)
    if not rows.size:
        return []
    owner = _owners(maps, rows, columns, centers, settings.reach_um / um)
    found = []
    for number, (center, height) in enumerate(zip(centers, heights, strict=True)):
        mine = owner == number
        if mine.any():
            instance = _instance(
                maps, rows[mine], columns[mine], (float(center[0]), float(center[1])), float(height)
            )
            area = float((instance.cell > 0).sum()) * um * um
            least = settings.least_border_area_um2 if instance.touches_border else settings.least_area_um2
            if area >= least:
                found.append(instance)
    return sorted(found, key=lambda instance: -instance.score)


def find_peaks(heat: Floats, least: float, apart: float) -> tuple[NDArray[np.intp], Floats]:
    """Return positions (n, 2) and heights of local maxima, highest first, at least ``apart`` px from each other."""
    padded = np.pad(heat, 1, constant_values=-1.0)
    height, width = heat.shape
    best = np.max([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    positions = np.argwhere((heat >= least) & (heat >= best))
    order = np.argsort(-heat[positions[:, 0], positions[:, 1]], kind="stable")
    ordered = positions[order]
    taken = np.zeros(len(ordered), np.bool_)
    free = np.ones(len(ordered), np.bool_)
    for index in range(len(ordered)):
        if free[index]:
            taken[index] = True
            free &= np.hypot(*(ordered - ordered[index]).T) >= apart
    chosen: NDArray[np.intp] = ordered[taken]
    return chosen, heat[chosen[:, 0], chosen[:, 1]]


def red_diameters(maps: Floats, least: float = 0.4, um_per_px: float = CANONICAL_UM_PER_PX) -> Floats:
    """Return the diameters of the red cells that the network sees, px of its input, (n,)."""
    centers, _ = find_peaks(maps[MAPS.index("red_center")], least, 2.0 / (um_per_px * STRIDE_PX))
    found: Floats = maps[MAPS.index("red_diameter")][centers[:, 0], centers[:, 1]]
    return found


def largest_part(mask: Bools, seed: tuple[int, int] | None = None) -> Bools:
    """Return the largest 4-connected part of a mask (or the one that holds ``seed``) with its holes filled."""
    labels = _label(mask)
    if seed is not None and mask[seed]:
        part = labels == labels[seed]
    else:
        values, counts = np.unique(labels[mask], return_counts=True)
        if not values.size:
            return mask
        part = labels == values[counts.argmax()]
    outside = _label(np.pad(~part, 1, constant_values=True))
    filled: Bools = ~(outside == outside[0, 0])[1:-1, 1:-1]
    return filled


def _label(mask: Bools) -> NDArray[np.int64]:
    """Number the 4-connected parts by the smallest index in each; -1 outside. Runs along rows and columns in turns."""
    height, width = mask.shape
    far = height * width
    labels = np.where(mask, np.arange(far).reshape(height, width), far)
    while True:
        before = labels
        for axis in (1, 0):
            labels = _sweep(labels, mask, axis, far)
        if np.array_equal(before, labels):
            return np.where(mask, labels, -1)


def _sweep(labels: NDArray[np.int64], mask: Bools, axis: int, far: int) -> NDArray[np.int64]:
    """Give each run of the mask along an axis the smallest label in it."""
    lines = np.moveaxis(labels, axis, 1)
    inside = np.moveaxis(mask, axis, 1)
    starts = inside & ~np.pad(inside, ((0, 0), (1, 0)))[:, :-1]
    run = np.cumsum(starts.ravel()) - 1
    flat = inside.ravel()
    if not flat.any():
        return labels
    smallest = np.full(int(run.max()) + 1, far)
    np.minimum.at(smallest, run[flat], lines.ravel()[flat])
    result = np.full(flat.size, far)
    result[flat] = smallest[run[flat]]
    return np.moveaxis(result.reshape(lines.shape), 1, axis)


def _owners(
    maps: Floats, rows: NDArray[np.intp], columns: NDArray[np.intp], centers: NDArray[np.intp], reach: float
) -> NDArray[np.intp]:
    first = MAPS.index("offset_y")
    aim_y = rows + maps[first, rows, columns] / STRIDE_PX
    aim_x = columns + maps[first + 1, rows, columns] / STRIDE_PX
    nearest = np.full(rows.size, np.inf)
    owner = np.full(rows.size, -1)
    for number, (y, x) in enumerate(centers):
        distance = np.hypot(aim_y - y, aim_x - x)
        closer = (distance < nearest) & (distance <= reach)
        owner[closer] = number
        nearest = np.where(closer, distance, nearest)
    return owner


def _instance(
    maps: Floats,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    center: tuple[float, float],
    height: float,
) -> MapInstance:
    y0, x0, y1, x1 = int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    mask[rows - y0, columns - x0] = True
    mask = largest_part(mask)
    in_rows, in_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    mask = mask[in_rows[0] : in_rows[-1] + 1, in_columns[0] : in_columns[-1] + 1]
    y0, x0 = y0 + int(in_rows[0]), x0 + int(in_columns[0])
    y1, x1 = y0 + mask.shape[0], x0 + mask.shape[1]
    part = maps[:, y0:y1, x0:x1]
    cell = np.where(mask, part[MAPS.index("cell")], 0).astype(np.float32)
    limits = maps.shape[1:]
    return MapInstance(
        box=(y0, x0, y1, x1),
        cell=cell,
        nucleus=np.where(mask, part[MAPS.index("nucleus")], 0).astype(np.float32),
        score=height * float(cell[mask].mean()),
        smudge=float(part[MAPS.index("smudge")][mask].mean()),
        center=center,
        touches_border=y0 == 0 or x0 == 0 or y1 == limits[0] or x1 == limits[1],
    )
