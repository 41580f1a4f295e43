"""The foreground and its components, against drawings whose answer is known and against SciPy."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from scipy import ndimage

from leukoscope.assets import sample_cells_directory
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.foreground import (
    FOREGROUND_ABOVE,
    cell_mask,
    component_areas,
    count_components,
    foreground_box,
)

CELLS = sorted(sample_cells_directory().rglob("*.webp"))


def test_threshold_is_on_the_brightest_channel() -> None:
    rgb = np.zeros((1, 5, 3), np.uint8)
    rgb[0, 1, 0] = rgb[0, 2, 1] = rgb[0, 3, 2] = FOREGROUND_ABOVE + 1
    rgb[0, 4] = FOREGROUND_ABOVE
    assert cell_mask(rgb).tolist() == [[False, True, True, True, False]]


@pytest.mark.parametrize("quality", [75, 85, 95])
def test_compression_noise_on_black_hardly_changes_the_area(quality: int) -> None:
    for path in CELLS[::12]:
        exact = decode_image(path)
        stream = io.BytesIO()
        Image.fromarray(exact).save(stream, "JPEG", quality=quality)
        area = np.count_nonzero(cell_mask(exact))
        assert np.count_nonzero(cell_mask(decode_image(stream.getvalue()))) == pytest.approx(area, rel=0.06)


def test_real_cells_are_one_component() -> None:
    assert [path.name for path in CELLS if count_components(cell_mask(decode_image(path))) != 1] == []


def test_debris_is_not_counted_but_a_second_cell_is() -> None:
    mask = np.zeros((100, 100), bool)
    mask[10:60, 10:60] = True
    mask[80, 80] = True
    assert count_components(mask) == 1
    mask[70:90, 70:90] = True
    assert count_components(mask) == 2
    assert component_areas(mask).tolist() == [2500, 400]


def test_diagonal_neighbors_are_connected() -> None:
    assert count_components(np.eye(40, dtype=bool)) == 1
    assert count_components(np.eye(40, dtype=bool)[::-1]) == 1


def test_rows_do_not_touch_around_the_border() -> None:
    mask = np.zeros((3, 7), bool)
    mask[0, -1] = mask[1, 0] = True
    assert component_areas(mask).tolist() == [1, 1]


def test_spiral_is_one_component() -> None:
    rows, columns = np.mgrid[-60:60, -60:60]
    angle, radius = np.arctan2(rows, columns), np.hypot(rows, columns)
    mask = np.sin(angle + radius / 2) > 0.3
    _labels, count = ndimage.label(mask, np.ones((3, 3)))
    assert component_areas(mask).size == count


def test_empty() -> None:
    assert component_areas(np.zeros((20, 20), bool)).size == 0
    assert count_components(np.zeros((20, 20), bool)) == 0


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_small_masks_agree_with_scipy(mask: np.ndarray) -> None:
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    assert component_areas(mask).tolist() == sorted(np.bincount(labels.ravel())[1:].tolist(), reverse=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_noise_agrees_with_scipy(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((90, 110)) < density
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    assert component_areas(mask).tolist() == sorted(np.bincount(labels.ravel())[1:].tolist(), reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)),
        elements=st.sampled_from([0, 8, 9]),
    )
)
def test_box_is_that_of_the_mask(rgb: np.ndarray) -> None:
    rows, columns = np.nonzero(cell_mask(rgb))
    expected = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) if rows.size else None
    assert foreground_box(rgb) == expected
