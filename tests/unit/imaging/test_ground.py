"""Cut-out cells on black and white ground are distinguished from photographs."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from leukoscope.assets import other_images_directory, sample_cells_directory
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.ground import ground_of, white_to_black

FIELDS = Path(__file__).parents[2] / "data" / "smear_fields"
CELLS = sorted(sample_cells_directory().rglob("*.webp"))
PHOTOGRAPHS = sorted(other_images_directory().glob("*/*.jpg")) + sorted(
    path for path in FIELDS.iterdir() if path.suffix in (".jpg", ".webp")
)


def tight(rgb: np.ndarray) -> np.ndarray:
    seen = (rgb > 8).any(axis=2)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return rgb[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def on_white(rgb: np.ndarray) -> np.ndarray:
    return np.where((rgb == 0).all(axis=2, keepdims=True), 255, rgb).astype(np.uint8)


@pytest.mark.parametrize("path", CELLS[::6], ids=lambda path: path.stem)
def test_shipped_cells_are_cut_outs_on_black_and_white(path: Path) -> None:
    rgb = decode_image(path)
    for crop in (rgb, tight(rgb)):
        assert ground_of(crop) == "black"
        assert ground_of(on_white(crop)) == "white"
    back = white_to_black(on_white(rgb))
    assert np.array_equal(back, rgb)


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_photographs_are_not_cut_outs(path: Path) -> None:
    assert ground_of(decode_image(path)) == "photograph"


def test_the_view_through_an_eyepiece_is_a_photograph() -> None:
    rgb = decode_image(FIELDS / "BloodImage_00176.jpg")
    disk = Image.new("L", (rgb.shape[1], rgb.shape[0]))
    ImageDraw.Draw(disk).ellipse((90, 10, 550, 470), fill=255)
    assert ground_of(np.where(np.asarray(disk)[..., None] > 0, rgb, 0).astype(np.uint8)) == "photograph"


def test_an_empty_frame_is_black_or_a_photograph() -> None:
    assert ground_of(np.zeros((100, 120, 3), np.uint8)) == "black"
    for value in (128, 255):
        assert ground_of(np.full((100, 120, 3), value, np.uint8)) == "photograph"


def test_many_parts_on_white_are_a_photograph() -> None:
    image = Image.new("RGB", (400, 300), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for x in range(40, 360, 60):
        draw.ellipse((x, 100, x + 40, 140), fill=(200, 150, 150))
    assert ground_of(np.asarray(image)) == "photograph"


@pytest.mark.parametrize("quality", [75, 95])
def test_noise_of_compression_on_white_is_no_part_of_the_cell(quality: int) -> None:
    rgb = decode_image(CELLS[0])
    buffer = io.BytesIO()
    Image.fromarray(on_white(rgb)).save(buffer, "JPEG", quality=quality)
    lossy = decode_image(buffer.getvalue())
    assert ground_of(lossy) == "white"
    found, expected = (white_to_black(lossy) > 0).any(axis=2), (rgb > 0).any(axis=2)
    assert (found & expected).sum() / (found | expected).sum() > 0.95
