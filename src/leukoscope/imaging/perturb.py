"""Small changes of an image that leave its cell the same: turns, colors, focus, scale, place and compression.

Each function takes and returns uint8 RGB (H, W, 3) and changes no input. The ground of a cut-out cell is exact black
(all channels 0); changes of the cell keep it so.
"""

import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.imaging.canvas import rotate_quarter
from leukoscope.imaging.decode import decode_image

Rgb = NDArray[np.uint8]
Axis = Literal["horizontal", "vertical"]
Codec = Literal["JPEG", "WEBP"]
Fill = Literal["black", "edge"]
"""What comes into the frame from outside: black, or the outermost pixels again (for a cell in its surroundings)."""

_COVERED = 0.5
"""Share of a scaled pixel that the cell must cover; pixels with less are ground."""
_REACH = 4
"""Radius of the Gaussian kernel in standard deviations; 6e-5 of its weight lies outside."""


def turn(rgb: Rgb, quarters: int) -> Rgb:
    """Turn an image counter-clockwise by quarter turns; exact.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    quarters
        Any whole number; 4 is the identity.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3), or (W, H, 3) after an odd number.
    """
    return rotate_quarter(rgb, quarters)


def mirror(rgb: Rgb, axis: Axis) -> Rgb:
    """Mirror an image; exact.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    axis
        ``horizontal`` exchanges left and right, ``vertical`` top and bottom.

    Raises
    ------
    ValueError
        Another axis.
    """
    if axis not in ("horizontal", "vertical"):
        raise ValueError(f"axis {axis!r}: expected 'horizontal' or 'vertical'")
    return np.ascontiguousarray(rgb[:, ::-1] if axis == "horizontal" else rgb[::-1])


def scale_colors(rgb: Rgb, red: float = 1.0, green: float = 1.0, blue: float = 1.0) -> Rgb:
    """Multiply each channel by a gain, round to the nearest value and cut at 255.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    red, green, blue
        Gains, >= 0; 1 leaves the channel as it is. Three equal gains change the brightness.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3); black stays black.

    Raises
    ------
    ValueError
        A gain is negative or not finite.
    """
    gains = np.array([red, green, blue], dtype=np.float64)
    if not np.isfinite(gains).all() or (gains < 0).any():
        raise ValueError(f"gains of {red}, {green}, {blue}: expected finite numbers from 0")
    levels = np.rint(np.arange(256)[:, None] * gains).clip(0, 255).astype(np.uint8)
    return np.stack([levels[rgb[..., channel], channel] for channel in range(3)], axis=-1)


def blur_cell(rgb: Rgb, sigma_px: float) -> Rgb:
    """Blur the cell with a Gaussian; the black around it neither enters the cell nor becomes gray.

    The mean under the kernel is taken over the pixels of the cell only, so that its edge does not darken.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    sigma_px
        Standard deviation in px, >= 0; 0 changes nothing.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3); pixels that are 0 in all channels stay so.

    Raises
    ------
    ValueError
        ``sigma_px`` is negative or not finite.
    """
    if not 0 <= sigma_px < np.inf:
        raise ValueError(f"sigma_px = {sigma_px}: expected a finite number from 0")
    mask = _drawn(rgb)
    blurred = rgb.copy()
    if sigma_px == 0 or not mask.any():
        return blurred
    box = _box(mask)
    inside = mask[box]
    kernel = _gaussian(sigma_px)
    planes = np.concatenate([rgb[box], inside[..., None]], axis=2, dtype=np.float64)
    planes = _convolve(_convolve(planes, kernel, 0), kernel, 1)
    means = planes[..., :3] / np.where(inside, planes[..., 3], 1.0)[..., None]
    blurred[box] = np.where(inside[..., None], np.rint(means), 0).astype(np.uint8)
    return blurred


