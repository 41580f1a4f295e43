import math

import numpy as np
import pytest

from leukoscope.imaging.uncut import cut_crop


def test_a_crop_has_the_wanted_scale_and_center() -> None:
    rgb = np.zeros((400, 300, 3), np.uint8)
    rgb[150:250, 60:160] = 255  # 10 um at 0.1 um a pixel, middle at (200, 110)
    crop = cut_crop(rgb, (200, 110), 0.1, target_microns_per_pixel=0.125, side_px=192)
    assert crop.shape == (192, 192, 3)
    rows, columns = np.nonzero(crop[..., 0] > 127)
    assert math.isclose(rows.size**0.5, 10 / 0.125, abs_tol=1.0)
    assert math.isclose(rows.mean(), 95.5, abs_tol=0.6) and math.isclose(columns.mean(), 95.5, abs_tol=0.6)


@pytest.mark.parametrize("center", [(3.0, 4.0), (20.0, 57.0), (50.0, 0.0)])
def test_beyond_the_image_it_is_mirrored(center: tuple[float, float]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (52, 60, 3), dtype=np.uint8)
    crop = cut_crop(rgb, center, 0.2, target_microns_per_pixel=0.2, side_px=40)
    padded = np.pad(rgb, ((40, 40), (40, 40), (0, 0)), mode="symmetric")
    top, left = int(center[0]) + 20, int(center[1]) + 20
    np.testing.assert_array_equal(crop, padded[top : top + 40, left : left + 40])


def test_an_image_smaller_than_the_crop_is_mirrored_as_often_as_needed() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    crop = cut_crop(rgb, (3.5, 2.5), 1.0, target_microns_per_pixel=1.0, side_px=64)
    padded = np.pad(rgb, ((64, 64), (64, 64), (0, 0)), mode="symmetric")
    # The corner of a crop of even side around a half pixel lies between two pixels: one of the four shifts is it.
    means = [padded[y : y + 64, x : x + 64].mean() for y in (35, 36) for x in (34, 35)]
    assert min(means) - 2 <= crop.mean() <= max(means) + 2
    assert crop.flags.writeable
