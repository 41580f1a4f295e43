"""Real and drawn fields for the tests of the smear package."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

FIELDS = Path(__file__).parent / "data" / "smear_fields"
TWO_CELLS = FIELDS / "BloodImage_00176.jpg"
ONE_CELL = FIELDS / "BloodImage_00125.jpg"
OTHER_STAIN = FIELDS / "image-102.webp"


def draw_field(
    height: int = 480,
    width: int = 640,
    *,
    red_cell_px: float = 36.0,
    white_cells: tuple[tuple[float, float], ...] = ((0.5, 0.5),),
    red_cells: bool = True,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Draw a field: red cells on a grid, white cells at (y, x) shares of the image; no overlaps."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (236, 232, 226))
    draw = ImageDraw.Draw(image)
    places = [(y * height, x * width) for y, x in white_cells]
    unit = red_cell_px / 7.2
    if red_cells:
        step = red_cell_px * 1.45
        for y in np.arange(step / 2, height, step):
            for x in np.arange(step / 2, width, step):
                if all(math.hypot(y - a, x - b) > 9.5 * unit for a, b in places):
                    _disc(draw, y, x, red_cell_px * rng.uniform(0.97, 1.03) / 2, (203, 152, 150))
    for y, x in places:
        _disc(draw, y, x, 6.0 * unit, (176, 180, 214))
        _disc(draw, y, x, 4.0 * unit, (92, 58, 138))
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(red_cell_px / 36)), np.float64)
    noisy = blurred + rng.normal(0, 1.5, blurred.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _disc(draw: ImageDraw.ImageDraw, y: float, x: float, radius: float, color: tuple[int, int, int]) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def save(path: Path, rgb: NDArray[np.uint8], **options: object) -> Path:
    """Write an image and return its path."""
    Image.fromarray(rgb).save(path, **options)
    return path
