"""Colors of classes: readable on their background, distinguishable, and safe in a style sheet."""

import re

import pytest

from leukoscope.core.classes import BINARY, PALETTE, POSITIVE_PALETTE, SYMBOLS, ClassSchema
from leukoscope.imaging.symbols import OUTLINES
from leukoscope.web.class_style import (
    DARK_GROUND,
    DARK_SHARE,
    LIGHT_GROUND,
    LIGHT_SHARE,
    mix,
    render_class_style,
)

NAMES = [f"kind_{number}" for number in range(len(PALETTE) + len(POSITIVE_PALETTE))]
SCHEMA = ClassSchema.of_names(NAMES, positive=NAMES[: len(POSITIVE_PALETTE)])


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance."""

    def luminance(color: str) -> float:
        parts = [part / 255 for part in bytes.fromhex(color[1:])]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    first, second = sorted((luminance(one), luminance(other)), reverse=True)
    return (first + 0.05) / (second + 0.05)


@pytest.mark.parametrize("schema", [BINARY, SCHEMA])
def test_every_decision_is_readable_on_its_background(schema: ClassSchema) -> None:
    for decision in (*schema.decisions, "of_another_model"):
        light, dark = schema.colors(decision)
        for color, ground, share in ((light, LIGHT_GROUND, LIGHT_SHARE), (dark, DARK_GROUND, DARK_SHARE)):
            assert contrast(color, ground) >= 4.5
            assert contrast(color, mix(color, ground, share)) >= 4.5, (decision, color)


def test_the_style_sheet_has_every_decision_once_per_background() -> None:
    style = render_class_style(SCHEMA)
    for decision in SCHEMA.decisions:
        found = re.findall(rf"--class-{decision}:(#[0-9a-f]{{6}});", style)
        assert found == [SCHEMA.colors(decision)[dark] for dark in (0, 1, 1, 0)]
        assert f".badge--{decision}," in style
    assert style.count("{") == style.count("}") and "<" not in style


def test_every_symbol_has_an_outline_that_can_be_drawn() -> None:
    assert set(SYMBOLS) < set(OUTLINES)
    drawn = {(outline.path, outline.filled) for outline in OUTLINES.values()}
    assert len(drawn) == len(OUTLINES)
    for outline in OUTLINES.values():
        assert all(0 <= number <= 18 for points in outline.polygons for point in points for number in point)
