"""What must hold for every image on its way to the network."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps

from leukoscope.imaging.canvas import CANVAS_PX, place_on_canvas, prepare_cell, rotate_quarter
from leukoscope.imaging.decode import decode_image

SIDES = st.integers(32, 700)


def noise(height: int, width: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES)
def test_canvas_is_centered_and_black_around(height: int, width: int) -> None:
    rgb = np.full((height, width, 3), 255, np.uint8)
    canvas = place_on_canvas(rgb)
    assert canvas.shape == (CANVAS_PX, CANVAS_PX, 3)
    assert canvas.flags.c_contiguous
    for axis, size in enumerate((height, width)):
        filled = np.flatnonzero(canvas.any(axis=(1 - axis, 2)))
        assert filled.size == min(size, CANVAS_PX)
        before, after = filled[0], CANVAS_PX - 1 - filled[-1]
        assert 0 <= after - before <= 1


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES)
def test_center_of_the_image_stays_in_the_center(height: int, width: int) -> None:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[height // 2, width // 2] = 200
    row, column = np.argwhere(place_on_canvas(rgb)[..., 0])[0]
    assert abs(row - CANVAS_PX // 2) <= 1
    assert abs(column - CANVAS_PX // 2) <= 1


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES)
def test_placing_twice_changes_nothing(height: int, width: int) -> None:
    once = place_on_canvas(noise(height, width))
    assert np.array_equal(place_on_canvas(once), once)


def test_frames_of_600_are_cropped_around_the_center() -> None:
    rgb = noise(600, 600)
    assert np.array_equal(place_on_canvas(rgb), rgb[75:525, 75:525])


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.sampled_from([64, 224, 300, 450, 512]))
def test_prepared_cell_is_what_the_graph_takes(height: int, width: int, input_px: int) -> None:
    cell = prepare_cell(noise(height, width), input_px)
    assert cell.shape == (input_px, input_px, 3)
    assert cell.dtype == np.uint8
    assert cell.flags.c_contiguous


@settings(max_examples=40, deadline=None)
@given(st.integers(32, 450), st.integers(32, 450), st.sampled_from([224, 300]))
def test_black_stays_exactly_black(height: int, width: int, input_px: int) -> None:
    cell = prepare_cell(np.full((height, width, 3), 255, np.uint8), input_px)
    scale = CANVAS_PX / input_px
    margin = int(((CANVAS_PX - height) // 2 - scale) / scale)  # the filter reaches one output pixel
    if margin > 0:
        assert not cell[:margin].any()
        assert not cell[-margin:].any()
    assert not prepare_cell(np.zeros((height, width, 3), np.uint8), input_px).any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 449),
    st.integers(1, 449),
    st.integers(0, 449),
    st.integers(0, 449),
    st.sampled_from([64, 224, 260, 300, 451, 512]),
    st.sampled_from([1, 3, 256]),
)
def test_resizing_without_the_black_gives_the_pixels_of_resizing_all(
    height: int, width: int, top: int, left: int, input_px: int, above: int
) -> None:
    canvas = np.zeros((450, 450, 3), np.uint8)
    window = canvas[top : top + height, left : left + width]
    window[:] = np.random.default_rng(height).integers(0, above, window.shape, np.uint8)
    whole = Image.fromarray(canvas).resize((input_px, input_px), Image.Resampling.BILINEAR)
    assert np.array_equal(prepare_cell(canvas, input_px), np.asarray(whole))


def test_full_size_is_not_resampled() -> None:
    rgb = noise(450, 450)
    assert np.array_equal(prepare_cell(rgb, 450), rgb)


def test_uniform_color_stays_uniform_and_detail_is_averaged() -> None:
    assert np.unique(prepare_cell(np.full((450, 450, 3), 91, np.uint8), 300)).tolist() == [91]
    stripes = np.zeros((450, 450, 3), np.uint8)
    stripes[::2] = 200
    assert (
        np.abs(prepare_cell(stripes, 150).astype(int)[2:-2] - 100).max() < 40
    )  # aliasing would give 0 or 200


@settings(max_examples=20, deadline=None)
@given(st.integers(-9, 9), st.sampled_from([64, 225]))
def test_quarter_turns(quarters: int, side: int) -> None:
    cells = noise(3 * side, side).reshape(3, side, side, 3)
    turned = rotate_quarter(cells, quarters)
    assert turned.flags.c_contiguous
    assert np.array_equal(turned[1], np.rot90(cells[1], quarters))
    assert np.array_equal(rotate_quarter(turned, -quarters), cells)


def test_quarter_turn_and_preparation_commute() -> None:
    rgb = noise(450, 450)
    difference = rotate_quarter(prepare_cell(rgb, 300), 1).astype(int) - prepare_cell(np.rot90(rgb), 300)
    assert np.abs(difference).max() <= 1  # rounding between the two passes of the resize


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(32, 50), st.integers(32, 50)).flatmap(lambda side: arrays(np.uint8, (*side, 3))),
    st.sampled_from(["BMP", "PNG", "TIFF", "WEBP"]),
)
def test_lossless_formats_give_the_pixels_back(rgb: np.ndarray, kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode_image(stream.getvalue()), rgb)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("big_endian", [False, True])
def test_orientation_as_pillow_applies_it(kind: str, orientation: int, big_endian: bool) -> None:
    rgb = np.kron(noise(6, 9), np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif.endian = ">" if big_endian else "<"
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(stream) as image:
        expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(decode_image(stream.getvalue()), expected)
