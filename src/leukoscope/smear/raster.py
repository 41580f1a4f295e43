"""Masks with NumPy alone: connected parts, holes, distances, watershed, outlines.

SciPy, scikit-image and OpenCV have these operations, but each exceeds the size limit of the light install.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leukoscope.imaging.foreground import component_roots

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Parts:
    """The connected parts of a mask, numbered from 1 in the order of their first pixels.

    Attributes
    ----------
    labels
        int32 (H, W), 0 outside.
    areas_px
        int (n,).
    boxes
        int (n, 4): y0, x0, y1, x1, half-open.
    """

    labels: NDArray[np.int32]
    areas_px: NDArray[np.intp]
    boxes: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.areas_px)

    def crop(self, number: int) -> tuple[Box, Bools]:
        """Return box and mask of the part ``number`` (from 1)."""
        y0, x0, y1, x1 = (int(value) for value in self.boxes[number - 1])
        return (y0, x0, y1, x1), self.labels[y0:y1, x0:x1] == number

    def select(self, chosen: Bools) -> Bools:
        """Return the mask of the parts that are chosen; bool (n,)."""
        return np.concatenate(([False], chosen))[self.labels]


def label_parts(mask: Bools, *, diagonal: bool = True) -> Parts:
    """Number the connected parts of a mask.

    Parameters
    ----------
    mask
        bool (H, W).
    diagonal
        Whether pixels that touch at a corner only are connected (8 neighbors instead of 4).
    """
    height, width = mask.shape
    starts, ends, root = component_roots(mask, diagonal=diagonal)
    labels = np.zeros(mask.shape, np.int32)
    if not starts.size:
        return Parts(labels, np.zeros(0, np.intp), np.zeros((0, 4), np.intp))
    first, number = np.unique(root, return_inverse=True)
    labels[mask] = np.repeat(number + 1, ends - starts)
    rows, columns = np.divmod(starts, width + 2)
    lasts = columns + (ends - starts)
    count = len(first)
    boxes = np.empty((count, 4), np.intp)
    boxes[:, :2], boxes[:, 2:] = max(height, width), 0
    np.minimum.at(boxes[:, 0], number, rows)
    np.minimum.at(boxes[:, 1], number, columns)
    np.maximum.at(boxes[:, 2], number, rows + 1)
    np.maximum.at(boxes[:, 3], number, lasts)
    areas = np.bincount(number, weights=ends - starts, minlength=count).astype(np.intp)
    return Parts(labels, areas, boxes)


def fill_holes(mask: Bools, max_area_px: float = np.inf) -> Bools:
    """Fill background parts that do not reach the edge of the array and are not larger than ``max_area_px``."""
    outside = label_parts(~np.pad(mask, 1), diagonal=False)
    if len(outside) < 2:
        return mask
    holes = outside.areas_px <= max_area_px
    holes[outside.labels[0, 0] - 1] = False
    filled: Bools = mask | outside.select(holes)[1:-1, 1:-1]
    return filled


def largest_part(mask: Bools) -> Bools:
    """Return the largest 4-connected part."""
    parts = label_parts(mask, diagonal=False)
    if len(parts) < 2:
        return mask
    largest: Bools = parts.labels == int(parts.areas_px.argmax()) + 1
    return largest


def distance_inside(mask: Bools, limit_px: int = 60) -> Floats:
    """Return the Euclidean distance of each pixel to the nearest pixel outside; the array's edge is not outside.

    Parameters
    ----------
    mask
        bool (H, W).
    limit_px
        Larger distances are cut to it.
    """
    height, width = mask.shape
    column = np.zeros((height, width), np.float32)
    running = np.full(width, limit_px, np.float32)
    for row in range(height):
        running = np.where(mask[row], np.minimum(running + 1, limit_px), 0)
        column[row] = running
    running = np.full(width, limit_px, np.float32)
    for row in range(height - 1, -1, -1):
        running = np.where(mask[row], np.minimum(running + 1, limit_px), 0)
        column[row] = np.minimum(column[row], running)
    square = column**2
    nearest = square.copy()
    for step in range(1, min(limit_px, width)):
        reach = np.float32(step * step)
        if not np.any(nearest > reach):
            break
        np.minimum(nearest[:, step:], square[:, :-step] + reach, out=nearest[:, step:])
        np.minimum(nearest[:, :-step], square[:, step:] + reach, out=nearest[:, :-step])
    return np.sqrt(nearest)


def dilate(mask: Bools, radius_px: float) -> Bools:
    """Return what lies within ``radius_px`` of the mask, inside the array."""
    wide = int(radius_px) + 1
    padded = np.pad(mask, wide)
    return (distance_inside(~padded, wide + 1) <= radius_px)[wide:-wide, wide:-wide]


def erode(mask: Bools, radius_px: float) -> Bools:
    """Return what lies farther than ``radius_px`` from everything outside; the array's edge is not outside."""
    eroded: Bools = distance_inside(mask, int(radius_px) + 2) > radius_px
    return eroded


def open_mask(mask: Bools, radius_px: float) -> Bools:
    """Remove what is narrower than a disc of ``radius_px``."""
    return mask & dilate(erode(mask, radius_px), radius_px)


