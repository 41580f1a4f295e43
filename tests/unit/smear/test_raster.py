import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from leukoscope.smear.raster import distance_inside, fill_holes, flood, label_parts, ring_area, trace_outlines


def blobs(seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 60, 2))
    mask: NDArray[np.bool_] = ndimage.gaussian_filter(rng.random(shape), rng.choice([0, 1, 2])) > 0.5
    return mask


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("diagonal", [True, False])
def test_parts_are_those_of_scipy(seed: int, diagonal: bool) -> None:
    mask = blobs(seed)
    expected, count = ndimage.label(mask, np.ones((3, 3)) if diagonal else None)
    parts = label_parts(mask, diagonal=diagonal)
    assert len(parts) == count
    assert np.array_equal(parts.labels, expected)
    assert parts.areas_px.tolist() == np.bincount(expected.ravel(), minlength=count + 1)[1:].tolist()
    boxes = [(a.start, b.start, a.stop, b.stop) for a, b in ndimage.find_objects(expected)]
    assert [tuple(box) for box in parts.boxes] == boxes


@pytest.mark.parametrize("seed", range(25))
def test_holes_and_distances_are_those_of_scipy(seed: int) -> None:
    mask = blobs(seed)
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    if not mask.all():
        expected = np.minimum(ndimage.distance_transform_edt(mask), 60)
        assert np.allclose(distance_inside(mask), expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(25))
def test_outlines_give_the_mask_back(seed: int) -> None:
    mask = blobs(seed)
    image = Image.new("1", (mask.shape[1] * 4, mask.shape[0] * 4))
    draw = ImageDraw.Draw(image)
    rings = list(trace_outlines(mask))
    assert sum(map(ring_area, rings)) == mask.sum()
    for ring in sorted(rings, key=lambda ring: -abs(ring_area(ring))):
        draw.polygon([(int(x) * 4 - 0.5, int(y) * 4 - 0.5) for y, x in ring], fill=int(ring_area(ring) > 0))
    assert np.array_equal(np.asarray(image)[2::4, 2::4], mask)


def test_touching_discs_part_at_the_neck() -> None:
    y, x = np.mgrid[:40, :70]
    mask = (np.hypot(y - 20, x - 20) < 15) | (np.hypot(y - 20, x - 46) < 15)
    seeds = np.zeros(mask.shape, np.int32)
    seeds[20, 20], seeds[20, 46] = 1, 2
    labels = flood(distance_inside(mask), seeds, mask)
    assert np.array_equal(labels > 0, mask)
    line = np.flatnonzero(labels[20, :-1] != labels[20, 1:])
    assert any(abs(int(place) - 32.5) <= 1.5 for place in line)
    assert abs(int((labels == 1).sum()) - int((labels == 2).sum())) < 60
