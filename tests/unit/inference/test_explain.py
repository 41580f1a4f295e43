import numpy as np
import onnx
import pytest
from scipy.stats import spearmanr

from leukoscope.assets import default_bundle_path
from leukoscope.core.errors import UsageError
from leukoscope.imaging.canvas import prepare_cell
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.foreground import cell_mask
from leukoscope.inference.cells import Source
from leukoscope.inference.explain import (
    check_explanations,
    energy_inside,
    rank_correlation,
    remove_pixels,
    shuffle_weights,
)
from leukoscope.inference.predictor import Predictor
from leukoscope.models.bundle import Bundle
from leukoscope.models.onnx_graph import read_onnx_graph
from leukoscope.models.session import Session
from small_bundle import sample_paths


def test_energy_inside_of_known_maps() -> None:
    mask = np.zeros((80, 80), np.bool_)
    mask[:40, :40] = True
    inside = np.zeros((8, 8), np.float32)
    inside[1:3, 1:3] = 1
    assert energy_inside(inside, mask) == pytest.approx(1)
    outside = np.zeros((8, 8), np.float32)
    outside[6, 6] = 1
    assert energy_inside(outside, mask) == 0
    assert energy_inside(np.ones((8, 8), np.float32), mask) == pytest.approx(0.25)
    assert np.isnan(energy_inside(np.zeros((8, 8), np.float32), mask))


def test_rank_correlation_equals_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.integers(0, 4, (2, 6, 6)).astype(np.float32)
        wanted = spearmanr(first.ravel(), second.ravel()).statistic
        assert rank_correlation(first, second) == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(rank_correlation(np.ones((3, 3), np.float32), first[:3, :3]))
    assert np.isnan(rank_correlation(np.full((6, 6), np.nan, np.float32), second))


def test_removed_pixels_are_filled_from_their_surroundings_and_others_stay() -> None:
    cell = np.full((64, 64, 3), 100, np.uint8)
    cell[20:30, 20:30] = 255  # what is removed must leave no trace
    removed = np.zeros((64, 64), bool)
    removed[20:30, 20:30] = True
    filled = remove_pixels(cell, removed, np.random.default_rng(1))
    assert np.array_equal(filled[~removed], cell[~removed])
    assert abs(filled[removed].astype(float).mean() - 100) < 1
    assert filled[removed].std() > 0.5  # noise: smoothness must not mark the hole


def test_a_removed_rim_is_filled_with_the_cell_not_with_black() -> None:
    cell = np.zeros((64, 64, 3), np.uint8)
    cell[16:48, 16:48] = 150
    removed = np.zeros((64, 64), bool)
    removed[16:26, 16:48] = True
    filled = remove_pixels(cell, removed, np.random.default_rng(1))
    assert np.array_equal(cell_mask(filled), cell_mask(cell))
    assert abs(filled[removed].astype(float).mean() - 150) < 1


def test_removing_everything_still_gives_an_image() -> None:
    cell = prepare_cell(decode_image(sample_paths()[0]), 63)
    filled = remove_pixels(cell, np.ones((63, 63), bool), np.random.default_rng(1))
    assert filled.shape == cell.shape


def test_shuffled_models_hold_the_same_numbers_in_other_places(small_predictor: Predictor) -> None:
    bundle = small_predictor.bundle
    original = bundle.model_path.read_bytes()
    for head_only in (True, False):
        edited = shuffle_weights(bundle, np.random.default_rng(0), head_only=head_only)
        onnx.checker.check_model(onnx.load_from_string(edited))
        changed = []
        for weight in read_onnx_graph(original).weights:
            start, end = weight.span
            if original[start:end] != edited[start:end]:
                changed.append(weight.name)
                before, after = (np.frombuffer(content[start:end], "<f4") for content in (original, edited))
                assert np.array_equal(np.sort(before), np.sort(after))
        assert changed == (["cam"] if head_only else ["first", "second", "cam"])  # the map needs no "head"


def test_shuffling_the_shipped_head_changes_its_map_and_nothing_before_it() -> None:
    bundle = Bundle.open(default_bundle_path())
    edited = shuffle_weights(bundle, np.random.default_rng(0), head_only=True)
    cells = np.stack(
        [prepare_cell(decode_image(path), bundle.manifest.input_px) for path in sample_paths()[:2]]
    )
    before, after = (Session(content).run(cells) for content in (bundle.model_path, edited))
    assert np.array_equal(before.embedding, after.embedding)
    assert not np.array_equal(before.logits, after.logits)
    assert not np.array_equal(before.activation_map, after.activation_map)


def test_check_measures_each_cell_and_counts_the_rest(small_predictor: Predictor) -> None:
    blank = np.zeros((450, 450, 3), np.uint8)
    sources = [Source(path.name, path, path.name.split("_")[1]) for path in sample_paths()[::7]]
    cells = [small_predictor.prepare(source) for source in (*sources, Source("blank", blank))]
    seen = []
    check = check_explanations(small_predictor, cells, progress=lambda *state: seen.append(state))
    assert check.sources == tuple(source.name for source in sources)
    assert check.skipped == 1
    assert seen[-1] == (len(sources), len(sources))
    for source, entry in zip(sources, check.measures, strict=True):
        assert entry.area_share == pytest.approx(cell_mask(decode_image(source.content)).mean())
        assert 0 < entry.energy_inside < 1
        assert entry.area_share < entry.mask_energy < 1
    # The small network is linear in its features: what it marks is what moves its logit.
    supplement = check.supplement()
    assert supplement.measures["relevance_gap"].value > 0
    assert supplement.measures["relevance_gap"].n_subjects == len(set(check.subjects))
    again = check_explanations(small_predictor, cells)
    assert again.measures == check.measures


def test_no_cells_is_a_usage_error(small_predictor: Predictor) -> None:
    blank = small_predictor.prepare(Source("blank", np.zeros((450, 450, 3), np.uint8)))
    with pytest.raises(UsageError):
        check_explanations(small_predictor, [blank])