def smooth(values: Floats, radius_px: int, times: int = 2) -> Floats:
    """Average over a square window ``times`` times; the edge is continued. Two times is near a Gaussian."""
    if radius_px < 1:
        return values
    if radius_px == 1:
        return _smooth_three(values, times)
    for _ in range(times):
        for axis in (0, 1):
            pad = [(0, 0), (0, 0)]
            pad[axis] = (radius_px + 1, radius_px)
            total = np.cumsum(np.pad(values, pad, mode="edge"), axis=axis, dtype=np.float64)
            width = 2 * radius_px + 1
            ahead, behind = (
                (total[width:], total[:-width]) if axis == 0 else (total[:, width:], total[:, :-width])
            )
            values = ((ahead - behind) / width).astype(np.float32)
    return values


def _smooth_three(values: Floats, times: int) -> Floats:
    third = np.float32(1 / 3)
    for _ in range(times):
        for axis in (0, 1):
            moved = np.moveaxis(values, axis, 0)
            total = np.empty_like(moved)
            total[1:-1] = moved[:-2] + moved[2:]
            total[0] = moved[0] + moved[min(1, len(moved) - 1)]
            total[-1] = moved[-1] + moved[max(-2, -len(moved))]
            total += moved
            total *= third
            values = np.moveaxis(total, 0, axis)
    return values


def flood(height_map: Floats, seeds: NDArray[np.int32], mask: Bools, levels: int = 32) -> NDArray[np.int32]:
    """Marker-controlled watershed: seeds grow over the mask, the highest values first.

    Parameters
    ----------
    height_map
        float32 (H, W); of a distance transform the lines run through the necks.
    seeds
        int32 (H, W), 0 where there is no seed.
    mask
        Where seeds may grow, bool (H, W).
    levels
        Steps of height; within one step seeds grow pixel by pixel, so that they meet halfway.

    Notes
    -----
    L. Vincent, P. Soille, IEEE PAMI 13 (1991) 583-598, doi 10.1109/34.87344, in quantized steps.
    """
    labels = np.where(mask, seeds, 0).astype(np.int32)
    inside = height_map[mask]
    if not inside.size:
        return labels
    steps = np.unique(np.quantile(inside, np.linspace(1, 0, levels)))[::-1]
    for level in steps:
        allowed = mask & (height_map >= level)
        while True:
            expanded = _expand(labels)
            new = allowed & (labels == 0) & (expanded > 0)
            if not new.any():
                break
            labels[new] = expanded[new]
    return labels


def _expand(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the largest label among the four neighbors."""
    expanded = np.zeros_like(labels)
    expanded[1:] = labels[:-1]
    np.maximum(expanded[:-1], labels[1:], out=expanded[:-1])
    np.maximum(expanded[:, 1:], labels[:, :-1], out=expanded[:, 1:])
    np.maximum(expanded[:, :-1], labels[:, 1:], out=expanded[:, :-1])
    return expanded


_STEPS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])


def trace_outlines(mask: Bools) -> Iterator[NDArray[np.intp]]:
    """Yield the closed outlines of a mask along the edges of its pixels: (n, 2) corners (y, x), without repetition.

    Outlines run clockwise around what is inside and counterclockwise around holes. Filling them by the even-odd rule
    gives the mask back exactly. Pixels that touch at a corner only have outlines of their own.
    """
    padded = np.pad(mask, 1)
    width = mask.shape[1] + 1
    inside = padded[1:-1, 1:-1]
    tails, directions = [], []
    for direction, (dy, dx), (ty, tx) in (
        (0, (-1, 0), (0, 0)),
        (1, (0, 1), (0, 1)),
        (2, (1, 0), (1, 1)),
        (3, (0, -1), (1, 0)),
    ):
        outside = ~padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        rows, columns = np.nonzero(inside & outside)
        tails.append((rows + ty) * width + columns + tx)
        directions.append(np.full(rows.size, direction))
    tail, direction_of = np.concatenate(tails), np.concatenate(directions)
    if not tail.size:
        return
    heads = tail + (_STEPS[direction_of] @ np.array([width, 1]))
    following = _following(tail, direction_of, heads, (mask.shape[0] + 1) * width)
    for loop in _loops(following):
        turns = direction_of[loop] != direction_of[np.roll(loop, 1)]
        corners = tail[loop[turns]]
        yield np.stack(np.divmod(corners, width), axis=1)


def _following(
    tail: NDArray[np.intp], direction: NDArray[np.intp], head: NDArray[np.intp], vertices: int
) -> NDArray[np.intp]:
    """Return the edge that follows each edge: to the right where there are two."""
    edge_at = np.full(vertices * 4, -1, np.intp)
    edge_at[tail * 4 + direction] = np.arange(tail.size)
    following = np.full(tail.size, -1, np.intp)
    for turn in (1, 0, 3):
        found = edge_at[head * 4 + (direction + turn) % 4]
        following = np.where(following < 0, found, following)
    return following


def _loops(following: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    successor = following.tolist()
    visited = bytearray(len(successor))
    for start in range(len(successor)):
        if visited[start]:
            continue
        loop, at = [], start
        while not visited[at]:
            visited[at] = 1
            loop.append(at)
            at = successor[at]
        yield np.array(loop, np.intp)


def ring_area(ring: NDArray[np.intp] | NDArray[np.float64]) -> float:
    """Return the area of a closed outline, positive where it runs clockwise in the image (y downwards)."""
    y, x = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
