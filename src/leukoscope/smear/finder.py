"""Finding white cells: what every finder gives, and the classical one by optical density and watershed."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.smear.illumination import WHITE
from leukoscope.smear.picture import resampling
from leukoscope.smear.raster import (
    Bools,
    Box,
    Floats,
    Parts,
    dilate,
    distance_inside,
    fill_holes,
    flood,
    label_parts,
    largest_part,
    open_mask,
)
from leukoscope.smear.stain import Stain, smooth_channels

WORKING_UM = 0.2
"""Scale at which the classical finder works; coarser fields are taken as they are."""


@dataclass(frozen=True)
class Instance:
    """One white cell of a field.

    Attributes
    ----------
    box
        (y0, x0, y1, x1) in px of the field, half-open.
    cell, nucleus
        bool (y1 - y0, x1 - x0); the nucleus lies within the cell.
    score
        How sure the finder is, 0 to 1.
    touches_border
        Whether the cell is cut by the edge of the image.
    smudge
        Whether it is a smudge cell rather than a white cell, 0 to 1.
    """

    box: Box
    cell: Bools
    nucleus: Bools
    score: float
    touches_border: bool
    smudge: float = 0.0


class FoundCell(Protocol):
    """A white cell found by a finder; see ``Instance``."""

    @property
    def box(self) -> Box:
        """Half-open, px of the image."""

    @property
    def cell(self) -> Bools:
        """Mask in the box."""

    @property
    def nucleus(self) -> Bools:
        """Mask in the box."""

    @property
    def score(self) -> float:
        """0 to 1."""

    @property
    def touches_border(self) -> bool:
        """Cut by the edge of the image."""

    @property
    def smudge(self) -> float:
        """0 to 1."""


class Finder(Protocol):
    """Finds the white cells of an image, or of a part of a field."""

    def find(self, rgb: NDArray[np.uint8], microns_per_pixel: float) -> "list[FoundCell]":
        """Return the white cells; uint8 (H, W, 3) with the background set to white."""


@dataclass(frozen=True)
class ClassicalSettings:
    """Sizes and limits of the classical finder.

    Attributes
    ----------
    least_nucleus_um2, least_border_nucleus_um2
        Smaller stained parts are platelets or dirt; the second holds where the edge cuts a part.
    least_lobe_um2
        Smaller stained parts are no lobe of a nucleus.
    rim_share, least_rim, rim_um
        The rim of a nucleus: share of the threshold of its middle, least signal, and how wide.
    least_largest_lobe_um2
        A nucleus whose largest lobe is smaller is none.
    join_um
        Lobes nearer than this are of one nucleus, if they are small or no background lies between.
    whole_nucleus_um2
        Two round parts of this size each are two cells, however near they are.
    reach_um
        Cytoplasm goes no farther from the nucleus.
    largest_um
        No cell is longer.
    """

    least_nucleus_um2: float = 17.0
    least_border_nucleus_um2: float = 9.0
    least_lobe_um2: float = 3.0
    rim_share: float = 0.45
    least_rim: float = 0.05
    rim_um: float = 1.6
    least_largest_lobe_um2: float = 8.0
    join_um: float = 2.4
    whole_nucleus_um2: float = 30.0
    reach_um: float = 6.0
    largest_um: float = 32.0


class ClassicalFinder:
    """White cells by optical density, thresholds and a marker-controlled watershed, from the field's own stain.

    Parameters
    ----------
    stain
        Of the field, so that every tile of it is treated the same.
    settings
        Sizes.
    """

    name = "classical"

    def __init__(self, stain: Stain, settings: ClassicalSettings | None = None) -> None:
        self.stain = stain
        self.settings = settings or ClassicalSettings()

    def find(self, rgb: NDArray[np.uint8], microns_per_pixel: float) -> list[FoundCell]:
        """Return the white cells of an image whose background is white, in reading order of their nuclei."""
        factor = max(1.0, WORKING_UM / microns_per_pixel)
        shape = (max(1, round(rgb.shape[0] / factor)), max(1, round(rgb.shape[1] / factor)))
        small = _resize(rgb, shape)
        um = microns_per_pixel * rgb.shape[0] / shape[0]
        density = smooth_channels(np.float32(math.log10(WHITE)) - _LOG10[small])
        nuclear, parts = self._nuclei(density, um)
        groups = self._groups(parts, density, um)
        found: list[FoundCell] = []
        for labels, box, numbers in self._cells(groups, parts, density, um):
            for number in numbers:
                instance = self._instance(labels == number, nuclear, density, box, um)
                if instance is not None:
                    found.append(_enlarge(instance, shape, (rgb.shape[0], rgb.shape[1])))
        return found

    def _nuclei(self, density: Floats, um: float) -> tuple[Bools, Parts]:
        """Return the mask of nuclei and its parts, lobes apart where a neck is thin."""
        settings, signal = self.settings, self.stain.nuclear_signal(density)
        threshold = self.stain.nuclear_threshold
        strong = open_mask(
            (signal > 0.75 * threshold) & (density[..., 1] > self.stain.foreground_threshold), 0.6 / um
        )
        # The stain fades toward the rim of a nucleus; the same weaker signal elsewhere is no nucleus.
        weak = signal > max(settings.rim_share * threshold, settings.least_rim)
        mask = fill_holes(weak & dilate(strong, settings.rim_um / um), 6.0 / um**2)
        mask = open_mask(mask, max(0.3 / um, 1.0))
        parts = label_parts(mask)
        enough = parts.areas_px >= settings.least_lobe_um2 / um**2
        mask = parts.select(enough)
        return mask, label_parts(_split(mask, um, settings))

    def _groups(self, parts: Parts, density: Floats, um: float) -> list[list[int]]:
        """Return lists of parts that are lobes of one nucleus, each list with enough area for one."""
        if not len(parts):
            return []
        groups = _join_lobes(parts, um, self.settings)
        height, width = density.shape[:2]
        kept = []
        for group in groups:
            boxes = parts.boxes[np.array(group) - 1]
            area = float(parts.areas_px[np.array(group) - 1].sum()) * um * um
            at_edge = bool(
                (boxes[:, :2] <= 1).any()
                or (boxes[:, 2] >= height - 1).any()
                or (boxes[:, 3] >= width - 1).any()
            )
            least = self.settings.least_border_nucleus_um2 if at_edge else self.settings.least_nucleus_um2
            largest = float(parts.areas_px[np.array(group) - 1].max()) * um * um
            if area >= least and largest >= self.settings.least_largest_lobe_um2:
                kept.append(group)
        return kept

    def _cells(
        self, groups: list[list[int]], parts: Parts, density: Floats, um: float
    ) -> "list[tuple[NDArray[np.int32], Box, list[int]]]":
        """Grow the cells from their nuclei, those that may touch together; labels by group number from 1."""
        height, width = density.shape[:2]
        reach = math.ceil(self.settings.reach_um / um) + 2
        boxes = []
        for group in groups:
            of = parts.boxes[np.array(group) - 1]
            boxes.append(
                (
                    max(0, int(of[:, 0].min()) - reach), max(0, int(of[:, 1].min()) - reach),
                    min(height, int(of[:, 2].max()) + reach), min(width, int(of[:, 3].max()) + reach),
                )
            )  # fmt: skip
        results = []
        for members in _overlapping(boxes):
            y0, x0 = min(boxes[i][0] for i in members), min(boxes[i][1] for i in members)
            y1, x1 = max(boxes[i][2] for i in members), max(boxes[i][3] for i in members)
            inner = parts.labels[y0:y1, x0:x1]
            seeds = np.zeros(inner.shape, np.int32)
            for number in members:
                seeds[np.isin(inner, groups[number])] = number + 1
            labels = self._expand(seeds, inner, density[y0:y1, x0:x1], um)
            results.append((labels, (y0, x0, y1, x1), [number + 1 for number in members]))
        return results

    def _expand(
        self, seeds: NDArray[np.int32], parts: NDArray[np.int32], density: Floats, um: float
    ) -> NDArray[np.int32]:
        """Grow seeds over cytoplasm: stained, near a nucleus, and of another color than red cells."""
        nucleus = seeds > 0
        limit = math.ceil(self.settings.reach_um / um) + 1
        away = distance_inside(~nucleus, limit)
        likely = self._cytoplasm(density, nucleus, away, um)
        region = (likely & (away * um <= self.settings.reach_um)) | nucleus
        region &= (parts == 0) | nucleus
        core = open_mask(region, max(0.7 / um, 1.0)) | nucleus
        core = fill_holes(core, 12.0 / um**2)
        return flood(-away, seeds, core, levels=24)

    def _cytoplasm(self, density: Floats, nucleus: Bools, away: Floats, um: float) -> Bools:
        """Return what is stained and farther in color from red cells than the cells' own spread."""
        absorbing = density.max(axis=-1)
        stained = absorbing > max(0.8 * self.stain.foreground_threshold, 0.035)
        color = np.array(self.stain.red_cells)
        total = density.sum(axis=-1)
        # Red cells vary most in thickness: along their own color; the remaining component distinguishes cytoplasm.
        axis = color / np.linalg.norm(color)
        along = density @ axis.astype(np.float32)
        across = density - along[..., None] * axis.astype(np.float32)
        bluish = across[..., 0] - across[..., 2]
        spread = self._across_spread(axis)
        relative = bluish / np.maximum(total, 0.05)
        other = (bluish > 2.0 * spread) | (relative > 0.22)
        faint = absorbing < 0.55 * float(color.max())
        near = away * um < 3.0
        return np.asarray(stained & (other | (faint & near)), dtype=np.bool_)

    def _across_spread(self, axis: NDArray[np.float64]) -> float:
        """Standard deviation of red cells in red less blue, across their own color."""
        project = np.eye(3) - np.outer(axis, axis)
        weights = project.T @ np.array([1.0, 0.0, -1.0])
        return float(math.sqrt(max(weights @ self.stain.red_cells_covariance @ weights, 1e-6)))

    def _instance(self, cell: Bools, nuclear: Bools, density: Floats, box: Box, um: float) -> Instance | None:
        """Return one cell in px of the working image, or None where what was found is none."""
        if not cell.any():
            return None
        cell = fill_holes(largest_part(cell))
        nucleus = cell & nuclear[box[0] : box[2], box[1] : box[3]]
        rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
        y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        if max(y1 - y0, x1 - x0) * um > self.settings.largest_um or not nucleus.any():
            return None
        inside = self.stain.nuclear_signal(density[box[0] : box[2], box[1] : box[3]])[nucleus]
        contrast = float(np.quantile(inside, 0.8)) / self.stain.nuclear_threshold
        area = float(nucleus.sum()) * um * um
        score = _score(contrast, area)
        outer = (box[0] + y0, box[1] + x0, box[0] + y1, box[1] + x1)
        at_edge = (
            outer[0] <= 0 or outer[1] <= 0 or outer[2] >= density.shape[0] or outer[3] >= density.shape[1]
        )
        smudge = float(area > 110 and contrast < 1.5)
        return Instance(outer, cell[y0:y1, x0:x1], nucleus[y0:y1, x0:x1], score, at_edge, smudge)


