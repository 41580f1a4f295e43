"""Heat maps show the attribution and nothing else; sheets show every result in full."""

import io
import re
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leukoscope.assets import sample_cells_directory
from leukoscope.core.classes import BINARY
from leukoscope.core.errors import EngineError, UsageError
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.overlay import (
    MAX_SHEET_ITEMS,
    SheetItem,
    color_legend,
    contact_sheet,
    encode_png,
    heat_map_overlay,
)

CELL = decode_image(next(sample_cells_directory().glob("fold_0/hem/*.webp")))


def luminance(rgb: np.ndarray) -> np.ndarray:
    linear = (np.asarray(rgb, float) / 255) ** 2.2
    return linear @ (0.2126, 0.7152, 0.0722)


def test_zero_attribution_leaves_the_cell() -> None:
    assert np.array_equal(heat_map_overlay(CELL, np.zeros((10, 10), np.float32)), CELL)


def test_only_the_neighborhood_of_the_attribution_changes() -> None:
    attribution = np.zeros((10, 10), np.float32)
    attribution[2, 7] = 1e-6  # small in itself, the strongest of this map
    changed = (heat_map_overlay(CELL, attribution) != CELL).any(axis=2)
    rows, columns = np.nonzero(changed)
    # Pixel (2, 7) covers 90..134 x 315..359; bilinear enlargement reaches half a pixel (22 px) further each way.
    assert rows.min() >= 67
    assert rows.max() <= 157
    assert columns.min() >= 292
    assert columns.max() <= 382
    assert changed[112, 337]


def test_strength_does_not_depend_on_the_unit_of_the_map() -> None:
    attribution = np.random.default_rng(1).random((10, 10)).astype(np.float32)
    first, second = heat_map_overlay(CELL, attribution), heat_map_overlay(CELL, attribution * 1024)
    assert np.array_equal(first, second)


def test_opacity() -> None:
    attribution = np.ones((5, 5), np.float32)
    assert np.array_equal(heat_map_overlay(CELL, attribution, opacity=0), CELL)
    assert np.unique(heat_map_overlay(CELL, attribution, opacity=1).reshape(-1, 3), axis=0).shape == (1, 3)


def test_colormap_is_monotone_in_lightness() -> None:
    legend = color_legend(512, 60)[10]
    assert (np.diff(luminance(legend[2:-2:16])) > 0).all()
    assert luminance(legend[-3]) > 20 * luminance(legend[2])


@pytest.mark.parametrize("value", [-1e-3, np.nan, np.inf])
def test_impossible_values_are_refused(value: float) -> None:
    attribution = np.ones((10, 10))
    attribution[3, 3] = value
    with pytest.raises(EngineError):
        heat_map_overlay(CELL, attribution)


@pytest.mark.parametrize("shape", [(10,), (1, 10, 10), (0, 10)])
def test_impossible_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=re.escape(str(shape))):
        heat_map_overlay(CELL, np.ones(shape))


def test_png_is_lossless() -> None:
    assert np.array_equal(np.array(Image.open(io.BytesIO(encode_png(CELL)))), CELL)


def item(decision: str, **more: object) -> SheetItem:
    attribution = np.ones((10, 10), np.float32)
    known = {"source": "cell.bmp", "probability": 0.5, "cell": CELL, "attribution": attribution}
    return SheetItem(decision=decision, **{**known, **more})  # type: ignore[arg-type]


def test_decisions_differ_without_color() -> None:
    gray = [luminance(contact_sheet([item(decision, probability=None)])) for decision in BINARY.decisions]
    card = [(sheet[340:] < 0.4) for sheet in gray]
    for first in range(4):
        for second in range(first):
            assert np.count_nonzero(card[first] ^ card[second]) > 60


def test_grid_expands_with_the_items() -> None:
    one, four, five = (contact_sheet([item("blast")] * count, columns=4).shape for count in (1, 4, 5))
    assert four[1] > one[1]
    assert four[0] == one[0]
    assert five[0] > four[0]