def scale_cell(rgb: Rgb, factor: float, fill: Fill = "black") -> Rgb:
    """Enlarge or shrink what an image shows around the image's center; the frame keeps its size.

    Bicubic. A pixel belongs to the scaled cell where the cell covers at least half of it; its color is the mean over
    the cell only, so that the edge does not darken. All other pixels are exactly black.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    factor
        Above 1 enlarges, and what leaves the frame is cut; 1 changes nothing.
    fill
        What a smaller image is surrounded with.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3).

    Raises
    ------
    ValueError
        ``factor`` is not a finite number above 0.
    """
    if not 0 < factor < np.inf:
        raise ValueError(f"factor = {factor}: expected a finite number above 0")
    if factor == 1:
        return rgb.copy()
    height, width = rgb.shape[:2]
    margin = max(0, int(np.ceil(max(height, width) * (1 / factor - 1) / 2)) + 2)
    source = _widened(rgb, margin if fill == "edge" else 0, fill)
    mask = _drawn(source)
    scaled_image = np.zeros_like(rgb)
    if not mask.any():
        return scaled_image
    rows, columns = _box(mask)
    top, bottom, start_y = _scaled_range(rows, len(source), height, factor)
    left, right, start_x = _scaled_range(columns, source.shape[1], width, factor)
    if top >= bottom or left >= right:
        return scaled_image
    size, matrix = (right - left, bottom - top), (1 / factor, 0.0, start_x, 0.0, 1 / factor, start_y)

    def scaled(plane: NDArray[Any]) -> NDArray[np.float32]:
        image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
        return np.asarray(image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))

    cover = scaled(mask)
    inside = cover >= _COVERED
    planes = np.stack([scaled(source[..., channel]) for channel in range(3)], axis=-1)
    colors = np.rint(planes / np.where(inside, cover, 1.0)[..., None]).clip(0, 255)
    scaled_image[top:bottom, left:right] = np.where(inside[..., None], colors, 0).astype(np.uint8)
    return scaled_image


def shift_cell(rgb: Rgb, down_px: int, right_px: int, fill: Fill = "black") -> Rgb:
    """Move what an image shows by whole pixels; exact.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3).
    down_px, right_px
        Negative numbers move up and left. What leaves the frame is cut.
    fill
        What comes in on the other side.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3).
    """
    height, width = rgb.shape[:2]
    margin = max(abs(down_px), abs(right_px))
    wide = _widened(rgb, margin, fill)
    top, left = margin - down_px, margin - right_px
    return np.ascontiguousarray(wide[top : top + height, left : left + width])


def crop_to_cell(rgb: Rgb) -> Rgb:
    """Cut away the black frame: the smallest image that contains every pixel that is not exactly black.

    Returns
    -------
    numpy.ndarray
        uint8 (h, w, 3); the image itself if all of it is black.
    """
    mask = _drawn(rgb)
    return np.ascontiguousarray(rgb[_box(mask)]) if mask.any() else rgb.copy()


def recompress(rgb: Rgb, codec: Codec, quality: int) -> Rgb:
    """Save an image with loss, with Pillow's other settings, and decode the file as any other image.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3), from 32 px a side, which is the least that the decoder takes.
    codec
        ``JPEG`` or ``WEBP``.
    quality
        1 to 100.

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3). The black ground may hold noise afterwards.

    Raises
    ------
    ValueError
        Another codec or quality.
    """
    if codec not in ("JPEG", "WEBP") or not 1 <= quality <= 100:
        raise ValueError(f"{codec} of quality {quality}: expected JPEG or WEBP and 1 to 100")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, codec, quality=quality)
    return decode_image(buffer.getvalue())


def _drawn(rgb: Rgb) -> NDArray[np.bool_]:
    """Return the pixels (H, W) that are not 0 in all channels."""
    drawn: NDArray[np.bool_] = (rgb[..., 0] | rgb[..., 1] | rgb[..., 2]) > 0
    return drawn


def _widened(rgb: Rgb, margin_px: int, fill: Fill) -> Rgb:
    if not margin_px:
        return rgb
    around = ((margin_px, margin_px), (margin_px, margin_px), (0, 0))
    return np.pad(rgb, around, "edge") if fill == "edge" else np.pad(rgb, around)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the bounding box of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _scaled_range(used: slice, source_px: int, result_px: int, factor: float) -> tuple[int, int, float]:
    """Return the part of the result, along one axis, that a part of the source is scaled to, and where it begins there.

    Both are scaled around their centers; positions are of the edges of pixels.
    """
    first = (used.start - source_px / 2) * factor + result_px / 2
    last = (used.stop - source_px / 2) * factor + result_px / 2
    start, stop = max(0, int(np.floor(first)) - 1), min(result_px, int(np.ceil(last)) + 1)
    return start, stop, (start - result_px / 2) / factor + source_px / 2


def _gaussian(sigma_px: float) -> NDArray[np.float64]:
    radius = int(np.ceil(_REACH * sigma_px))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def _convolve(planes: NDArray[np.float64], kernel: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Convolve along one axis; outside there are zeros."""
    radius, length = len(kernel) // 2, planes.shape[axis]
    around = [(0, 0)] * planes.ndim
    around[axis] = (radius, radius)
    padded = np.pad(planes, around)
    total = np.zeros_like(planes)
    for offset, weight in enumerate(kernel):
        part = padded[offset : offset + length] if axis == 0 else padded[:, offset : offset + length]
        total += weight * part
    return total
