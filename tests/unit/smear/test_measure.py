import math

import numpy as np
import pytest

from leukoscope.smear.finder import Instance
from leukoscope.smear.measure import MEASUREMENTS, count_lobes, measure_cell, shape_of, touching_cells


def test_a_disc_is_measured_in_micrometers() -> None:
    y, x = np.mgrid[:121, :121]
    shape = shape_of(np.hypot(y - 60, x - 60) <= 50, 0.1)
    assert shape["area_um2"] == pytest.approx(math.pi * 25, rel=0.01)
    assert shape["perimeter_um"] == pytest.approx(2 * math.pi * 5, rel=0.06)
    assert shape["circularity"] > 0.88
    assert shape["eccentricity"] < 0.1
    assert shape["solidity"] > 0.97
    assert shape["axis_major_length_um"] == pytest.approx(10, rel=0.02)


def test_an_ellipse_has_its_eccentricity() -> None:
    y, x = np.mgrid[:101, :161]
    shape = shape_of(((y - 50) / 30) ** 2 + ((x - 80) / 60) ** 2 <= 1, 1.0)
    assert shape["eccentricity"] == pytest.approx(math.sqrt(0.75), abs=0.01)
    assert shape["axis_minor_length_um"] == pytest.approx(60, rel=0.02)


@pytest.mark.parametrize("lobes", [1, 2, 3, 4])
def test_lobes_are_counted(lobes: int) -> None:
    y, x = np.mgrid[:60, : 40 * lobes + 20]
    mask = np.zeros(y.shape, np.bool_)
    for number in range(lobes):
        mask |= np.hypot(y - 30, x - (30 + 40 * number)) <= 16
    mask |= (abs(y - 30) <= 2) & (x > 20) & (x < 40 * lobes)
    assert count_lobes(mask, 0.1) == lobes


def test_every_measurement_has_its_name_and_none_is_invented() -> None:
    mask = np.ones((20, 20), np.bool_)
    cell = Instance((0, 0, 20, 20), mask, np.zeros_like(mask), 1.0, False)
    values = measure_cell(cell, np.zeros((20, 20, 3), np.float32), 0.2)
    assert set(values) == set(MEASUREMENTS)
    assert values["nucleus_area_um2"] is None and values["nucleus_cell_area_ratio"] is None
    assert values["cell_area_um2"] == pytest.approx(16)


def disk(y: int, x: int, radius: int) -> Instance:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    mask = rows**2 + columns**2 <= radius**2
    return Instance((y - radius, x - radius, y + radius + 1, x + radius + 1), mask, mask, 1.0, False)


def test_cells_touch_if_their_outlines_meet_not_only_their_boxes() -> None:
    cells = [disk(50, 50, 20), disk(50, 91, 20), disk(86, 86, 20), disk(50, 200, 20), disk(50, 243, 20)]
    assert touching_cells(cells[:2], 1.5) == {0, 1}
    assert touching_cells([cells[0], cells[2]], 1.5) == set()  # the corners of the boxes overlap
    assert touching_cells(cells[3:], 1.5) == set()
    assert touching_cells(cells[3:], 3.5) == {0, 1}
    assert touching_cells(cells, 1.5) == {0, 1, 2}  # the third lies 36 px below the second: they overlap
    assert touching_cells(cells[:1], 1.5) == touching_cells([], 1.5) == set()
