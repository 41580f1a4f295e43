"""Draw docs/images/smear.png: the test fields as `leukoscope smear` reads them, outlines and counts.

python tools/smear_picture.py docs/images/smear.png
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import leukoscope
from leukoscope.imaging.decode import decode_image
from leukoscope.smear.drawing import draw_overlay

FIELDS = Path(__file__).parents[1] / "tests" / "data" / "smear_fields"
NAMES = ("BloodImage_00125.jpg", "BloodImage_00176.jpg", "image-102.webp")
HEIGHT_PX, GAP_PX, CAPTION_PX = 420, 12, 56


def draw() -> Image.Image:
    """Return the fields side by side, each over its caption."""
    panels = []
    font = ImageFont.load_default(size=19)
    for reading in leukoscope.read_smear([FIELDS / name for name in NAMES]):
        record = reading.record
        overlay = Image.fromarray(np.asarray(draw_overlay(decode_image(Path(record.image)), record)))
        overlay = overlay.resize(
            (round(overlay.width * HEIGHT_PX / overlay.height), HEIGHT_PX), Image.Resampling.LANCZOS
        )
        panel = Image.new("RGB", (overlay.width, HEIGHT_PX + CAPTION_PX), "white")
        panel.paste(overlay)
        called = (cell.kind if cell.decision == "called" else cell.decision for cell in record.cells)
        counts = Counter(name.replace("_", " ") for name in called)
        lines = (
            ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "no white cell",
            f"{record.scale.value:.3f} um per pixel, from {record.scale.source.replace('_', ' ')}",
        )
        ImageDraw.Draw(panel).multiline_text((4, HEIGHT_PX + 4), "\n".join(lines), fill="#222222", font=font)
        panels.append(panel)
    width = sum(panel.width for panel in panels) + GAP_PX * (len(panels) - 1)
    sheet = Image.new("RGB", (width, HEIGHT_PX + CAPTION_PX), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + GAP_PX
    return sheet


if __name__ == "__main__":
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / target.name
        draw().save(part, optimize=True)
        part.replace(target)
