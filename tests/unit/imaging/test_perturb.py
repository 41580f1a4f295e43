"""Small changes of an image: exact where they can be, the ground always black."""

import numpy as np
import pytest
from scipy import ndimage

from leukoscope.assets import sample_cells_directory
from leukoscope.imaging import perturb
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import describe_cell

CELLS = sorted(sample_cells_directory().rglob("UID_*"))[::20]


def disc(side: int = 96, radius: float = 28.0, color: tuple[int, int, int] = (150, 70, 160)) -> np.ndarray:
    """Draw a noisy disc around the center, on black."""
    rng = np.random.default_rng(3)
    place = np.arange(side) - (side - 1) / 2
    inside = place[:, None] ** 2 + place**2 < radius**2
    noise = rng.integers(-40, 41, (side, side, 3))
    return np.where(inside[..., None], np.array(color) + noise, 0).astype(np.uint8)


def odd_image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 57, 3), dtype=np.uint8)


def test_four_quarter_turns_and_two_mirrors_are_the_identity() -> None:
    rgb = odd_image()
    again = rgb
    for _ in range(4):
        again = perturb.turn(again, 1)
    assert np.array_equal(again, rgb)
    assert np.array_equal(perturb.turn(rgb, 1), np.rot90(rgb))
    assert np.array_equal(perturb.turn(perturb.turn(rgb, 3), 1), rgb)
    for axis in ("horizontal", "vertical"):
        assert np.array_equal(perturb.mirror(perturb.mirror(rgb, axis), axis), rgb)
    both = perturb.mirror(perturb.mirror(rgb, "horizontal"), "vertical")
    assert np.array_equal(both, perturb.turn(rgb, 2))
    assert np.array_equal(perturb.mirror(rgb, "horizontal")[:, 0], rgb[:, -1])


def test_neutral_values_change_nothing() -> None:
    rgb = odd_image()
    for same in (
        perturb.scale_colors(rgb),
        perturb.blur_cell(rgb, 0),
        perturb.scale_cell(rgb, 1),
        perturb.shift_cell(rgb, 0, 0),
        perturb.turn(rgb, 0),
    ):
        assert np.array_equal(same, rgb)


def test_gains_are_rounded_and_cut_at_white() -> None:
    rgb = np.array([[[0, 0, 0], [100, 101, 102], [1, 250, 255]]], np.uint8)
    changed = perturb.scale_colors(rgb, red=0.95, green=1.05, blue=1.1)
    assert changed.tolist() == [[[0, 0, 0], [95, 106, 112], [1, 255, 255]]]
    assert perturb.scale_colors(rgb, green=1.05)[..., [0, 2]].tolist() == rgb[..., [0, 2]].tolist()


@pytest.mark.parametrize("path", CELLS, ids=lambda path: path.name)
def test_the_ground_of_a_real_cell_stays_black(path) -> None:
    rgb = decode_image(path)
    ground = ~rgb.any(axis=2)
    for gain in (0.9, 0.95, 1.05, 1.1):
        assert not perturb.scale_colors(rgb, gain, 1, 2 - gain)[ground].any()
    for sigma in (1, 2):
        assert not perturb.blur_cell(rgb, sigma)[ground].any()
    area = describe_cell(rgb).area_px
    for factor in (0.9, 1.1):
        scaled = perturb.scale_cell(rgb, factor)
        described = describe_cell(scaled)
        assert scaled.shape == rgb.shape
        # The edge does not darken: no pixel is a mixture of cell and ground, and the area follows the factor.
        assert described.area_px == pytest.approx(area * factor**2, rel=0.01)
        assert np.count_nonzero(scaled.any(axis=2)) == pytest.approx(
            np.count_nonzero(~ground) * factor**2, rel=0.01
        )


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_a_gaussian_mean_over_the_cell_alone(sigma: float) -> None:
    rgb = disc()
    inside = rgb.any(axis=2)
    blurred = perturb.blur_cell(rgb, sigma)
    weight = ndimage.gaussian_filter(inside.astype(float), sigma, mode="constant", truncate=4)
    for channel in range(3):
        total = ndimage.gaussian_filter(rgb[..., channel].astype(float), sigma, mode="constant", truncate=4)
        expected = np.where(inside, total / np.where(inside, weight, 1), 0)
        assert np.abs(blurred[..., channel] - expected).max() <= 0.5 + 1e-6
    flat = np.where(inside[..., None], np.full_like(rgb, 120), 0)
    assert np.array_equal(perturb.blur_cell(flat, sigma), flat)


