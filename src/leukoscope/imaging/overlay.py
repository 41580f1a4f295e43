"""Draw an attribution as a heat map over its cell, the legend, and sheets of many results.

A heat map shows only the attribution: no smoothing beyond the enlargement to the canvas, no stand-in
where there is no map.
"""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import combining, normalize

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import EngineError, UsageError
from leukoscope.core.outputs import GENERATOR
from leukoscope.core.terms import RESEARCH_USE, Status
from leukoscope.imaging.canvas import CANVAS_PX, place_on_canvas
from leukoscope.imaging.foreground import cell_mask
from leukoscope.imaging.symbols import OUTLINES

OPACITY = 0.6
"""Share of the heat map's color where the attribution is strong; the rest is the cell."""

MAX_SHEET_ITEMS = 500
"""Images on one contact sheet: 500 are a picture of about 60 million pixels."""

# Stained cells are purple on black, so the scale runs through blue, green and yellow: hues the stain does not have.
_ANCHORS = ((33, 36, 122), (0, 107, 142), (24, 160, 120), (150, 203, 60), (255, 240, 110))
_FULL_OPACITY_AT = 0.25  # weaker values fade into the cell

_INK, _FAINT, _PAPER, _CARD, _LINE = "#1c2430", "#5a6675", "#f3f5f8", "#ffffff", "#d5dbe3"
_SMALLEST_SIDE_PX = 136  # of the square of the canvas that a sheet shows
_TILE_PX, _PAD_PX, _GAP_PX = 208, 14, 18
_CARD_WIDTH_PX = 2 * _TILE_PX + 3 * _PAD_PX
_TEXT_HEIGHT_PX = 148
_CARD_HEIGHT_PX = _TILE_PX + _PAD_PX + _TEXT_HEIGHT_PX


@dataclass(frozen=True)
class SheetItem:
    """One image on a contact sheet.

    Attributes
    ----------
    source
        Name of the image; shortened in the middle where it is too long.
    decision
        The class called, ``uncertain`` or ``rejected``.
    probability
        Of the positive group, or of the likeliest class where none is positive, 0 to 1; None for a rejected image.
    cell
        uint8 (H, W, 3); None where the file could not be read.
    attribution
        float (h, w), not negative; None where no map was computed.
    reason
        Why the image was rejected or the cell is uncertain; empty otherwise.
    """

    source: str
    decision: str
    probability: float | None = None
    cell: NDArray[np.uint8] | None = None
    attribution: NDArray[np.floating] | None = None
    reason: str = ""
    classes: ClassSchema = BINARY
    probability_of: str = "blast"


