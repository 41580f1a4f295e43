"""White cells of a whole field: resized to the network's scale, tile by tile, masks back at the field's own scale."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.imaging.instances import (
    CANONICAL_UM_PER_PX,
    STRIDE_PX,
    DecodeSettings,
    MapInstance,
    decode_maps,
    red_diameters,
)

DIVISOR_PX = 32
_TILE_PX = 768  # of the network's input without the margin
_MARGIN_PX = 160  # 40 um: the largest cell with its center in the core is whole
_SAME_UM = 4.0  # two cells of neighboring tiles whose centers are nearer are merged

Floats = NDArray[np.float32]
RunNetwork = Callable[[NDArray[np.uint8]], Floats]
"""uint8 (h, w, 3), sides divisible by 32 -> float32 (9, h / 2, w / 2), see ``instances.MAPS``."""


@dataclass(frozen=True)
class Instance:
    """One white cell of a field.

    Attributes
    ----------
    box
        (y0, x0, y1, x1) in pixels of the field, half-open.
    cell, nucleus
        bool (y1 - y0, x1 - x0); the nucleus is inside the cell.
    score
        0 to 1.
    smudge
        Probability of a smudge cell, 0 to 1.
    center
        Row and column, px of the field.
    touches_border
        Whether the cell is cut by the edge of the field.
    """

    box: tuple[int, int, int, int]
    cell: NDArray[np.bool_]
    nucleus: NDArray[np.bool_]
    score: float
    smudge: float
    center: tuple[float, float]
    touches_border: bool


@dataclass(frozen=True)
class FieldResult:
    """The cells that the network found in a field.

    Attributes
    ----------
    cells
        Best score first.
    red_diameters_px
        Of the detected red cells, px of the field.
    """

    cells: list[Instance]
    red_diameters_px: Floats


@dataclass(frozen=True)
class _Tile:
    """A part of the field in px of the network's input; ``core`` is where its centers count."""

    y0: int
    x0: int
    y1: int
    x1: int
    core: tuple[float, float, float, float]


def find_in_field(
    rgb: NDArray[np.uint8], microns_per_pixel: float, run: RunNetwork, settings: DecodeSettings | None = None
) -> FieldResult:
    """Find the white cells of a field.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    microns_per_pixel
        Scale of the field.
    run
        The network.
    settings
        Thresholds.

    Notes
    -----
    Memory does not grow with the field except for the results: tiles of 192 um with a margin of 40 um.
    """
    settings = settings or DecodeSettings()
    zoom = microns_per_pixel / CANONICAL_UM_PER_PX
    height, width = (max(1, round(side * zoom)) for side in rgb.shape[:2])
    scale = (rgb.shape[0] / height, rgb.shape[1] / width)
    cells: list[Instance] = []
    diameters: list[Floats] = []
    for tile in _tiles(height, width):
        maps = _run_tile(rgb, tile, scale, run)
        for found in decode_maps(maps, settings):
            row, column = (
                STRIDE_PX * (part + 0.5) + start
                for part, start in zip(found.center, (tile.y0, tile.x0), strict=True)
            )
            if tile.core[0] <= row < tile.core[2] and tile.core[1] <= column < tile.core[3]:
                cells.append(_to_field(found, tile, scale, rgb.shape[:2], settings))
        diameters.append(red_diameters(maps) * np.float32((scale[0] + scale[1]) / 2))
    cells = _without_doubles(cells, _SAME_UM / microns_per_pixel)
    return FieldResult(cells, np.concatenate(diameters) if diameters else np.zeros(0, np.float32))


def _tiles(height: int, width: int) -> Iterator[_Tile]:
    rows, columns = _cuts(height), _cuts(width)
    slack = 4.0  # a center on a line is looked for on both sides; doubles are removed
    for top, bottom in rows:
        for left, right in columns:
            y0, x0 = max(0, top - _MARGIN_PX), max(0, left - _MARGIN_PX)
            y1, x1 = min(height, bottom + _MARGIN_PX), min(width, right + _MARGIN_PX)
            yield _Tile(y0, x0, y1, x1, (top - slack, left - slack, bottom + slack, right + slack))


def _cuts(size: int) -> list[tuple[int, int]]:
    count = 1 if size <= _TILE_PX + 2 * _MARGIN_PX else math.ceil(size / _TILE_PX)
    edges = [STRIDE_PX * round(size * i / count / STRIDE_PX) for i in range(count)] + [size]
    return list(pairwise(edges))


