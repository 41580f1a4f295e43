"""The shipped finder: cells at any scale and turn, nothing where nothing is, and its decoder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukoscope.core.errors import UsageError
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.instances import find_peaks
from leukoscope.smear.finder_network import LEAST_PART_UM2, NetworkFinder, load_finder
from leukoscope.smear.raster import label_parts
from leukoscope.smear.reading import read_smear
from leukoscope.smear.red_cells import RED_CELL_UM
from leukoscope.smear.scale import ScaleSource
from smear_fields import draw_field

FIELD = Path(__file__).parents[2] / "data" / "smear_fields" / "BloodImage_00176.jpg"
BOXES = [(34, 107, 234, 324), (102, 306, 246, 460)]  # two cells that touch
MICRONS_PER_PIXEL = 0.078


@pytest.fixture(scope="module")
def finder() -> NetworkFinder:
    return load_finder()


def iou(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, height) * max(0, width)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def test_touching_cells_come_apart(finder: NetworkFinder) -> None:
    cells = finder.find(decode_image(FIELD), MICRONS_PER_PIXEL)
    assert len(cells) == 2
    for box in BOXES:
        assert max(iou(cell.box, box) for cell in cells) > 0.6
    for cell in cells:
        height, width = cell.box[2] - cell.box[0], cell.box[3] - cell.box[1]
        assert cell.cell.shape == cell.nucleus.shape == (height, width)
        assert not (cell.nucleus & ~cell.cell).any()
        assert 0.5 <= cell.score <= 1


def holes_of(mask: np.ndarray) -> list[int]:
    outside = label_parts(~np.pad(mask, 1), diagonal=False)
    return sorted(outside.areas_px.tolist())[:-1]


@pytest.mark.parametrize("path", sorted(FIELD.parent.glob("*.jpg")), ids=lambda path: path.stem)
def test_cells_have_no_holes_and_nuclei_no_small_ones(finder: NetworkFinder, path: Path) -> None:
    for cell in finder.find(decode_image(path), MICRONS_PER_PIXEL):
        assert not holes_of(cell.cell)
        parts = label_parts(cell.nucleus).areas_px.tolist()
        assert all(area * MICRONS_PER_PIXEL**2 > LEAST_PART_UM2 for area in holes_of(cell.nucleus) + parts)


@pytest.mark.parametrize("turns", range(4))
def test_the_outline_of_a_cell_at_the_border_does_not_change_away_from_it(
    finder: NetworkFinder, turns: int
) -> None:
    """The same cell whole, and a quarter of it cut off by the border on each side of the field."""
    rgb = decode_image(FIELD.parent / "BloodImage_00125.jpg")
    (whole,) = finder.find(rgb, MICRONS_PER_PIXEL)
    row = (whole.box[0] + 3 * whole.box[2]) // 4
    turned = np.ascontiguousarray(np.rot90(rgb[:row], turns))
    (cut,) = (cell for cell in finder.find(turned, MICRONS_PER_PIXEL) if cell.touches_border)
    mask = np.zeros(turned.shape[:2], np.bool_)
    mask[cut.box[0] : cut.box[2], cut.box[1] : cut.box[3]] = cut.cell
    found = np.rot90(mask, -turns)
    expected = np.zeros(rgb.shape[:2], np.bool_)
    expected[whole.box[0] : whole.box[2], whole.box[1] : whole.box[3]] = whole.cell
    expected = expected[:row]
    assert (found & expected).sum() / (found | expected).sum() > 0.85
    columns = np.flatnonzero(found.any(axis=0))
    inside = np.flatnonzero(found[-12:-4].any(axis=0))  # no arms along the border
    assert columns[0] >= inside[0] - 12 and columns[-1] <= inside[-1] + 12


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_the_scale_of_the_image_does_not_matter(finder: NetworkFinder, factor: float) -> None:
    image = Image.fromarray(decode_image(FIELD))
    resized = np.asarray(image.resize((round(image.width * factor), round(image.height * factor))))
    cells = finder.find(resized, MICRONS_PER_PIXEL / factor)
    assert len(cells) == 2
    diameters = finder.measure_red_cells(resized)
    assert diameters is not None
    assert RED_CELL_UM / np.median(diameters) * factor == pytest.approx(MICRONS_PER_PIXEL, rel=0.15)


def test_a_turned_field_gives_turned_cells(finder: NetworkFinder) -> None:
    rgb = decode_image(FIELD)
    turned = finder.find(np.ascontiguousarray(rgb[:, ::-1]), MICRONS_PER_PIXEL)
    width = rgb.shape[1]
    for y0, x0, y1, x1 in BOXES:
        assert max(iou(cell.box, (y0, width - x1, y1, width - x0)) for cell in turned) > 0.6


@pytest.mark.parametrize("value", [0, 128, 235, 255])
def test_a_uniform_image_has_no_cell(finder: NetworkFinder, value: int) -> None:
    assert finder.find(np.full((300, 400, 3), value, np.uint8), 0.1) == []


def test_red_cells_alone_are_no_white_cells(finder: NetworkFinder) -> None:
    assert finder.find(draw_field(white_cells=()), 0.2) == []


def test_peaks_are_apart_and_sorted() -> None:
    heat = np.zeros((20, 20), np.float32)
    heat[3, 3], heat[3, 5], heat[15, 15] = 0.9, 0.8, 0.7
    places, heights = find_peaks(heat, 0.5, 4.0)
    assert places.tolist() == [[3, 3], [15, 15]]
    assert heights.tolist() == pytest.approx([0.9, 0.7])
    assert len(find_peaks(heat, 0.5, 1.0)[0]) == 3


def test_a_finder_of_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match="best"):
        next(read_smear(FIELD, finder="best"))


def test_both_finders_have_a_name() -> None:
    for name, title in (("finder", "leukoscope-finder 0.1.0"), ("classical", "classical")):
        (reading,) = read_smear(FIELD, finder=name, microns_per_pixel=MICRONS_PER_PIXEL)
        assert reading.record.finder == title
    assert ScaleSource.NETWORK.value == "red_cells_by_network"