_LOG10 = np.log10(np.maximum(np.arange(256), 1)).astype(np.float32)


def _score(contrast: float, area_um2: float) -> float:
    """Return how sure it is that a stained part of this contrast and area is a nucleus, by a rule of thumb."""
    evidence = 3.0 * (contrast - 1.05) + 0.08 * (min(area_um2, 45.0) - 17.0)
    return 1 / (1 + math.exp(-evidence))


def _resize(rgb: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    if rgb.shape[:2] == shape:
        return rgb
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(image.resize((shape[1], shape[0]), resampling(rgb.shape, shape)))


def _split(mask: Bools, um: float, settings: ClassicalSettings) -> Bools:
    """Cut parts that are too large for one nucleus along the necks between their thick middles."""
    parts = label_parts(mask)
    cut = mask.copy()
    for number in np.flatnonzero(parts.areas_px * um * um > 2 * settings.whole_nucleus_um2) + 1:
        (y0, x0, y1, x1), part = parts.crop(int(number))
        padded = np.pad(part, 1)
        depth = distance_inside(padded)
        middles = label_parts(depth > 0.72 * depth.max())
        if len(middles) < 2:
            continue
        labels = flood(depth, middles.labels, padded)
        areas = np.bincount(labels[padded], minlength=len(middles) + 1)[1:] * um * um
        if (areas >= settings.whole_nucleus_um2).sum() < 2 or not _necked(labels, depth, middles):
            continue
        cut[y0:y1, x0:x1] &= ~_lines(labels)[1:-1, 1:-1]
    return cut


def _necked(labels: NDArray[np.int32], depth: Floats, middles: Parts) -> bool:
    """Whether the lines between the parts are much narrower than the parts."""
    line = _lines(labels) & (labels > 0)
    return bool(line.any()) and float(depth[line].max()) < 0.62 * float(depth.max())


def _lines(labels: NDArray[np.int32]) -> Bools:
    """Return the pixels whose right or lower neighbor belongs to another part."""
    lines = np.zeros(labels.shape, np.bool_)
    for one, other, part in (
        (labels[:-1], labels[1:], np.s_[:-1, :]),
        (labels[:, :-1], labels[:, 1:], np.s_[:, :-1]),
    ):
        lines[part] |= (one != other) & (one > 0) & (other > 0)
    return lines


def _join_lobes(parts: Parts, um: float, settings: ClassicalSettings) -> list[list[int]]:
    """Join parts that are near each other, unless both are as large and round as whole nuclei."""
    count = len(parts)
    leader = list(range(count))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    reach = settings.join_um / um
    areas = parts.areas_px * um * um
    for first in range(count):
        for second in range(first + 1, count):
            gap = _box_gap(parts.boxes[first], parts.boxes[second])
            if gap > reach or find(first) == find(second):
                continue
            both_whole = min(areas[first], areas[second]) >= settings.whole_nucleus_um2
            if not both_whole and _near(parts, first + 1, second + 1, reach):
                leader[find(second)] = find(first)
    groups: dict[int, list[int]] = {}
    for index in range(count):
        groups.setdefault(find(index), []).append(index + 1)
    return list(groups.values())


def _box_gap(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    dy = max(int(other[0] - one[2]), int(one[0] - other[2]), 0)
    dx = max(int(other[1] - one[3]), int(one[1] - other[3]), 0)
    return math.hypot(dy, dx)


def _near(parts: Parts, one: int, other: int, reach: float) -> bool:
    """Whether two parts come nearer than ``reach`` px."""
    a, b = parts.boxes[one - 1], parts.boxes[other - 1]
    y0, x0 = max(0, min(a[0], b[0]) - 1), max(0, min(a[1], b[1]) - 1)
    window = parts.labels[y0 : max(a[2], b[2]) + 1, x0 : max(a[3], b[3]) + 1]
    return bool((dilate(window == one, reach) & (window == other)).any())


def _overlapping(boxes: list[Box]) -> list[list[int]]:
    """Return the groups of boxes that overlap, directly or through others."""
    groups: list[tuple[Box, list[int]]] = []
    for index, box in enumerate(boxes):
        members, outer = [index], box
        apart = []
        for other, numbers in groups:
            if outer[0] < other[2] and other[0] < outer[2] and outer[1] < other[3] and other[1] < outer[3]:
                members = numbers + members
                outer = (
                    min(outer[0], other[0]), min(outer[1], other[1]), max(outer[2], other[2]), max(outer[3], other[3]),
                )  # fmt: skip
            else:
                apart.append((other, numbers))
        groups = [*apart, (outer, members)]
    return [sorted(numbers) for _, numbers in groups]


def _enlarge(instance: Instance, shape: tuple[int, int], full: tuple[int, int]) -> Instance:
    """Bring a cell from the working image to the pixels of the image."""
    if shape == full:
        return instance
    factors = (full[0] / shape[0], full[1] / shape[1])
    y0, x0, y1, x1 = instance.box
    box = (
        math.floor(y0 * factors[0]), math.floor(x0 * factors[1]),
        min(full[0], math.ceil(y1 * factors[0])), min(full[1], math.ceil(x1 * factors[1])),
    )  # fmt: skip
    size = (box[2] - box[0], box[3] - box[1])
    planes = []
    for plane in (instance.cell, instance.nucleus):
        wide = np.pad(plane, 1, mode="edge" if instance.touches_border else "constant").astype(np.uint8) * 255
        window = (
            1 + (box[1] / factors[1] - x0), 1 + (box[0] / factors[0] - y0),
            1 + (box[3] / factors[1] - x0), 1 + (box[2] / factors[0] - y0),
        )  # fmt: skip
        image = Image.fromarray(wide).resize(
            (size[1], size[0]), Image.Resampling.BILINEAR, box=_clip(window, wide.shape)
        )
        planes.append(np.asarray(image) >= 128)
    cell = planes[0] if planes[0].any() else np.ones(size, np.bool_)
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    outer = (box[0] + top, box[1] + left, box[0] + bottom, box[1] + right)
    return Instance(
        outer, cell[top:bottom, left:right], (planes[1] & cell)[top:bottom, left:right],
        instance.score, instance.touches_border, instance.smudge,
    )  # fmt: skip


def _clip(window: tuple[float, ...], shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    left, top, right, bottom = window
    return max(0.0, left), max(0.0, top), min(float(shape[1]), right), min(float(shape[0]), bottom)
