"""Measures of a cell image against hand-made images and plain NumPy."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter

from leukoscope.assets import other_images_directory, sample_cells_directory
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import NINE_SCALARS, Descriptors, describe_cell

CELLS = sorted(sample_cells_directory().rglob("*.webp"))[::10]


def test_fields_and_scalars() -> None:
    names = [field.name for field in dataclasses.fields(Descriptors)]
    assert tuple(names[:9]) == NINE_SCALARS
    assert names[9:] == ["focus", "border_contact_px", "foreground_share", "components"]


def test_rectangle() -> None:
    rgb = np.zeros((450, 450, 3), np.uint8)
    rgb[100:140, 200:260] = (200, 100, 50)
    rgb[100:120, 200:260] = (100, 100, 150)
    found = describe_cell(rgb)
    assert (found.area_px, found.box_height_px, found.box_width_px) == (2400, 40, 60)
    assert (found.mean_r, found.mean_g, found.mean_b) == (150, 100, 100)
    assert (found.std_r, found.std_g, found.std_b) == (50, 0, 50)
    assert found.foreground_share == 2400 / 450**2
    assert (found.border_contact_px, found.components) == (0, 1)


@pytest.mark.parametrize("path", CELLS, ids=lambda path: path.stem)
def test_real_cell_against_plain_numpy(path) -> None:
    rgb = decode_image(path)
    mask = rgb.max(axis=2) > 8
    rows, columns = np.nonzero(mask)
    found = describe_cell(rgb)
    assert found.area_px == mask.sum()
    assert found.box_height_px == np.ptp(rows) + 1
    assert found.box_width_px == np.ptp(columns) + 1
    assert [found.mean_r, found.mean_g, found.mean_b] == pytest.approx(rgb[mask].mean(axis=0).tolist())
    assert [found.std_r, found.std_g, found.std_b] == pytest.approx(rgb[mask].std(axis=0).tolist())


@pytest.mark.parametrize("path", CELLS, ids=lambda path: path.stem)
def test_focus_falls_with_blur_and_ignores_light_and_place(path) -> None:
    cell = decode_image(path)
    mask = cell.max(axis=2, keepdims=True) > 8
    cell = (cell // 2 + 20) * mask
    sharp = describe_cell(cell).focus
    blurred = [
        describe_cell(np.array(Image.fromarray(cell).filter(ImageFilter.GaussianBlur(radius))) * mask).focus
        for radius in (1, 2, 4)
    ]
    assert sharp > blurred[0] > blurred[1] > blurred[2] > 0
    assert describe_cell((cell + 30) * mask).focus == pytest.approx(sharp)
    assert describe_cell(2 * cell).focus == pytest.approx(sharp)
    assert describe_cell(np.rot90(cell)).focus == pytest.approx(sharp)


def test_cut_off_cell_touches_the_border() -> None:
    rgb = np.zeros((450, 450, 3), np.uint8)
    rgb[:30, 100:150] = 120
    rgb[200:210, 445:] = 120
    found = describe_cell(rgb)
    assert found.border_contact_px == 50 + 10
    assert found.components == 2


def test_contact_with_the_border_of_a_smaller_image_is_seen() -> None:
    y, x = np.mgrid[-100:100, -100:100]
    disc = np.where((y**2 + x**2 < 80**2)[..., None], 120, 0).astype(np.uint8).repeat(3, axis=2)
    assert describe_cell(disc).border_contact_px == 0
    assert describe_cell(disc[:, :120]).border_contact_px == np.count_nonzero(disc[:, 119, 0]) > 140
    assert describe_cell(disc[60:]).border_contact_px == np.count_nonzero(disc[60, :, 0]) > 130
    wide = np.pad(
        disc[:150], ((0, 0), (300, 300), (0, 0))
    )  # only the sides inside the canvas are the image's own
    assert describe_cell(wide).border_contact_px == np.count_nonzero(disc[149, :, 0])


@pytest.mark.parametrize("path", CELLS, ids=lambda path: path.stem)
def test_whole_cells_without_margin_are_distinguished_from_cut_off_ones(path) -> None:
    cell = decode_image(path)
    rows, columns = np.nonzero(cell.max(axis=2) > 8)
    tight = cell[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    whole, cut = describe_cell(tight), describe_cell(tight[:, : tight.shape[1] * 4 // 5])
    assert whole.border_contact_px <= 63 < cut.border_contact_px


def test_photograph_fills_the_canvas() -> None:
    found = describe_cell(decode_image(next(other_images_directory().glob("bccd/*.jpg"))))
    assert found.foreground_share > 0.99
    assert found.border_contact_px == 4 * 450 - 4


@pytest.mark.parametrize("side", [40, 450, 600])
def test_blank_is_all_zero(side: int) -> None:
    assert set(dataclasses.astuple(describe_cell(np.zeros((side, side, 3), np.uint8)))) == {0}


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (2, 2), (3, 3)])
def test_tiny_and_flat_foreground_has_no_nan(shape: tuple[int, int]) -> None:
    rgb = np.zeros((450, 450, 3), np.uint8)
    rgb[200 : 200 + shape[0], 200 : 200 + shape[1]] = 77
    found = describe_cell(rgb)
    assert np.isfinite(dataclasses.astuple(found)).all()
    assert found.area_px == shape[0] * shape[1]
    assert found.focus == 0


def test_values_are_plain_python_numbers() -> None:
    for value in dataclasses.astuple(describe_cell(decode_image(CELLS[0]))):
        assert type(value) in (int, float)
