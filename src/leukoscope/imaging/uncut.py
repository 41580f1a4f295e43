"""Crops of cells with their surroundings: of one scale and side, filled by reflection beyond the image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ASSUMED_SIDE_UM = 30.0
"""What the shorter side of an image of one cell is taken for where no scale is given."""


def place_uncut(
    rgb: NDArray[np.uint8],
    microns_per_pixel: float | None,
    *,
    target_microns_per_pixel: float,
    side_px: int,
) -> NDArray[np.uint8]:
    """Cut the middle of an image of one cell; an image of exactly the wanted size is returned as it is.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    microns_per_pixel
        Scale of ``rgb``; None takes its shorter side for ``ASSUMED_SIDE_UM``.
    target_microns_per_pixel, side_px
        See ``cut_crop``.
    """
    height, width = rgb.shape[:2]
    if height == width == side_px:
        return np.ascontiguousarray(rgb)
    scale = microns_per_pixel or ASSUMED_SIDE_UM / min(height, width)
    return cut_crop(
        rgb,
        (height / 2, width / 2),
        scale,
        target_microns_per_pixel=target_microns_per_pixel,
        side_px=side_px,
    )


def cut_crop(
    rgb: NDArray[np.uint8],
    center: tuple[float, float],
    microns_per_pixel: float,
    *,
    target_microns_per_pixel: float,
    side_px: int,
) -> NDArray[np.uint8]:
    """Cut a square around a place and bring it to a scale.

    The filter is Pillow's bilinear one, widened where the image shrinks.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    center
        (y, x) in px of ``rgb``, from the top left corner of the first pixel.
    microns_per_pixel
        Scale of ``rgb``, > 0.
    target_microns_per_pixel, side_px
        Scale and side of the crop, > 0.

    Returns
    -------
    numpy.ndarray
        uint8 (side_px, side_px, 3), C-contiguous.
    """
    side = side_px * target_microns_per_pixel / microns_per_pixel
    top, left = center[0] - side / 2, center[1] - side / 2
    y0, x0 = int(np.floor(top)) - 1, int(np.floor(left)) - 1
    y1, x1 = int(np.ceil(top + side)) + 1, int(np.ceil(left + side)) + 1
    height, width = rgb.shape[:2]
    window = rgb[_reflected(y0, y1, height)][:, _reflected(x0, x1, width)]
    box = (left - x0, top - y0, left - x0 + side, top - y0 + side)
    resized = Image.fromarray(window).resize((side_px, side_px), Image.Resampling.BILINEAR, box=box)
    return np.array(resized)


def _reflected(first: int, last: int, size: int) -> NDArray[np.intp]:
    """Return positions first..last - 1 of an axis, mirrored at its ends as often as needed."""
    place = np.arange(first, last) % (2 * size)
    return np.where(place < size, place, 2 * size - 1 - place).astype(np.intp)
