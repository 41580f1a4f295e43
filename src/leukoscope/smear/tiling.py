"""Process fields in tiles: memory does not grow with the field, and a cell between tiles is counted once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from leukoscope.smear.finder import Finder, FoundCell, Instance
from leukoscope.smear.illumination import Illumination
from leukoscope.smear.picture import Box, Picture

CORE_UM = 140.0
MARGIN_UM = 27.0
"""Around the core of a tile: a cell with its nucleus in the core is seen whole."""

_MOST_CORE_PX = 2600
_SLACK_UM = 1.0  # nuclei this near to a line are taken by both tiles, and doubles removed


@dataclass(frozen=True)
class Tile:
    """A part of a field: what is read, and the part of it whose cells count."""

    box: Box
    core: Box


def tiles(height: int, width: int, microns_per_pixel: float) -> Iterator[Tile]:
    """Yield the tiles of a field in reading order."""
    side = max(64, min(_MOST_CORE_PX, round(CORE_UM / microns_per_pixel)))
    margin = math.ceil(MARGIN_UM / microns_per_pixel)
    for top, bottom in _cuts(height, side, margin):
        for left, right in _cuts(width, side, margin):
            box = (
                max(0, top - margin), max(0, left - margin), min(height, bottom + margin), min(width, right + margin),
            )  # fmt: skip
            yield Tile(box, (top, left, bottom, right))


def find_cells(
    picture: Picture, light: Illumination, finder: Finder, microns_per_pixel: float
) -> list[Instance]:
    """Find the white cells of a field, in reading order, in px of the field.

    Parameters
    ----------
    picture, light
        The field, and its background, which is set to white before the finder sees a tile.
    finder
        Sees one tile at a time.
    microns_per_pixel
        Scale.
    """
    slack = _SLACK_UM / microns_per_pixel
    found: list[tuple[tuple[float, float], Instance]] = []
    for tile in tiles(picture.height_px, picture.width_px, microns_per_pixel):
        rgb = light.normalize(picture.read(tile.box), tile.box)
        fresh = []
        for cell in finder.find(rgb, microns_per_pixel):
            center = _center(cell, tile.box)
            top, left, bottom, right = tile.core
            if top - slack <= center[0] < bottom + slack and left - slack <= center[1] < right + slack:
                fresh.append((center, _in_field(cell, tile.box, picture, microns_per_pixel)))
        found.extend(entry for entry in fresh if not any(_same(entry[1], other) for _, other in found[-500:]))
    found.sort(key=lambda entry: (entry[1].box[0], entry[1].box[1]))
    return [instance for _, instance in found]


def _cuts(size: int, side: int, margin: int) -> list[tuple[int, int]]:
    count = 1 if size <= side + 2 * margin else math.ceil(size / side)
    edges = [round(size * index / count) for index in range(count + 1)]
    return list(pairwise(edges))


def _center(cell: FoundCell, tile: Box) -> tuple[float, float]:
    """Return the center of the nucleus (of the cell where there is none) in px of the field."""
    mask = cell.nucleus if cell.nucleus.any() else cell.cell
    rows, columns = np.nonzero(mask)
    return float(rows.mean()) + cell.box[0] + tile[0], float(columns.mean()) + cell.box[1] + tile[1]


def _in_field(cell: FoundCell, tile: Box, picture: Picture, um: float) -> Instance:
    box = (cell.box[0] + tile[0], cell.box[1] + tile[1], cell.box[2] + tile[0], cell.box[3] + tile[1])
    near = max(1.0, 0.25 / um)
    touches = (
        box[0] < near
        or box[1] < near
        or box[2] > picture.height_px - near
        or box[3] > picture.width_px - near
    )
    return Instance(box, cell.cell, cell.nucleus, cell.score, touches, cell.smudge)


def _same(one: Instance, other: Instance) -> bool:
    """Whether two outlines are of one cell: they share more than 40 % of the smaller one."""
    y0, x0 = max(one.box[0], other.box[0]), max(one.box[1], other.box[1])
    y1, x1 = min(one.box[2], other.box[2]), min(one.box[3], other.box[3])
    if y0 >= y1 or x0 >= x1:
        return False
    parts = [
        cell.cell[y0 - cell.box[0] : y1 - cell.box[0], x0 - cell.box[1] : x1 - cell.box[1]]
        for cell in (one, other)
    ]
    shared = np.count_nonzero(parts[0] & parts[1])
    return bool(shared > 0.4 * min(np.count_nonzero(one.cell), np.count_nonzero(other.cell)))
