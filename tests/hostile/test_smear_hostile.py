"""Images that are no fields, or bad ones: the right reason, and no invented cells."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from leukoscope.core.terms import Reason
from leukoscope.smear.reading import read_smear
from leukoscope.smear.tiling import tiles
from smear_fields import ONE_CELL, draw_field, save

Rgb = NDArray[np.uint8]


def gray(rgb: Rgb) -> Rgb:
    return np.repeat(rgb.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)


def noise() -> Rgb:
    return np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)


def stripes() -> Rgb:
    y, x = np.mgrid[:400, :500]
    wave = np.stack([127 + 120 * np.sin(x / (17 + 3 * c) + y / 23) for c in range(3)], axis=-1)
    return wave.astype(np.uint8)


REJECTED: dict[str, tuple[Callable[[], Rgb], set[Reason]]] = {
    "black": (lambda: np.zeros((300, 400, 3), np.uint8), {Reason.BLANK}),
    "white": (lambda: np.full((300, 400, 3), 250, np.uint8), {Reason.BLANK}),
    "gray": (lambda: gray(draw_field()), {Reason.UNSUPPORTED_MODE}),
    "noise": (noise, {Reason.NOT_A_SMEAR, Reason.NO_SCALE}),
    "stripes": (stripes, {Reason.NOT_A_SMEAR, Reason.NO_SCALE}),
    "low magnification": (lambda: draw_field(red_cell_px=7, white_cells=()), {Reason.WRONG_SCALE}),
    "one white cell without red ones": (lambda: draw_field(red_cells=False), {Reason.NO_SCALE}),
}


@pytest.mark.parametrize("name", REJECTED)
def test_non_field_images_have_the_right_reason(tmp_path: Path, name: str) -> None:
    make, reasons = REJECTED[name]
    record = next(iter(read_smear(save(tmp_path / "x.png", make())))).record
    assert record.reason in reasons
    assert record.cells == () and record.message


@pytest.mark.parametrize("red_cell_px", [24.0, 36.0, 72.0])
def test_only_red_cells_give_a_scale_and_no_cells(tmp_path: Path, red_cell_px: float) -> None:
    rgb = draw_field(red_cell_px=red_cell_px, white_cells=())
    record = next(iter(read_smear(save(tmp_path / "x.png", rgb)))).record
    assert record.reason is None and record.cells == ()
    assert record.scale is not None and record.scale.value == pytest.approx(7.2 / red_cell_px, rel=0.06)


@pytest.mark.parametrize("given", [0.02, 0.6])
def test_a_wrong_pixel_size_gives_a_warning(tmp_path: Path, given: float) -> None:
    path = save(tmp_path / "x.png", draw_field(red_cell_px=36))
    record = next(iter(read_smear(path, microns_per_pixel=given))).record
    assert record.reason is Reason.WRONG_SCALE and record.cells == ()


def test_a_blurred_field_gives_a_warning(tmp_path: Path) -> None:
    image = Image.open(ONE_CELL).filter(ImageFilter.GaussianBlur(22))
    record = next(
        iter(read_smear(save(tmp_path / "x.png", np.asarray(image)), microns_per_pixel=0.078))
    ).record
    assert record.reason is not None or any("focus" in warning for warning in record.warnings)


def test_a_cell_on_a_tile_line_is_counted_once(tmp_path: Path) -> None:
    height, width, scale = 600, 2600, 0.2
    lines = sorted({tile.core[1] for tile in tiles(height, width, scale)} - {0})
    assert lines
    places = tuple((0.5, (line + offset) / width) for line, offset in zip(lines, (0, 3), strict=False))
    rgb = draw_field(height, width, red_cell_px=36, white_cells=places)
    record = next(iter(read_smear(save(tmp_path / "x.png", rgb), microns_per_pixel=scale))).record
    assert len(record.cells) == len(places)
    for cell in record.cells:
        assert cell.measurements["cell_area_um2"] == pytest.approx(np.pi * 36, rel=0.15)


def test_a_giant_strip_is_read(tmp_path: Path) -> None:
    rgb = np.concatenate([draw_field(120, 6000, white_cells=((0.5, 0.5),))] * 4, axis=1)
    record = next(iter(read_smear(save(tmp_path / "x.png", rgb)))).record
    assert record.reason is None and len(record.cells) == 4


def test_a_bad_file_does_not_affect_the_others(tmp_path: Path) -> None:
    save(tmp_path / "a.png", draw_field())
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    (tmp_path / "c.jpg").write_bytes(b"")
    save(tmp_path / "d.png", draw_field())
    readings = [reading.record for reading in read_smear(tmp_path)]
    assert [record.reason for record in readings] == [None, Reason.UNREADABLE, Reason.EMPTY_FILE, None]
    assert [len(record.cells) for record in readings] == [1, 0, 0, 1]


def test_a_turned_phone_picture_has_its_cells_in_the_upright_image(tmp_path: Path) -> None:
    rgb = draw_field(white_cells=((0.25, 0.7),))
    stored = np.ascontiguousarray(np.rot90(rgb))  # shown turned back by orientation 6
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "x.jpg"
    Image.fromarray(stored).save(path, quality=95, exif=exif)
    record = next(iter(read_smear(path))).record
    assert (record.height_px, record.width_px) == rgb.shape[:2]
    (cell,) = record.cells
    assert cell.box[0] <= 120 <= cell.box[2] and cell.box[1] <= 448 <= cell.box[3]
