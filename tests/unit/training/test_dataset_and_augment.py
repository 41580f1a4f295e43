"""Decoding, sampling and augmentation of cells."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cohort_files import draw_cell, write_cohort
from leukoscope.core.errors import CohortError, TrainingError
from leukoscope.core.io import replacing
from leukoscope.data.table import read_cells
from leukoscope.imaging.canvas import CANVAS_PX, prepare_cell
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import NINE_SCALARS, describe_cell
from leukoscope.training.batches.augment import (
    StainStatistics,
    augment,
    choose_partners,
    draw_view,
    measure_stain,
)
from leukoscope.training.batches.dataset import CellSet, check_classes, epoch_order, load_cells
from leukoscope.training.networks.descriptor_graph import describe_pixels
from leukoscope.training.settings import AugmentSettings

STILL = AugmentSettings(
    rotation_degrees=0.0, flip_horizontal=False, flip_vertical=False, shift=0.0, zoom_low=1.0, zoom_high=1.0,
    brightness=0.0, contrast=0.0, stain=0.0,
)  # fmt: skip


def cell_set(labels: list[int], groups: list[int]) -> CellSet:
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    return CellSet(pd.DataFrame(), images, np.array(labels, np.float32), np.array(groups))


def pixels(count: int = 6) -> torch.Tensor:
    rng = np.random.default_rng(0)
    cells = np.stack([draw_cell(rng, index % 2 == 0) for index in range(count)])
    return torch.from_numpy(cells).permute(0, 3, 1, 2).float()


def test_cells_are_decoded_once_and_equal_the_one_preprocessing(tmp_path):
    table, _ = write_cohort(tmp_path, subjects=6, cells_each=2)
    cells = read_cells(table)
    paths = [tmp_path / cell for cell in cells["cell"]]
    steps = []
    loaded = load_cells(cells, paths, 64, tmp_path / "cache", lambda done, total: steps.append((done, total)))
    assert steps == [(12, 12)]
    for row, path in enumerate(paths):
        assert np.array_equal(loaded.images[row], prepare_cell(decode_image(path), 64))
    assert list(loaded.labels) == [1, 1, 0, 0] * 3
    again = load_cells(cells, [Path("gone")] * 12, 64, tmp_path / "cache")  # opened, not decoded
    assert np.array_equal(again.images, loaded.images)
    assert list(loaded.rows([cells["cell"][3], cells["cell"][0]])) == [3, 0]


def test_an_unreadable_cell_is_named_and_leaves_no_cache(tmp_path):
    table, _ = write_cohort(tmp_path, subjects=6, cells_each=2)
    cells = read_cells(table)
    paths = [tmp_path / cell for cell in cells["cell"]]
    paths[5].write_bytes(b"no image")
    with pytest.raises(CohortError, match=paths[5].name):
        load_cells(cells, paths, 64, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_a_second_training_beside_the_first_may_decode_at_the_same_time(tmp_path):
    table, _ = write_cohort(tmp_path, subjects=6, cells_each=12)  # more than are decoded between two reports
    cells = read_cells(table)
    paths = [tmp_path / cell for cell in cells["cell"]]
    others = []

    def start_another(done: int, total: int) -> None:
        if not others:
            others.append(load_cells(cells, paths, 64, tmp_path / "cache"))

    loaded = load_cells(cells, paths, 64, tmp_path / "cache", start_another)
    expected = np.stack([prepare_cell(decode_image(path), 64) for path in paths])
    np.testing.assert_array_equal(loaded.images, expected)
    np.testing.assert_array_equal(others[0].images, expected)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_files_that_two_processes_write_at_once_do_not_meet(tmp_path):
    path = tmp_path / "kept"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("kept", "first")]


def test_a_file_that_changed_after_the_import_is_named_and_not_trained_on(tmp_path):
    table, _ = write_cohort(tmp_path, subjects=6, cells_each=2)
    cells = read_cells(table)
    paths = [tmp_path / cell for cell in cells["cell"]]
    paths[3].write_bytes(paths[4].read_bytes())
    with pytest.raises(CohortError, match=rf"{paths[3].name}.*SHA-256"):
        load_cells(cells, paths, 64, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_empty_class_is_named():
    with pytest.raises(TrainingError, match=r"\bvalidation\b.*\b2\b.*\bblast\b"):
        check_classes(cell_set([0, 0, 1], [0, 1, 2]), np.array([0, 1]), "validation")


def test_shuffling_shows_every_cell_once():
    cells = cell_set([0, 1, 1, 0], [0, 1, 2, 3])
    order = epoch_order(cells, np.array([3, 1, 0]), "shuffle", 0, np.random.default_rng(0))
    assert sorted(order) == [0, 1, 3]


@pytest.mark.parametrize(
    ("sampling", "expected"), [("class", [0.1] * 5 + [0.5]), ("subject", [0.0625] * 4 + [0.25, 0.5])]
)
def test_balanced_sampling_has_the_documented_frequencies(sampling, expected):
    cells = cell_set([0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 2])
    order = epoch_order(cells, np.arange(6), sampling, 40000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(order, minlength=6) / len(order), expected, atol=0.01)


def test_descriptors_in_the_graph_are_those_of_the_imaging_package():
    rng = np.random.default_rng(4)
    cells = [prepare_cell(draw_cell(rng, index % 2 == 0), CANVAS_PX) for index in range(3)]
    cells.append(np.zeros((CANVAS_PX, CANVAS_PX, 3), np.uint8))
    ours = describe_pixels(torch.from_numpy(np.stack(cells)).permute(0, 3, 1, 2)).numpy()
    theirs = [[getattr(describe_cell(cell), name) for name in NINE_SCALARS] for cell in cells]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_augmentation_of_strength_zero_is_the_identity():
    cells = pixels()
    assert torch.equal(augment(cells, draw_view(6, 0, 0), STILL), cells)


def test_a_view_depends_on_seed_and_number_only():
    assert torch.equal(draw_view(50, 3, 2)[:20], draw_view(50, 3, 2)[:20])
    assert not torch.equal(draw_view(50, 3, 2), draw_view(50, 3, 1))
    assert not torch.equal(draw_view(50, 3, 2), draw_view(50, 4, 2))
    cells, draws, settings = pixels(), draw_view(6, 0, 0), AugmentSettings()
    whole = augment(cells, draws, settings)
    parts = torch.cat([augment(cells[part], draws[part], settings) for part in (slice(0, 2), slice(2, 6))])
    torch.testing.assert_close(whole, parts)


def test_augmentation_changes_the_cell_and_keeps_the_background_black():
    changed = augment(
        pixels(), draw_view(6, 0, 0), AugmentSettings(shift=0.0, stain=0.2, brightness=0.3, contrast=0.3)
    )
    assert not torch.allclose(changed, pixels())
    assert (changed[:, :, :4, :4] == 0).all()
    assert changed.min() == 0
    assert changed.max() <= 255
    foreground = changed.amax(dim=1) > 0
    area = (pixels().amax(dim=1) > 0).sum(dim=(1, 2))
    np.testing.assert_allclose(foreground.sum(dim=(1, 2)), area, rtol=0.2)  # zoom is 0.95 to 1.05


@pytest.mark.parametrize("seed", range(20))
def test_one_cell_alone_changes_as_it_does_among_others(seed):
    """Alone, only the window is computed in which the cell can come to lie; far shifts put it over the edge."""
    settings = AugmentSettings(
        rotation_degrees=180.0,
        shift=0.5,
        zoom_low=0.5,
        zoom_high=2.0,
        brightness=0.2,
        contrast=0.2,
        stain=0.1,
    )
    cells, draws = pixels(), draw_view(6, seed, 0)
    together = augment(cells, draws, settings)
    for row in range(6):
        alone = augment(cells[row : row + 1], draws[row : row + 1], settings)
        torch.testing.assert_close(alone[0], together[row], atol=2e-2, rtol=0)


def test_a_canvas_without_a_cell_stays_black():
    settings = AugmentSettings(rotation_degrees=15.0, brightness=0.2, contrast=0.2)
    assert not augment(torch.zeros(1, 3, 32, 40), draw_view(1, 0, 0), settings).any()


def test_flips_and_zoom_have_the_documented_effect():
    cells = pixels()
    flipped = augment(
        cells, torch.zeros(6, 16), AugmentSettings(**{**STILL.__dict__, "flip_horizontal": True})
    )
    torch.testing.assert_close(flipped, cells.flip(3), atol=0.02, rtol=0)
    draws = torch.ones(6, 16) * 0.5
    zoomed = augment(cells, draws, AugmentSettings(**{**STILL.__dict__, "zoom_low": 1.2, "zoom_high": 1.2}))
    growth = (zoomed.amax(dim=1) > 0).sum(dim=(1, 2)) / (cells.amax(dim=1) > 0).sum(dim=(1, 2))
    np.testing.assert_allclose(growth, 1.44, rtol=0.02)
    turned = augment(
        cells, draw_view(6, 0, 0), AugmentSettings(**{**STILL.__dict__, "rotation_degrees": 180.0})
    )
    expected, found = (
        describe_pixels(cells),
        describe_pixels(turned),
    )  # neither size nor color is touched by turning
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=0.01)
    np.testing.assert_allclose(found[:, 3:6], expected[:, 3:6], rtol=0.01)


def test_stain_mixing_takes_over_the_partners_statistics():
    cells = pixels()
    images = cells.permute(0, 2, 3, 1).byte().numpy()
    mean, std = measure_stain(images)
    statistics = StainStatistics(mean, std, np.array([0, 0, 0, 1, 1, 1]), np.arange(6))
    draws = draw_view(6, 1, 0)
    partners = choose_partners(statistics, np.arange(6), draws)
    for row in range(6):
        chosen = int((mean == partners[2][row]).all(dim=1).nonzero()[0])
        assert (chosen < 3) != (row < 3)
    draws[:, 15] = 1.0
    mixed = augment(cells, draws, AugmentSettings(**{**STILL.__dict__, "stain_mix": 1.0}), partners)
    after, spread = measure_stain(mixed.permute(0, 2, 3, 1).round().byte().numpy())
    np.testing.assert_allclose(after, partners[2], atol=0.02)
    np.testing.assert_allclose(spread, partners[3], atol=0.03)