def test_missing_images_are_marked_as_missing() -> None:
    sheet = contact_sheet([item("rejected", cell=None, attribution=None, probability=None)])
    assert luminance(sheet).min(initial=1) < 0.1  # words
    assert (sheet == 0).all(axis=2).mean() < 0.001  # no black frame where there is no cell


def drawn_cell(sheet: np.ndarray, column: int) -> np.ndarray:
    left = 18 + 14 + column * (2 * 208 + 3 * 14 + 18)
    return sheet[128 + 14 : 128 + 14 + 208, left : left + 208]


def test_a_rejected_cell_has_the_scale_of_the_classified_ones() -> None:
    sheet = contact_sheet([item("blast"), item("rejected", probability=None)])
    assert np.array_equal(drawn_cell(sheet, 0), drawn_cell(sheet, 1))
    photograph = np.full((450, 450, 3), 200, np.uint8)
    photograph[:, 225:] = 90
    photograph[200:250] = 30
    large = contact_sheet(
        [item("blast"), item("rejected", cell=photograph, attribution=None, probability=None)]
    )
    assert np.array_equal(drawn_cell(large, 0), drawn_cell(sheet, 0))
    whole = np.asarray(Image.fromarray(photograph).resize((208, 208), Image.Resampling.LANCZOS))
    assert np.array_equal(drawn_cell(large, 1), whole)


class DrawnText(NamedTuple):
    """A text that Pillow was asked to draw, and where it begins and ends."""

    text: str
    left: float
    right: float


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[DrawnText]:
    """What is drawn as text, by listening at Pillow's own method."""
    texts: list[DrawnText] = []
    original = ImageDraw.ImageDraw.text

    def record(self, place, text, *rest, **more):
        box = self.textbbox(
            place, text, font=rest[1] if len(rest) > 1 else more["font"], anchor=more.get("anchor")
        )
        texts.append(DrawnText(text, box[0], box[2]))
        return original(self, place, text, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    return texts


CARD_LEFT, CARD_RIGHT = 18, 18 + 2 * 208 + 3 * 14


def test_text_never_leaves_its_card(drawn: list[DrawnText]) -> None:
    long = "W" * 400
    sheet = contact_sheet(
        [item("uncertain", source=f"/{long}/x.bmp", reason=f"{long} and then some {long}")],
        title=long,
        notice=long,
    )
    assert drawn
    assert min(text.left for text in drawn) >= 0
    assert max(text.right for text in drawn) <= sheet.shape[1]
    assert sum(text.right > CARD_RIGHT for text in drawn) <= 6  # head, legend and foot only


def test_shortened_names_keep_their_end(drawn: list[DrawnText]) -> None:
    contact_sheet([item("blast", source="folder/" * 40 + "UID_H10_33_2_hem.bmp")])
    (short,) = (text for text in drawn if text.text.startswith("folder"))
    assert short.text.endswith("H10_33_2_hem.bmp")
    assert "..." in short.text
    assert CARD_LEFT < short.left < short.right < CARD_RIGHT


def test_letters_the_font_lacks_are_replaced(drawn: list[DrawnText]) -> None:
    contact_sheet([item("blast", source="Zellen müller\t細胞\n.bmp")])
    assert "Zellen muller ?? .bmp" in [text.text for text in drawn]


@pytest.mark.parametrize(("probability", "shown"), [(0.0, "< 0.001"), (1.0, "> 0.999"), (0.98765, "0.988")])
def test_no_probability_is_drawn_as_certain(drawn: list[DrawnText], probability: float, shown: str) -> None:
    contact_sheet([item("blast", probability=probability)])
    assert len([text for text in drawn if text.text.endswith(shown)]) == 1


@pytest.mark.parametrize(("count", "columns"), [(0, 4), (MAX_SHEET_ITEMS + 1, 4), (1, 0)])
def test_impossible_sheets_are_refused(count: int, columns: int) -> None:
    with pytest.raises(UsageError):
        contact_sheet([item("blast")] * count, columns=columns)


def test_notice_is_drawn() -> None:
    shown = contact_sheet([item("blast")])
    assert RESEARCH_USE
    assert not np.array_equal(shown, contact_sheet([item("blast")], notice=""))
