"""Outlines drawn over a field, and small pictures of cells."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from leukoscope.smear.exports import color_of
from leukoscope.smear.records import FieldRecord

NUCLEUS_COLOR = "#f2b705"
BORDER_COLOR = "#6b7280"


def draw_overlay(overview: NDArray[np.uint8], record: FieldRecord) -> NDArray[np.uint8]:
    """Draw the outlines of cells (color of their kind; gray where the border cuts them) and nuclei, with numbers.

    Parameters
    ----------
    overview
        uint8 (h, w, 3): the field at any size.
    record
        Of the same field.
    """
    image = Image.fromarray(overview)
    if not record.cells or not record.width_px:
        return overview
    # Lines are drawn at twice the size and shrunk: Pillow does not smooth them itself.
    twice = 2 if max(image.size) <= 1600 else 1
    image = image.resize((image.width * twice, image.height * twice), Image.Resampling.BICUBIC)
    factor = image.width / record.width_px
    width = max(2, round(max(image.size) / 320))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(14, round(max(image.size) / 60)))
    for cell in record.cells:
        color = BORDER_COLOR if cell.touches_border else color_of(cell.kind)
        for rings, line in ((cell.nucleus_outline, NUCLEUS_COLOR), (cell.outline, color)):
            for ring in rings:
                points = [(x * factor, y * factor) for y, x in ring]
                draw.line([*points, points[0], points[1]], fill=line, width=width, joint="curve")
        _draw_number(draw, font, cell.cell, (cell.box[1] * factor, cell.box[0] * factor), color, image.size)
    if twice > 1:
        image = image.resize((image.width // twice, image.height // twice), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _draw_number(  # noqa: PLR0917
    draw: ImageDraw.ImageDraw,
    font: "ImageFont.FreeTypeFont | ImageFont.ImageFont",
    number: int,
    corner: tuple[float, float],
    color: str,
    size: tuple[int, int],
) -> None:
    text = str(number)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = 4
    x = min(max(0.0, corner[0]), size[0] - (right - left) - 2 * pad)
    y = min(max(0.0, corner[1] - (bottom - top) - 2 * pad), size[1] - (bottom - top) - 2 * pad)
    draw.rounded_rectangle((x, y, x + right - left + 2 * pad, y + bottom - top + 2 * pad), 4, fill=color)
    draw.text((x + pad - left, y + pad - top), text, fill="white", font=font)


def data_uri(rgb: NDArray[np.uint8], side_px: int, quality: int = 82) -> str:
    """Return a JPEG of at most ``side_px`` as a data URI, to stand inside a page."""
    image = Image.fromarray(rgb)
    image.thumbnail((side_px, side_px))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
