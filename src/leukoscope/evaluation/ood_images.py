"""Out-of-distribution images: synthetic ones, and real cells of other data sets cut out on black."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

from leukoscope.imaging.canvas import CANVAS_PX

Rgb = NDArray[np.uint8]

CELL_RADIUS_PX = 95
"""Of the discs on black: an area of 28,000 px, well inside that of C-NMC cells."""


def make_ood_images(count: int, seed: int = 0) -> dict[str, list[Rgb]]:
    """Make noise, text, photograph-like pictures and flat colors, whole and as discs on black, and blank frames.

    The discs pass every input check of size and background; only novelty can reject them.

    Parameters
    ----------
    count
        Images of each kind, except the five blank frames.

    Returns
    -------
    images
        By kind, uint8 (450, 450, 3).
    """
    kinds: dict[str, Callable[[np.random.Generator], Rgb]] = {
        "noise": _noise,
        "text": _text,
        "shapes": _shapes,
        "flat color": _flat,
    }
    rng = np.random.default_rng(seed)
    images: dict[str, list[Rgb]] = {}
    for name, make in kinds.items():
        whole = [make(rng) for _ in range(count)]
        images[name] = whole
        images[f"{name}, disc on black"] = [disc_on_black(image) for image in whole]
    images["blank"] = [np.full((CANVAS_PX, CANVAS_PX, 3), gray, np.uint8) for gray in (0, 3, 8, 128, 255)]
    return images


def disc_on_black(rgb: Rgb, radius_px: int = CELL_RADIUS_PX) -> Rgb:
    """Keep a disc around the center and blacken the rest."""
    height, width = rgb.shape[:2]
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 <= radius_px**2
    return np.where(inside[..., None], rgb, 0).astype(np.uint8)


def cut_out_cell(rgb: Rgb, zoom: float = 1.0) -> Rgb:
    """Cut a stained cell out of its background with a simple threshold.

    The nucleus is darker in green than halfway between two Otsu thresholds, the nearest large part of
    it to the center is taken, filled and widened by 12 px.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3), one cell near the center.
    zoom
        Factor on the size afterwards.

    Returns
    -------
    image
        uint8; all black where nothing was found.
    """
    green = np.asarray(Image.fromarray(rgb[..., 1]).filter(ImageFilter.GaussianBlur(2)))
    upper = _otsu(green)
    nucleus = ndimage.binary_opening(green <= (upper + _otsu(green[green <= upper])) // 2, iterations=2)
    parts, count = ndimage.label(nucleus)
    if not count:
        return np.zeros_like(rgb)
    numbers = np.arange(1, count + 1)
    centers = np.array(ndimage.center_of_mass(nucleus, parts, numbers))
    distances = np.hypot(*(centers - np.array(nucleus.shape) / 2).T)
    best = numbers[np.argmax(np.bincount(parts.ravel())[1:] / (1 + 0.02 * distances))]
    kept = ndimage.binary_fill_holes(ndimage.binary_dilation(parts == best, iterations=12))
    cut = np.where(kept[..., None], rgb, 0).astype(np.uint8)
    if zoom == 1.0:
        return cut
    size = (round(cut.shape[1] * zoom), round(cut.shape[0] * zoom))
    return np.array(Image.fromarray(cut).resize(size, Image.Resampling.BILINEAR))


def _otsu(values: Rgb) -> int:
    """Otsu's threshold: the cut of the histogram with the largest variance between its sides."""
    histogram = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below, moment = histogram.cumsum(), (histogram * np.arange(256)).cumsum()
    weight = below * (below[-1] - below)
    between = np.divide(
        (moment[-1] * below / below[-1] - moment) ** 2, weight, out=np.zeros(256), where=weight > 0
    )
    return int(np.argmax(between))


def _noise(rng: np.random.Generator) -> Rgb:
    side = int(rng.choice([CANVAS_PX, CANVAS_PX // 3, CANVAS_PX // 15]))
    channels = int(rng.choice([1, 3]))
    small = np.broadcast_to(rng.integers(0, 256, (side, side, channels), dtype=np.uint8), (side, side, 3))
    image = Image.fromarray(np.ascontiguousarray(small))
    return np.array(image.resize((CANVAS_PX, CANVAS_PX), Image.Resampling.BICUBIC))


def _text(rng: np.random.Generator) -> Rgb:
    ink, paper = ("white", "black") if rng.random() < 0.5 else ("black", "white")
    image = Image.new("RGB", (CANVAS_PX, CANVAS_PX), paper)
    pen = ImageDraw.Draw(image)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    for row in range(15, CANVAS_PX - 20, 22):
        pen.text((15, row), "".join(rng.choice(letters, 55)), fill=ink, font=ImageFont.load_default(16))
    return np.array(image)


def _shapes(rng: np.random.Generator) -> Rgb:
    top, bottom = rng.random(3) * 200, rng.random(3) * 200
    fall = np.linspace(0, 1, CANVAS_PX)[:, None, None]
    ground = np.broadcast_to(top * (1 - fall) + bottom * fall, (CANVAS_PX, CANVAS_PX, 3))
    image = Image.fromarray(np.ascontiguousarray(ground.astype(np.uint8)))
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        (x0, x1), (y0, y1) = np.sort(rng.integers(0, CANVAS_PX, (2, 2)), axis=1).tolist()
        red, green, blue = rng.integers(0, 256, 3).tolist()
        draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        draw((x0, y0, x1 + 1, y1 + 1), fill=(red, green, blue))
    grain = rng.normal(size=(CANVAS_PX, CANVAS_PX, 3)) * 8
    return np.clip(np.asarray(image.filter(ImageFilter.GaussianBlur(1))) + grain, 0, 255).astype(np.uint8)


def _flat(rng: np.random.Generator) -> Rgb:
    color = rng.integers(60, 220, 3)
    return np.broadcast_to(color.astype(np.uint8), (CANVAS_PX, CANVAS_PX, 3)).copy()