def heat_map_overlay(
    rgb: NDArray[np.uint8], attribution: NDArray[np.floating], opacity: float = OPACITY
) -> NDArray[np.uint8]:
    """Draw an attribution over its image.

    The map is enlarged bilinearly to the image and divided by its maximum, so that the strongest color is the
    strongest place *of this image*: colors of different images cannot be compared. Where the map is 0 the image
    stays as it is; a map of zeros only leaves the whole image as it is.

    Parameters
    ----------
    rgb
        uint8 (H, W, 3), the canvas image the attribution belongs to.
    attribution
        float (h, w), not negative.
    opacity
        Share of the color where the map is strong, 0 to 1.

    Returns
    -------
    overlay
        uint8 (H, W, 3).

    Raises
    ------
    EngineError
        The attribution has a wrong shape, or a value that is negative or not finite.
    """
    if attribution.ndim != 2 or not attribution.size:
        raise EngineError(
            f"attribution of shape {attribution.shape}, expected (h, w); run `leukoscope bundle verify`"
        )
    if not np.isfinite(attribution).all() or attribution.min() < 0:
        raise EngineError(
            "the attribution holds negative or non-finite values; run `leukoscope bundle verify`"
        )
    peak = float(attribution.max())
    if peak == 0:
        return rgb.copy()
    relative = Image.fromarray((attribution / peak).astype(np.float32))
    height, width = rgb.shape[:2]
    strength = np.asarray(relative.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    color = _color_table()[np.rint(strength * 255).astype(np.uint8)]
    share = (opacity * np.minimum(strength / _FULL_OPACITY_AT, 1))[..., None]
    blended: NDArray[np.uint8] = np.rint(rgb * (1 - share) + color * share).astype(np.uint8)
    return blended


def color_legend(width_px: int = 320, height_px: int = 44) -> NDArray[np.uint8]:
    """Draw the color scale of the heat maps with its words.

    Returns
    -------
    legend
        uint8 (height_px, width_px, 3), on white.
    """
    legend = Image.new("RGB", (width_px, height_px), _CARD)
    _draw_legend(legend, 0, 0, width_px, height_px)
    return np.array(legend)


def encode_png(rgb: NDArray[np.uint8], compress_level: int = 4) -> bytes:
    """Encode an image as PNG; lossless at every level, 0 (large, fast) to 9."""
    stream = io.BytesIO()
    info = PngInfo()
    info.add_text("Software", GENERATOR)
    Image.fromarray(rgb).save(stream, "PNG", compress_level=compress_level, pnginfo=info)
    return stream.getvalue()


def contact_sheet(
    items: Sequence[SheetItem],
    columns: int = 4,
    title: str = "leukoscope results",
    notice: str = RESEARCH_USE,
) -> NDArray[np.uint8]:
    """Draw one sheet of results: each image next to its heat map, with decision, probability, source and reason.

    Cells are all shown at one scale, so that their sizes can be compared. A rejected image that reaches farther out
    than the cells is shown as the whole canvas, on which larger images are cropped.

    Parameters
    ----------
    items
        1 to ``MAX_SHEET_ITEMS``, drawn in their order, row by row.
    columns
        Cards in a row; fewer are used where there are fewer items.
    title, notice
        Shown above the cards; the notice also below.

    Returns
    -------
    sheet
        uint8 (H, W, 3); see ``encode_png``.

    Raises
    ------
    UsageError
        No item, too many items, or no column.
    """
    if not 1 <= len(items) <= MAX_SHEET_ITEMS:
        raise UsageError(
            f"{len(items)} images on a sheet, the limit is {MAX_SHEET_ITEMS}; draw several sheets"
        )
    if columns < 1:
        raise UsageError(f"{columns} columns, at least 1 is needed")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    width = max(columns * (_CARD_WIDTH_PX + _GAP_PX) + _GAP_PX, 2 * _CARD_WIDTH_PX)
    head, foot = 128, 44
    sheet = Image.new("RGB", (width, head + rows * (_CARD_HEIGHT_PX + _GAP_PX) + foot), _PAPER)
    _draw_head(sheet, items, title, notice)
    side = _common_side(items)
    for number, item in enumerate(items):
        row, column = divmod(number, columns)
        left = _GAP_PX + column * (_CARD_WIDTH_PX + _GAP_PX)
        _draw_card(sheet, item, left, head + row * (_CARD_HEIGHT_PX + _GAP_PX), side)
    draw = ImageDraw.Draw(sheet)
    note = f"{notice}  Cells are drawn at one scale; rejected images that do not fit, as the whole canvas."
    draw.text((_GAP_PX, sheet.height - foot + 8), _shorten(note, 14, width - 2 * _GAP_PX), _FAINT, _font(14))
    return np.array(sheet)


@lru_cache(maxsize=1)
def _color_table() -> NDArray[np.float64]:
    """Return 256 colors (256, 3), 0 to 255, between the anchors; their lightness rises steadily."""
    anchors = np.array(_ANCHORS, np.float64)
    places, targets = np.linspace(0, 1, len(anchors)), np.linspace(0, 1, 256)
    return np.stack([np.interp(targets, places, channel) for channel in anchors.T], axis=1)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _text_width(text: str, size: int) -> float:
    return float(_font(size).getlength(text))


def _shorten(text: str, size: int, width: float, middle: bool = False) -> str:
    """Return the text, cut with an ellipsis at the end (or in the middle) where it is wider than ``width``."""
    text = _printable(text)
    if _text_width(text, size) <= width:
        return text
    low, high = 0, len(text)  # the largest number of characters that fits, by bisection
    while low < high:
        keep = (low + high + 1) // 2
        if _text_width(_cut(text, keep, middle), size) <= width:
            low = keep
        else:
            high = keep - 1
    return _cut(text, low, middle)


def _printable(text: str) -> str:
    """Return the text in ASCII on one line: Pillow's own font has no other letters; accents are dropped."""
    letters = (letter for letter in normalize("NFKD", text) if not combining(letter))
    return " ".join(
        "".join(
            letter if " " <= letter <= "~" else "?" if letter.isprintable() else " " for letter in letters
        ).split()
    )


def _cut(text: str, keep: int, middle: bool) -> str:
    if not middle:
        return text[:keep].rstrip() + "..."
    tail = keep - keep // 3  # the end of a path tells more than its beginning
    return text[: keep // 3] + "..." + (text[-tail:] if tail else "")


def _wrap(text: str, size: int, width: float, lines: int) -> list[str]:
    """Break the text at spaces into at most ``lines`` lines; the last one is shortened."""
    broken: list[str] = []
    words = text.split()
    while words and len(broken) < lines - 1:
        count = 1
        while count < len(words) and _text_width(" ".join(words[: count + 1]), size) <= width:
            count += 1
        broken.append(_shorten(" ".join(words[:count]), size, width))
        words = words[count:]
    return [*broken, _shorten(" ".join(words), size, width)] if words else broken


def _common_side(items: Sequence[SheetItem]) -> int:
    """Return the side of the centered square that holds the foreground of every classified cell, with a margin."""
    scored = [item.cell for item in items if item.cell is not None and item.decision != Status.REJECTED]
    return max((_needed_side(place_on_canvas(cell)) for cell in scored), default=_SMALLEST_SIDE_PX)


def _needed_side(canvas: NDArray[np.uint8]) -> int:
    """Return the side of the centered square that holds the foreground, with a margin."""
    rows, columns = np.nonzero(cell_mask(canvas))
    if not rows.size:
        return _SMALLEST_SIDE_PX
    center = (canvas.shape[0] - 1) / 2
    reach = max(float(np.abs(rows - center).max()), float(np.abs(columns - center).max()))
    return min(max(2 * round(reach + 8), _SMALLEST_SIDE_PX), CANVAS_PX)


def _draw_head(sheet: Image.Image, items: Sequence[SheetItem], title: str, notice: str) -> None:
    draw = ImageDraw.Draw(sheet)
    legend_width = 300
    room = sheet.width - legend_width - 3 * _GAP_PX
    draw.text((_GAP_PX, 18), _shorten(title, 28, room), _INK, _font(28))
    counts = Counter(item.decision for item in items)
    order = items[0].classes.decisions if items else ()
    summary = ", ".join(f"{counts[decision]} {decision}" for decision in order if counts[decision])
    images = "1 image" if len(items) == 1 else f"{len(items)} images"
    draw.text((_GAP_PX, 56), _shorten(f"{images}: {summary}", 17, room), _INK, _font(17))
    draw.text((_GAP_PX, 82), _shorten(notice, 15, room), _FAINT, _font(15))
    _draw_legend(sheet, sheet.width - legend_width - _GAP_PX, 30, legend_width, 44)
    draw.line((_GAP_PX, 110, sheet.width - _GAP_PX, 110), _LINE)


def _draw_legend(image: Image.Image, left: int, top: int, width: int, height: int) -> None:
    draw = ImageDraw.Draw(image)
    bar = max(height - 24, 4)
    scale = _color_table()[np.linspace(0, 255, width).astype(int)]
    strip = np.broadcast_to(np.rint(scale).astype(np.uint8), (bar, width, 3))
    image.paste(Image.fromarray(np.ascontiguousarray(strip)), (left, top))
    draw.rectangle((left, top, left + width - 1, top + bar - 1), outline=_LINE)
    words = ("weak", "influence, relative within each cell", "strong")
    for text, place, anchor in zip(words, (0, width / 2, width - 1), ("la", "ma", "ra"), strict=True):
        draw.text(
            (left + place, top + bar + 5), _shorten(text, 13, 0.66 * width), _FAINT, _font(13), anchor=anchor
        )


def _draw_card(sheet: Image.Image, item: SheetItem, left: int, top: int, side: int) -> None:
    draw = ImageDraw.Draw(sheet)
    color = item.classes.colors(item.decision)[0]
    right, bottom = left + _CARD_WIDTH_PX - 1, top + _CARD_HEIGHT_PX - 1
    draw.rounded_rectangle((left, top, right, bottom), 8, _CARD, _LINE)
    _draw_pictures(sheet, item, left + _PAD_PX, top + _PAD_PX, side)
    x, y = left + _PAD_PX, top + _PAD_PX + _TILE_PX + 12
    room = _CARD_WIDTH_PX - 2 * _PAD_PX
    _draw_symbol(draw, item.classes.symbol(item.decision), color, x, y + 1)
    score = (
        "" if item.probability is None else f"P({item.probability_of}) {_probability_text(item.probability)}"
    )
    score_width = _text_width(score, 16)
    words = _shorten(item.classes.title(item.decision), 19, room - 28 - score_width - 12)
    draw.text((x + 28, y - 1), words, color, _font(19))
    draw.text((x + room, y + 1), score, _INK, _font(16), anchor="ra")
    if item.probability is not None:
        draw.rectangle((x, y + 29, x + room - 1, y + 35), "#e6eaf0")
        draw.rectangle((x, y + 29, x + round(item.probability * (room - 1)), y + 35), color)
    draw.text((x, y + 44), _shorten(item.source, 15, room, middle=True), _INK, _font(15))
    for number, line in enumerate(_wrap(item.reason, 14, room, 3)):
        draw.text((x, y + 67 + 19 * number), line, _FAINT, _font(14))


def _probability_text(probability: float) -> str:
    """Return three decimals; no probability is drawn as certain."""
    if probability < 0.001:
        return "< 0.001"
    return "> 0.999" if probability > 0.999 else f"{probability:.3f}"


def _draw_pictures(sheet: Image.Image, item: SheetItem, left: int, top: int, side: int) -> None:
    second = left + _TILE_PX + _PAD_PX
    if item.cell is None:
        _draw_empty(sheet, left, top, "not readable")
    else:
        canvas = place_on_canvas(item.cell)
        if item.decision == Status.REJECTED and _needed_side(canvas) > side:
            side = CANVAS_PX
        sheet.paste(_tile(canvas, side), (left, top))
        if item.attribution is not None:
            overlay = heat_map_overlay(canvas, item.attribution)
            sheet.paste(_tile(overlay, side), (second, top))
    if item.cell is None or item.attribution is None:
        _draw_empty(sheet, second, top, "no heat map")


def _tile(canvas: NDArray[np.uint8], side: int) -> Image.Image:
    shown = place_on_canvas(canvas, side)
    return Image.fromarray(shown).resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)


def _draw_empty(sheet: Image.Image, left: int, top: int, words: str) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + _TILE_PX - 1, top + _TILE_PX - 1), "#eef1f5", _LINE)
    draw.text((left + _TILE_PX / 2, top + _TILE_PX / 2), words, _FAINT, _font(15), anchor="mm")


def _draw_symbol(draw: ImageDraw.ImageDraw, symbol: str, color: str, x: int, y: int) -> None:
    """Draw the shape of a decision, 18 px."""
    outline = OUTLINES[symbol]
    if not outline.polygons:
        fill = color if outline.filled else None
        draw.ellipse((x + 1, y + 1, x + 17, y + 17), fill=fill, outline=color, width=4)
    for points in outline.polygons:
        placed = [(x + px, y + py) for px, py in points]
        if len(points) == 2:
            draw.line(placed, color, 4)
        elif outline.filled:
            draw.polygon(placed, fill=color)
        else:
            draw.polygon(placed, outline=color, width=3)