@pytest.mark.parametrize("side", [96, 97])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_scale_is_around_the_center(side: int, factor: float) -> None:
    rgb = disc(side, color=(120, 120, 120))
    symmetric = np.maximum(rgb, np.maximum(rgb[::-1], np.maximum(rgb[:, ::-1], rgb[::-1, ::-1])))
    scaled = perturb.scale_cell(symmetric, factor).astype(int)
    assert np.abs(scaled - scaled[::-1]).max() <= 1
    assert np.abs(scaled - scaled[:, ::-1]).max() <= 1
    rows = np.flatnonzero(scaled.any(axis=(1, 2)))
    assert (rows[-1] - rows[0] + 1) == pytest.approx(56 * factor, abs=2)
    assert scaled[symmetric.shape[0] // 2, symmetric.shape[1] // 2].any()


def test_scale_keeps_a_flat_color_and_cuts_at_the_frame() -> None:
    flat = np.where(disc().any(axis=2)[..., None], np.full_like(disc(), 131), 0)
    for factor in (0.9, 1.1, 3.0):
        scaled = perturb.scale_cell(flat, factor)
        assert set(np.unique(scaled)) <= {0, 131}
    assert (perturb.scale_cell(flat, 3.0) == 131).all(axis=2).mean() > 0.7
    black = np.zeros((40, 50, 3), np.uint8)
    assert np.array_equal(perturb.scale_cell(black, 0.9), black)
    corner = black.copy()
    corner[:3, :3] = 200
    assert not perturb.scale_cell(corner, 20.0).any()


def test_surroundings_are_continued_at_the_edge() -> None:
    full = np.full((60, 80, 3), 90, np.uint8)
    assert np.array_equal(perturb.scale_cell(full, 0.9, "edge"), full)
    assert np.array_equal(perturb.shift_cell(full, 2, -3, "edge"), full)
    assert not perturb.scale_cell(full, 0.9)[0].any()


def test_shift_moves_by_whole_pixels_and_back() -> None:
    rgb = disc()
    moved = perturb.shift_cell(rgb, 2, -3)
    assert np.array_equal(moved[2:, :-3], rgb[:-2, 3:])
    assert not moved[:2].any() and not moved[:, -3:].any()
    assert np.array_equal(perturb.shift_cell(moved, -2, 3), rgb)


def test_crop_keeps_every_pixel_that_is_not_black() -> None:
    rgb = disc()
    cropped = perturb.crop_to_cell(rgb)
    assert cropped.sum() == rgb.sum()
    for side in (cropped[0], cropped[-1], cropped[:, 0], cropped[:, -1]):
        assert side.any()
    black = np.zeros((40, 40, 3), np.uint8)
    assert np.array_equal(perturb.crop_to_cell(black), black)


@pytest.mark.parametrize(("codec", "quality"), [("JPEG", 95), ("JPEG", 75), ("WEBP", 80)])
def test_compression_is_lossy_small_and_repeatable(codec, quality: int) -> None:
    rgb = decode_image(CELLS[0])
    lossy = perturb.recompress(rgb, codec, quality)
    assert lossy.shape == rgb.shape
    assert not np.array_equal(lossy, rgb)
    assert np.abs(lossy.astype(int) - rgb).mean() < 2
    assert np.array_equal(perturb.recompress(rgb, codec, quality), lossy)


def test_inputs_are_not_changed() -> None:
    rgb = disc()
    before = rgb.copy()
    rgb.setflags(write=False)
    results = (
        perturb.turn(rgb, 1), perturb.mirror(rgb, "vertical"), perturb.scale_colors(rgb, 1.1),
        perturb.blur_cell(rgb, 1), perturb.scale_cell(rgb, 1.1), perturb.shift_cell(rgb, 2, 0),
        perturb.crop_to_cell(rgb), perturb.recompress(rgb, "JPEG", 90),
    )  # fmt: skip
    assert np.array_equal(rgb, before)
    for result in results:
        assert result.dtype == np.uint8 and result.flags["C_CONTIGUOUS"]


def test_impossible_values_are_refused() -> None:
    rgb = disc()
    for call in (
        lambda: perturb.mirror(rgb, "diagonal"),
        lambda: perturb.scale_colors(rgb, -0.1),
        lambda: perturb.scale_colors(rgb, float("nan")),
        lambda: perturb.blur_cell(rgb, -1),
        lambda: perturb.blur_cell(rgb, float("inf")),
        lambda: perturb.scale_cell(rgb, 0),
        lambda: perturb.scale_cell(rgb, float("nan")),
        lambda: perturb.recompress(rgb, "PNG", 90),
        lambda: perturb.recompress(rgb, "JPEG", 101),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