def _run_tile(rgb: NDArray[np.uint8], tile: _Tile, scale: tuple[float, float], run: RunNetwork) -> Floats:
    """Resize a part of the field and run the network on it, padded to the divisor with its own edge."""
    top, left, bottom, right = tile.y0 * scale[0], tile.x0 * scale[1], tile.y1 * scale[0], tile.x1 * scale[1]
    reach_y, reach_x = math.ceil(2 * scale[0]) + 1, math.ceil(2 * scale[1]) + 1
    first_y, first_x = max(0, math.floor(top) - reach_y), max(0, math.floor(left) - reach_x)
    part = rgb[first_y : math.ceil(bottom) + reach_y, first_x : math.ceil(right) + reach_x]
    limit_y, limit_x = part.shape[0], part.shape[1]
    box = (left - first_x, top - first_y, min(right - first_x, limit_x), min(bottom - first_y, limit_y))
    size = (tile.x1 - tile.x0, tile.y1 - tile.y0)
    image = Image.fromarray(np.ascontiguousarray(part))
    small = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
    pad = tuple((0, -side % DIVISOR_PX) for side in small.shape[:2])
    maps = run(np.pad(small, (*pad, (0, 0)), mode="edge"))
    return maps[:, : math.ceil(small.shape[0] / STRIDE_PX), : math.ceil(small.shape[1] / STRIDE_PX)]


def _to_field(
    found: MapInstance,
    tile: _Tile,
    scale: tuple[float, float],
    shape: tuple[int, int],
    settings: DecodeSettings,
) -> Instance:
    """Resample a cell to the field's pixels: probabilities are enlarged, then thresholded."""
    margin = 2
    y0, x0, y1, x1 = (
        part + step for part, step in zip(found.box, (-margin, -margin, margin, margin), strict=True)
    )
    tops = [(STRIDE_PX * value + tile.y0) * scale[0] for value in (y0, y1)]
    lefts = [(STRIDE_PX * value + tile.x0) * scale[1] for value in (x0, x1)]
    top, bottom = max(0, math.floor(tops[0])), min(shape[0], math.ceil(tops[1]))
    left, right = max(0, math.floor(lefts[0])), min(shape[1], math.ceil(lefts[1]))
    rows_of_maps, columns_of_maps = (
        math.ceil(side / STRIDE_PX) for side in (tile.y1 - tile.y0, tile.x1 - tile.x0)
    )
    at_edge = (
        found.box[0] <= 0,
        found.box[1] <= 0,
        found.box[2] >= rows_of_maps,
        found.box[3] >= columns_of_maps,
    )
    planes = []
    for plane in (found.cell, found.nucleus):
        wide = _padded(plane, margin, at_edge)
        x_low, y_low, x_high, y_high = (
            float(np.clip(value, 0, limit))
            for value, limit in (
                ((left - lefts[0]) / (STRIDE_PX * scale[1]), wide.shape[1]),
                ((top - tops[0]) / (STRIDE_PX * scale[0]), wide.shape[0]),
                ((right - lefts[0]) / (STRIDE_PX * scale[1]), wide.shape[1]),
                ((bottom - tops[0]) / (STRIDE_PX * scale[0]), wide.shape[0]),
            )
        )
        planes.append(
            np.asarray(
                Image.fromarray(wide).resize(
                    (right - left, bottom - top),
                    Image.Resampling.BILINEAR,
                    box=(x_low, y_low, x_high, y_high),
                )
            )
        )
    cell = planes[0] > settings.cell
    if not cell.any():
        cell = planes[0] >= planes[0].max()
    nucleus = cell & (planes[1] > settings.nucleus)
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    inner = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    box_of = (
        top + int(rows[0]),
        left + int(columns[0]),
        top + int(rows[-1]) + 1,
        left + int(columns[-1]) + 1,
    )
    center = tuple(
        (STRIDE_PX * (part + 0.5) + start) * factor
        for part, start, factor in zip(found.center, (tile.y0, tile.x0), scale, strict=True)
    )
    slack = (STRIDE_PX * scale[0], STRIDE_PX * scale[1])
    touches = (
        box_of[0] < slack[0]
        or box_of[1] < slack[1]
        or box_of[2] > shape[0] - slack[0]
        or box_of[3] > shape[1] - slack[1]
    )
    return Instance(
        box_of, cell[inner], nucleus[inner], found.score, found.smudge, (center[0], center[1]), touches
    )


def _padded(plane: Floats, margin: int, at_edge: tuple[bool, bool, bool, bool]) -> Floats:
    """Pad a map with 0; at the edges of the field (top, left, bottom, right) with its own border."""
    wide = np.pad(plane, margin)
    top, left, bottom, right = at_edge
    if top:
        wide[:margin] = wide[margin]
    if bottom:
        wide[-margin:] = wide[-margin - 1]
    if left:
        wide[:, :margin] = wide[:, margin : margin + 1]
    if right:
        wide[:, -margin:] = wide[:, -margin - 1 : -margin]
    return wide


def _without_doubles(cells: list[Instance], same_px: float) -> list[Instance]:
    kept: list[Instance] = []
    for cell in sorted(cells, key=lambda each: -each.score):
        if all(math.dist(cell.center, other.center) >= same_px for other in kept):
            kept.append(cell)
    return kept
