"""Crops of the cells of a field: cut out on black, or uncut with their surroundings."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from leukoscope.imaging.uncut import cut_crop
from leukoscope.smear.calibrate import Calibration
from leukoscope.smear.finder import FoundCell
from leukoscope.smear.illumination import WHITE
from leukoscope.smear.picture import Picture


def crop_cell(
    picture: Picture,
    cell: FoundCell,
    calibration: Calibration,
    target_microns_per_pixel: float,
    side_px: int,
    *,
    cut_out: bool,
) -> NDArray[np.uint8]:
    """Return a square around a cell at a given scale, with the light of the field made even.

    Parameters
    ----------
    picture, cell, calibration
        The field, the cell in px of the field, and light and scale of the field.
    target_microns_per_pixel, side_px
        Scale and side of the crop, > 0.
    cut_out
        The cell alone, on black; else with its surroundings, the background white.

    Returns
    -------
    numpy.ndarray
        uint8 (side_px, side_px, 3).
    """
    half = side_px * target_microns_per_pixel / calibration.scale.value / 2
    middle = ((cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2)
    want = tuple(round(middle[axis] + sign * half) for sign in (-1, 1) for axis in (0, 1))
    box = (
        max(0, want[0]), max(0, want[1]),
        min(picture.height_px, want[2]), min(picture.width_px, want[3]),
    )  # fmt: skip
    size = (side_px, side_px)
    whole = np.full((want[2] - want[0], want[3] - want[1], 3), WHITE, np.uint8)
    inner = np.s_[box[0] - want[0] : box[2] - want[0], box[1] - want[1] : box[3] - want[1]]
    whole[inner] = calibration.light.normalize(picture.read(box), box)
    crop = np.array(Image.fromarray(whole).resize(size, Image.Resampling.BILINEAR))
    if cut_out:
        mask = np.zeros(whole.shape[:2], np.uint8)
        y0, x0, y1, x1 = cell.box
        top, left, bottom, right = max(y0, box[0]), max(x0, box[1]), min(y1, box[2]), min(x1, box[3])
        mask[top - want[0] : bottom - want[0], left - want[1] : right - want[1]] = (
            255 * cell.cell[top - y0 : bottom - y0, left - x0 : right - x0]
        )
        inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)) >= 128
        crop[~inside] = 0
    return crop


def crop_surroundings(
    picture: Picture,
    cell: FoundCell,
    microns_per_pixel: float,
    target_microns_per_pixel: float,
    side_px: int,
) -> NDArray[np.uint8]:
    """Return a square around a cell at a given scale, its pixels unchanged but for the resizing.

    Parameters
    ----------
    picture, cell
        The field, and the cell in px of the field.
    microns_per_pixel
        Scale of the field, > 0.
    target_microns_per_pixel, side_px
        Scale and side of the crop, > 0.

    Returns
    -------
    numpy.ndarray
        uint8 (side_px, side_px, 3), filled by reflection beyond the border of the field.
    """
    half = side_px * target_microns_per_pixel / microns_per_pixel / 2 + 2
    y, x = (cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2
    box = (
        max(0, int(y - half)), max(0, int(x - half)),
        min(picture.height_px, int(np.ceil(y + half))), min(picture.width_px, int(np.ceil(x + half))),
    )  # fmt: skip
    return cut_crop(
        picture.read(box),
        (y - box[0], x - box[1]),
        microns_per_pixel,
        target_microns_per_pixel=target_microns_per_pixel,
        side_px=side_px,
    )
