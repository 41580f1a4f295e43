"""Tiles: all training images at one scale and one size, with one byte of supervision a pixel.

A tile is 256 px at 0.175 um a pixel (44.8 um). Its label byte holds the instance (3 bits: 0 no white cell, 1 to 6 a
white cell, 7 unknown), the nucleus (2 bits: 0 no, 1 yes, 2 unknown) and the red cells (2 bits: 0 no, 1 yes, 2 unknown).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from leukoscope.imaging.mask_file import read_mask
from leukoscope.training.finder.examples import Box, Example
from leukoscope.training.finder.outlines import (
    Floats,
    Outline,
    background_color,
    flatten,
    nucleus_of,
    optical_density,
    otsu,
    outline_in_box,
    outline_middle,
)

TILE_PX = 256
TILE_UM_PER_PX = 0.175
MOST_INSTANCES = 6
UNKNOWN_INSTANCE = 7
UNKNOWN = 2
MOST_RED = 48
_STAINED_BLOB_UM2 = (
    9.0  # larger than a platelet; an unlabeled blob of nuclear stain is unknown, not background
)
_FLAT = np.full(3, 235, np.float32)
_RED_AREA_UM2 = (18.0, 80.0)

Bytes = NDArray[np.uint8]


@dataclass
class Tile:
    """One training tile.

    Parameters
    ----------
    rgb
        (256, 256, 3); outside ``size`` it is 0.
    labels
        (256, 256), the label byte.
    size
        Height and width of the part that is image.
    red
        (n, 3) center row, column and diameter of red cells, px.
    example
        Where it comes from.
    rough
        Whether the outlines are by color alone and may be replaced by the network's own.
    """

    rgb: Bytes
    labels: Bytes
    size: tuple[int, int]
    red: Floats
    example: Example
    rough: bool


def pack_labels(instance: Bytes, nucleus: Bytes, red: Bytes) -> Bytes:
    """Join the three planes into one byte a pixel."""
    return (instance | (nucleus << 3) | (red << 5)).astype(np.uint8)


def resize(rgb: Bytes, height: int, width: int) -> Bytes:
    """Resize with an anti-aliasing filter, as the finder does when it is applied."""
    if rgb.shape[:2] == (height, width):
        return rgb
    tensor = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float()
    small = functional.interpolate(
        tensor, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def _resize_plane(plane: Bytes, height: int, width: int) -> Bytes:
    tensor = torch.from_numpy(np.ascontiguousarray(plane))[None, None].float()
    return functional.interpolate(tensor, (height, width), mode="nearest-exact")[0, 0].byte().numpy()


def cut_tiles(examples: Iterable[Example]) -> Iterator[Tile]:
    """Yield the tiles of all examples (several of a large field); cut-outs become tiles with the cell in the middle."""
    for example in examples:
        rgb = example.read()
        zoom = example.microns_per_pixel / TILE_UM_PER_PX
        height, width = (max(8, round(side * zoom)) for side in rgb.shape[:2])
        small = resize(rgb, height, width)
        if example.form == "cutout":
            yield _cutout(small, example)
            continue
        instance, nucleus, rough = _white_cells(small, example, zoom)
        red_plane, red_cells = _red_cells(small, instance, example, zoom)
        labels = pack_labels(instance, nucleus, red_plane)
        yield from _cut(small, labels, red_cells, example, rough)


def _cut(rgb: Bytes, labels: Bytes, red: Floats, example: Example, rough: bool) -> Iterator[Tile]:
    height, width = labels.shape
    for top in _starts(height):
        for left in _starts(width):
            part = np.s_[top : top + TILE_PX, left : left + TILE_PX]
            image = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
            plane = np.zeros((TILE_PX, TILE_PX), np.uint8)
            h, w = labels[part].shape
            image[:h, :w], plane[:h, :w] = rgb[part], _renumber(labels[part])
            moved = red - np.array([top, left, 0], np.float32)
            inside = (moved[:, 0] > 0) & (moved[:, 0] < h) & (moved[:, 1] > 0) & (moved[:, 1] < w)
            yield Tile(image, plane, (h, w), moved[inside][:MOST_RED], example, rough)


def _starts(size: int) -> list[int]:
    if size <= 1.05 * TILE_PX:
        return [max(0, (size - TILE_PX) // 2)]
    count = int(np.ceil((size - TILE_PX) / (TILE_PX * 0.75))) + 1
    return [round(value) for value in np.linspace(0, size - TILE_PX, count)]


def _renumber(labels: Bytes) -> Bytes:
    """Number the instances of a part from 1; those beyond the sixth become unknown."""
    instance, rest = labels & 7, labels & 0xF8
    table = np.zeros(8, np.uint8)
    present = [value for value in np.unique(instance) if 0 < value < UNKNOWN_INSTANCE]
    for number, value in enumerate(present, start=1):
        table[value] = number
    table[UNKNOWN_INSTANCE] = UNKNOWN_INSTANCE
    return table[instance] | rest


def _cutout(rgb: Bytes, example: Example) -> Tile:
    cell = ndimage.binary_fill_holes(rgb.max(axis=2) > 0)
    labels, count = ndimage.label(cell)
    if count > 1:
        sizes = ndimage.sum_labels(cell, labels, np.arange(1, count + 1))
        cell = labels == 1 + int(np.argmax(sizes))
    rows, columns = np.flatnonzero(cell.any(axis=1)), np.flatnonzero(cell.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rgb, cell = rgb[box], cell[box]
    height, width = min(cell.shape[0], TILE_PX), min(cell.shape[1], TILE_PX)
    top, left = (TILE_PX - height) // 2, (TILE_PX - width) // 2
    image = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
    plane = np.zeros((TILE_PX, TILE_PX), np.uint8)
    white = np.full(3, 235, np.float32)
    found = nucleus_of(optical_density(np.where(cell[..., None], rgb, 0), white), cell)
    nucleus = np.where(cell, UNKNOWN, 0) if found is None else found
    image[top : top + height, left : left + width] = (rgb * cell[..., None])[:height, :width]
    plane[top : top + height, left : left + width] = pack_labels(
        cell.astype(np.uint8), nucleus.astype(np.uint8), np.zeros_like(cell, np.uint8)
    )[:height, :width]
    return Tile(image, plane, (TILE_PX, TILE_PX), np.zeros((0, 3), np.float32), example, False)


def _white_cells(rgb: Bytes, example: Example, zoom: float) -> tuple[Bytes, Bytes, bool]:
    """Return the planes of instances and nuclei, and whether they are rough."""
    shape = rgb.shape[:2]
    density = optical_density(flatten(rgb, TILE_UM_PER_PX), _FLAT)
    instance, nucleus = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    boxes: list[Box] = [tuple(side * zoom for side in box) for box in example.white]  # type: ignore[misc]
    rough = example.mask is None and example.form in {"field", "single"}
    if example.mask is not None:
        instance = _from_mask(example.mask, shape, boxes)
        for number in range(1, MOST_INSTANCES + 1):
            cell = instance == number
            if cell.any():
                found = nucleus_of(density, cell)
                nucleus[cell] = UNKNOWN if found is None else found[cell]
    elif example.form == "single":
        _draw(instance, nucleus, 1, outline_middle(rgb, TILE_UM_PER_PX))
        if not (instance == 1).any():
            instance[:] = UNKNOWN_INSTANCE
    elif example.form == "field":
        for number, box in enumerate(boxes[:MOST_INSTANCES], start=1):
            _draw(instance, nucleus, number, outline_in_box(rgb, box, TILE_UM_PER_PX))
    for box in boxes:  # a box whose cell was not outlined is unknown
        part = np.s_[max(0, int(box[0])) : int(box[2]) + 1, max(0, int(box[1])) : int(box[3]) + 1]
        if not ((instance[part] > 0) & (instance[part] < UNKNOWN_INSTANCE)).any():
            instance[part][instance[part] == 0] = UNKNOWN_INSTANCE
            nucleus[part] = UNKNOWN
    if rough or example.form == "negative":
        blobs = _stained_blobs(density, instance, example, zoom)
        instance[blobs & (instance == 0)] = UNKNOWN_INSTANCE
        nucleus[blobs & (instance == UNKNOWN_INSTANCE)] = UNKNOWN
    return instance, nucleus, rough


def _from_mask(path: Path, shape: tuple[int, int], boxes: list[Box]) -> Bytes:
    """Number the white cells of a mask; a component that several boxes share is divided by the nearest box."""
    mask = _resize_plane(read_mask(path).astype(np.uint8), *shape) > 0
    labels, count = ndimage.label(mask)
    instance = np.zeros(shape, np.uint8)
    number = 0
    for index in range(1, count + 1):
        part = labels == index
        if part.sum() * TILE_UM_PER_PX**2 < 4 or number >= MOST_INSTANCES:
            instance[part] = UNKNOWN_INSTANCE
            continue
        rows, columns = np.nonzero(part)
        owners = [
            box
            for box in boxes
            if part[max(0, int(box[0])) : int(box[2]) + 1, max(0, int(box[1])) : int(box[3]) + 1].sum()
            > 0.3 * max(1.0, (box[2] - box[0]) * (box[3] - box[1]))
        ]
        if len(owners) > 1 and number + len(owners) <= MOST_INSTANCES:
            distances = [
                np.hypot(rows - (b[0] + b[2]) / 2, columns - (b[1] + b[3]) / 2)
                / np.hypot(b[2] - b[0], b[3] - b[1])
                for b in owners
            ]
            instance[rows, columns] = number + 1 + np.argmin(distances, axis=0)
            number += len(owners)
        else:
            number += 1
            instance[part] = number
    return instance


def _draw(instance: Bytes, nucleus: Bytes, number: int, found: Outline | None) -> None:
    if found is None:
        return
    free = instance == 0
    cell = found.cell & free
    nucleus[cell] = UNKNOWN if found.nucleus is None else found.nucleus[cell]
    instance[cell] = number
    unknown = found.unknown & (free | (instance == number))
    instance[unknown] = UNKNOWN_INSTANCE
    if found.nucleus is None:
        nucleus[unknown] = UNKNOWN


def _stained_blobs(density: Floats, instance: Bytes, example: Example, zoom: float) -> NDArray[np.bool_]:
    red = density[..., 0]
    known = (instance > 0) & (instance < UNKNOWN_INSTANCE)
    level = 0.7 * float(np.percentile(red[known], 75)) if known.sum() > 100 else 0.35
    blobs = ndimage.binary_opening((red > max(level, 0.15)) & ~ndimage.binary_dilation(known, iterations=4))
    for box in example.platelets:
        y0, x0, y1, x1 = (int(side * zoom) for side in box)
        blobs[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1] = False
    labels, count = ndimage.label(blobs)
    if example.form == "negative":  # what lies in the middle is known not to be a white cell
        rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]]
        away = np.hypot(rows - labels.shape[0] / 2, columns - labels.shape[1] / 2) * TILE_UM_PER_PX
        labels[np.isin(labels, np.unique(labels[away < 3.0]))] = 0
    if count == 0:
        return blobs
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:] * TILE_UM_PER_PX**2
    large = np.isin(labels, 1 + np.flatnonzero(areas > _STAINED_BLOB_UM2))
    return ndimage.binary_dilation(large, iterations=9)


def _red_cells(rgb: Bytes, instance: Bytes, example: Example, zoom: float) -> tuple[Bytes, Floats]:
    """Return the plane of red cells and (n, 3) centers and diameters of those that are whole."""
    density = optical_density(rgb, background_color(rgb)).max(axis=2)
    if example.form == "empty":
        return np.zeros(instance.shape, np.uint8), np.zeros((0, 3), np.float32)
    if example.source == "chula":  # refractile cells on an uneven ground: a threshold does not find them
        return np.full(instance.shape, UNKNOWN, np.uint8), np.zeros((0, 3), np.float32)
    threshold = float(np.clip(0.6 * otsu(density[density < 1.0])[0], 0.06, 0.2))
    foreground = ndimage.binary_fill_holes(ndimage.binary_opening(density > threshold, iterations=2))
    white = ndimage.binary_dilation(instance > 0, iterations=3)
    plane = np.where(foreground & ~white, 1, 0).astype(np.uint8)
    edge = ndimage.binary_dilation(foreground, iterations=2) & ~ndimage.binary_erosion(
        foreground, iterations=1
    )
    plane[(edge | white) & (instance == 0)] = UNKNOWN
    plane[instance == UNKNOWN_INSTANCE] = UNKNOWN
    boxes = [tuple(side * zoom for side in box) for box in example.red]
    for box in (*(tuple(side * zoom for side in b) for b in example.platelets),):
        plane[max(0, int(box[0])) : int(box[2]) + 1, max(0, int(box[1])) : int(box[3]) + 1] = UNKNOWN
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]]
    for y0, x0, y1, x1 in boxes:  # pale parts of a boxed red cell
        round_part = ((2 * rows - y0 - y1) / (y1 - y0)) ** 2 + ((2 * columns - x0 - x1) / (x1 - x0)) ** 2 < 1
        plane[round_part & (plane == 0) & (instance == 0)] = UNKNOWN
    if boxes:
        return plane, _whole_boxes(boxes, instance.shape)
    return plane, _round_components(foreground & ~white)


def _whole_boxes(boxes: list[tuple[float, ...]], shape: tuple[int, int]) -> Floats:
    rows = []
    for y0, x0, y1, x1 in boxes:
        whole = y0 > 2 and x0 > 2 and y1 < shape[0] - 3 and x1 < shape[1] - 3
        if whole and max(y1 - y0, x1 - x0) < 1.35 * min(y1 - y0, x1 - x0):
            rows.append(((y0 + y1) / 2, (x0 + x1) / 2, (y1 - y0 + x1 - x0) / 2))
    return np.array(rows, np.float32).reshape(-1, 3)


def _round_components(foreground: NDArray[np.bool_]) -> Floats:
    labels, _ = ndimage.label(foreground)
    rows = []
    height, width = foreground.shape
    for index, where in enumerate(ndimage.find_objects(labels), start=1):
        if where[0].start == 0 or where[1].start == 0 or where[0].stop == height or where[1].stop == width:
            continue
        part = labels[where] == index
        area = int(part.sum())
        tall, wide = part.shape
        fill = area / (tall * wide)  # pi / 4 for an ellipse
        if (
            _RED_AREA_UM2[0] < area * TILE_UM_PER_PX**2 < _RED_AREA_UM2[1]
            and max(tall, wide) < 1.3 * min(tall, wide)
            and 0.74 < fill < 0.83
        ):
            rows.append(
                (
                    (where[0].start + where[0].stop) / 2,
                    (where[1].start + where[1].stop) / 2,
                    2 * np.sqrt(area / np.pi),
                )
            )
    return np.array(rows, np.float32).reshape(-1, 3)
