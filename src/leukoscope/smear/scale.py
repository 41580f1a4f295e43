"""The scale of a field in micrometers per pixel: given, from metadata or from red cells."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from leukoscope.smear.illumination import Illumination
from leukoscope.smear.picture import Box, Picture
from leukoscope.smear.red_cells import RED_CELL_UM, Circle, find_circles

PLAUSIBLE_UM = (0.02, 2.0)
"""Scales that a microscope with a camera can have; other values in files are print or screen resolutions."""
COARSEST_UM = 0.7
"""Above it a white cell has fewer than about 15 pixels across and cannot be analyzed."""

_WHOLE_PX = 1500  # longer side of the finest level of a shrunk field
_PATCH_PX = 900
_ENOUGH_CIRCLES, _FEW_CIRCLES = 40, 4
_LEAST_CIRCLES = 2
_ENOUGH_AT_BEST = 4
_SETTLED_CIRCLES = 20
_LEAST_SIDE_PX = 60
_SURE_SPAN, _SURE_CIRCLES = math.radians(190), 4
_LARGE = 4.0  # a field this much larger is measured by patches in any case
_BEST_RADIUS_PX = (11.6, 23.2)  # the middle octave of the range of a level: neither end cuts sizes off
_SAME = 0.32  # of the natural logarithm of a diameter: red cells of one smear differ less from the most frequent one


class ScaleSource(StrEnum):
    """Where a scale comes from, in the order in which they are asked."""

    GIVEN = "given"
    METADATA = "metadata"
    RED_CELLS = "red_cells"
    SMEAR = "red_cells_of_smear"
    NETWORK = "red_cells_by_network"
    PROFILE = "profile"


@dataclass(frozen=True)
class Scale:
    """The scale of a field.

    Attributes
    ----------
    value
        Micrometers per pixel.
    source
        Where it comes from.
    n_red_cells
        Red cells measured; also where the scale comes from elsewhere, as a check.
    interval
        95 % interval of ``value`` by the spread of the red cells, without the uncertainty of their mean diameter in
        this blood (about 6 % of its own); None where they are not the source.
    measured
        Micrometers per pixel by the red cells alone; None if too few were found.
    by_patch
        The same for each patch of a large field, in reading order; empty for small fields.
    detail
        Name of the metadata, for the user.
    """

    value: float
    source: ScaleSource
    n_red_cells: int = 0
    interval: tuple[float, float] | None = None
    measured: float | None = None
    by_patch: tuple[float, ...] = ()
    detail: str = ""

    @property
    def contradicted(self) -> bool:
        """Whether the red cells differ from a given scale by more than a third."""
        return (
            self.source in (ScaleSource.GIVEN, ScaleSource.METADATA)
            and self.measured is not None
            and self.n_red_cells >= 5
            and abs(math.log(self.value / self.measured)) > math.log(4 / 3)
        )


@dataclass(frozen=True)
class RedCellSize:
    """Diameter of the red cells of one field or one smear, in px of the field.

    Attributes
    ----------
    diameters_px
        Of those that agree with the most frequent one, sorted.
    circles
        All that were fitted, in px of the field.
    by_patch
        Median diameter of each patch that has some.
    """

    diameters_px: NDArray[np.float64]
    circles: tuple[Circle, ...]
    by_patch: tuple[float, ...] = ()

    @property
    def count(self) -> int:
        """Red cells that agree."""
        return len(self.diameters_px)

    @property
    def median_px(self) -> float:
        """Median diameter; 0 without a red cell."""
        return float(np.median(self.diameters_px)) if self.count else 0.0

    @property
    def interval_px(self) -> tuple[float, float]:
        """95 % interval of the median by order statistics; the extremes where there are fewer than six."""
        count = self.count
        if count < 6:
            return float(self.diameters_px[0]), float(self.diameters_px[-1])
        reach = 1.96 * math.sqrt(count) / 2
        low = max(0, math.floor(count / 2 - reach))
        high = min(count - 1, math.ceil(count / 2 + reach))
        return float(self.diameters_px[low]), float(self.diameters_px[high])

    @property
    def microns_per_pixel(self) -> float | None:
        """Scale by the mean diameter of red cells; None with too few."""
        return RED_CELL_UM / self.median_px if self.count >= _LEAST_CIRCLES else None


def measure_red_cells(picture: Picture, light: Illumination) -> RedCellSize:
    """Measure the red cells of a field, at every magnification at once.

    A field is shrunk by powers of two, and each level measures circles of its own range of radii. Of large fields
    patches at full size follow, spread over the field, until there are enough; each gives a median of its own.
    """
    whole = (0, 0, picture.height_px, picture.width_px)
    shrunk = max(1.0, max(whole[2:]) / _WHOLE_PX)
    circles = list(_circles(picture, light, whole, shrunk))
    by_patch: list[float] = []
    if shrunk > 1 and (len(_agreeing(circles)) < _FEW_CIRCLES or shrunk > _LARGE):
        for box in _patches(picture.height_px, picture.width_px):
            found = list(_circles(picture, light, box, 1.0))
            circles.extend(found)
            near = _agreeing(found)
            if len(near) >= 3:
                by_patch.append(float(np.median(near)))
            if len(_agreeing(circles)) >= _ENOUGH_CIRCLES and shrunk <= _LARGE:
                break
    return RedCellSize(_agreeing(circles), tuple(circles), tuple(by_patch))


def measure_small_red_cells(picture: Picture, light: Illumination) -> float | None:
    """Return the diameter of red cells that are too small to be measured, px; None where none are seen.

    The middle of the field is enlarged four times.
    """
    side = min(picture.height_px, picture.width_px, 260)
    top, left = (picture.height_px - side) // 2, (picture.width_px - side) // 2
    found = _agreeing(_level(picture, light, (top, left, top + side, left + side), 0.25))
    return float(np.median(found)) if len(found) >= 6 else None


def pool_red_cells(sizes: list[RedCellSize]) -> RedCellSize:
    """Put the red cells of several fields of one smear together."""
    circles = [circle for size in sizes for circle in size.circles]
    return RedCellSize(_agreeing(circles), tuple(circles))


def scale_of(given: float | None, metadata: tuple[float, str] | None, size: RedCellSize) -> Scale | None:
    """Choose the scale: given, else by metadata, else by red cells; None if none is available."""
    measured = size.microns_per_pixel
    by_patch = tuple(RED_CELL_UM / diameter for diameter in size.by_patch)
    if given is not None:
        return Scale(given, ScaleSource.GIVEN, size.count, None, measured, by_patch)
    if metadata is not None:
        return Scale(metadata[0], ScaleSource.METADATA, size.count, None, measured, by_patch, metadata[1])
    if measured is None:
        return None
    low, high = size.interval_px
    interval = (RED_CELL_UM / high, RED_CELL_UM / low)
    return Scale(measured, ScaleSource.RED_CELLS, size.count, interval, measured, by_patch)


def _circles(picture: Picture, light: Illumination, box: Box, shrunk: float) -> Iterator[Circle]:
    """Yield the circles of a part of the field at all levels, in px of the field."""
    factors = [shrunk]
    side = min(box[2] - box[0], box[3] - box[1])
    if side / shrunk < _LEAST_SIDE_PX:
        return
    while side / factors[-1] >= 2 * _LEAST_SIDE_PX:
        factors.append(2 * factors[-1])
    found: list[Circle] = []
    for factor in reversed(factors):  # the coarse ones cost least
        found += _level(picture, light, box, factor)
        if _is_settled(found, factor):
            break
    yield from found


def _is_settled(circles: list[Circle], factor: float) -> bool:
    """Whether a level shows enough red cells of the size that it measures best, so that finer ones add nothing."""
    here = [circle for circle in circles if circle.shrunk == factor and circle.span >= _SURE_SPAN]
    if len(here) < _SETTLED_CIRCLES:
        return False
    near = _around_mode(circles)
    return (
        len(near) >= _SETTLED_CIRCLES
        and _BEST_RADIUS_PX[0] <= float(np.median(near)) / 2 / factor < _BEST_RADIUS_PX[1]
    )


def _level(picture: Picture, light: Illumination, box: Box, factor: float) -> list[Circle]:
    """Return the circles of a part of the field, shrunk by a factor, in px of the field."""
    shape = tuple(max(1, round(side / factor)) for side in (box[2] - box[0], box[3] - box[1]))
    rgb = picture.read(box, (shape[0], shape[1]))
    found = find_circles(light.optical_density(rgb, box), light.noise / max(1.0, factor))
    return [
        Circle(
            circle.y * factor + box[0],
            circle.x * factor + box[1],
            circle.radius * factor,
            circle.span,
            factor,
        )
        for circle in found
    ]


def _patches(height: int, width: int, rows: int = 3) -> list[Box]:
    """Return patches at full size, spread over the field, the middle first."""
    side_y, side_x = min(_PATCH_PX, height), min(_PATCH_PX, width)
    tops = sorted({round((height - side_y) * i / (rows - 1)) for i in range(rows)})
    lefts = sorted({round((width - side_x) * i / (rows - 1)) for i in range(rows)})
    boxes = [(top, left, top + side_y, left + side_x) for top in tops for left in lefts]
    return sorted(
        boxes, key=lambda box: abs(box[0] + side_y / 2 - height / 2) + abs(box[1] + side_x / 2 - width / 2)
    )


def _agreeing(circles: list[Circle]) -> NDArray[np.float64]:
    """Return the diameters around the most frequent one, each red cell once.

    If enough were fitted at the level that shows this size best, the others are left out: a level that cuts off the
    large or the small ones would shift the median, more at some magnifications than at others.
    """
    near = _around_mode(circles)
    if not len(near):
        return near
    radius = float(np.median(near)) / 2
    low, high = _BEST_RADIUS_PX
    best = _around_mode([circle for circle in circles if low <= radius / circle.shrunk < high])
    return best if len(best) >= min(_ENOUGH_AT_BEST, len(near)) else near


def _around_mode(circles: list[Circle]) -> NDArray[np.float64]:
    """Return the diameters around the most frequent one, each red cell once."""
    kept: list[Circle] = []
    for circle in sorted(circles, key=lambda each: -each.span * each.radius**0.5):
        near = (
            math.hypot(circle.y - other.y, circle.x - other.x) < 0.7 * max(circle.radius, other.radius)
            for other in kept
        )
        if not any(near):
            kept.append(circle)
    sure = [circle for circle in kept if circle.span >= _SURE_SPAN]
    kept = sure if len(sure) >= _SURE_CIRCLES else kept
    if not kept:
        return np.zeros(0)
    diameters = np.array([2 * circle.radius for circle in kept])
    logs = np.log(diameters)
    weights = np.array([circle.span for circle in kept]) * diameters
    votes = (np.exp(-0.5 * ((logs[:, None] - logs[None, :]) / 0.15) ** 2) * weights[None, :]).sum(axis=1)
    mode = logs[votes.argmax()]
    return np.sort(diameters[np.abs(logs - mode) < _SAME])
