"""The one preprocessing of training and prediction: centered on the black canvas, resized as a whole.

Training and prediction call ``prepare_cell``, so that their pixels are bit-identical. Scaling to 0..1 and
normalization are inside the network's graph, not here.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.imaging.foreground import clean_ground

CANVAS_PX = 450
"""Side of the canonical canvas: the frame of C-NMC's training images, at their physical scale."""


CANVAS_UM = 0.0707
"""Micrometers per pixel of the canvas. The scale of C-NMC is not published: with this value its normal precursors are
12 um and its blasts 15 um wide in the median, like lymphoid cells on a dried smear."""


def place_on_canvas(rgb: NDArray[np.uint8], canvas_px: int = CANVAS_PX) -> NDArray[np.uint8]:
    """Center an image on the square black canvas; a larger image is cropped around the center.

    Where the difference is odd, the extra row or column of black (or of cropped pixels) is the last one.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    canvas_px
        Side of the canvas.

    Returns
    -------
    canvas
        uint8 (canvas_px, canvas_px, 3), C-contiguous. An image of that size is returned as it is, not copied.
    """
    height, width = rgb.shape[:2]
    if height == canvas_px and width == canvas_px:
        return np.ascontiguousarray(rgb)
    _, to_rows = _centered(height, canvas_px)
    _, to_columns = _centered(width, canvas_px)
    canvas = np.zeros((canvas_px, canvas_px, 3), np.uint8)
    canvas[to_rows, to_columns] = crop_to_canvas(rgb, canvas_px)
    return canvas


def crop_to_canvas(rgb: NDArray[np.uint8], canvas_px: int = CANVAS_PX) -> NDArray[np.uint8]:
    """Return the part of an image that the canvas shows, as a view: all of it where it is not larger."""
    height, width = rgb.shape[:2]
    from_rows, _ = _centered(height, canvas_px)
    from_columns, _ = _centered(width, canvas_px)
    return rgb[from_rows, from_columns]


def prepare_cell(rgb: NDArray[np.uint8], input_px: int, canvas_px: int = CANVAS_PX) -> NDArray[np.uint8]:
    """Prepare one image for the network: canvas, ground cleaned, then the canvas resized as a whole.

    The filter is Pillow's bilinear one, whose triangle is widened by the scale when shrinking (antialiased)
    and whose arithmetic is fixed-point, so results are equal on every machine.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    input_px
        Side of the network's input.
    canvas_px
        Side of the canvas.

    Returns
    -------
    cell
        uint8 (input_px, input_px, 3), C-contiguous.
    """
    return resize_canvas(clean_ground(place_on_canvas(rgb, canvas_px)), input_px)


def rotate_quarter(cells: NDArray[np.uint8], quarters: int) -> NDArray[np.uint8]:
    """Rotate prepared cells counter-clockwise by quarter turns; exact, for rotation averaging.

    Parameters
    ----------
    cells
        uint8 (..., S, S, 3).
    quarters
        Number of quarter turns; any integer.
    """
    return np.ascontiguousarray(np.rot90(cells, quarters, axes=(-3, -2)))


def resize_canvas(canvas: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Resize a square canvas, skipping black regions: half the time, bit-identical pixels.

    The last step of ``prepare_cell``. A canvas of the wanted size is returned as it is.
    Pillow's filter is separable, its first pass along the rows, rounded to uint8. Rows without foreground stay black
    in it, and then columns do in the second pass; both passes see whole rows and columns, so that no weight changes.
    """
    if side_px == len(canvas):
        return canvas
    resized = np.zeros((side_px, side_px, 3), np.uint8)
    top, bottom = _used_range(canvas.reshape(len(canvas), -1).max(axis=1))
    if top == bottom:
        return resized
    first = Image.fromarray(canvas[top:bottom]).resize((side_px, bottom - top), Image.Resampling.BILINEAR)
    wide = np.asarray(first)
    left, right = _used_range(wide.reshape(len(wide), -1).max(axis=0).reshape(-1, 3).max(axis=1))
    if left == right:
        return resized
    tall = np.zeros((len(canvas), right - left, 3), np.uint8)
    tall[top:bottom] = wide[:, left:right]
    second = Image.fromarray(tall).resize((right - left, side_px), Image.Resampling.BILINEAR)
    resized[:, left:right] = np.asarray(second)
    return resized


def _used_range(values: NDArray[np.uint8]) -> tuple[int, int]:
    """Return the half-open range from the first to the last value that is not 0; (0, 0) where all are."""
    used = np.flatnonzero(values)
    return (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)


def _centered(size: int, canvas_px: int) -> tuple[slice, slice]:
    """Return the slices along one axis: of the image, and of the canvas."""
    if size <= canvas_px:
        start = (canvas_px - size) // 2
        return slice(0, size), slice(start, start + size)
    start = (size - canvas_px) // 2
    return slice(start, start + canvas_px), slice(0, canvas_px)
