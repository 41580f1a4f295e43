from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from leukoscope.core.errors import UsageError
from leukoscope.inference.predictor import Predictor
from leukoscope.models.files import SAMPLE
from leukoscope.smear.calibrate import Calibration, calibrate_field, survey_field
from leukoscope.smear.count import CountedCell, count_cells
from leukoscope.smear.finder import Instance
from leukoscope.smear.naming import BundleClassifier, call_of
from leukoscope.smear.picture import ArrayPicture
from smear_fields import draw_field


@pytest.fixture(scope="module")
def classifier() -> BundleClassifier:
    return BundleClassifier.open()


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    picture = ArrayPicture(draw_field())
    return calibrate_field(picture, survey_field(picture), given=0.2)


@pytest.mark.parametrize("microns_per_pixel", [0.125, 0.08, 0.21])
def test_cells_are_named_at_any_scale(
    classifier: BundleClassifier, calibration: Calibration, microns_per_pixel: float
) -> None:
    """The sample cells of the bundle, side by side in one field of another scale."""
    side = round(192 * 0.125 / microns_per_pixel)
    labels, tiles, found = [], [], []
    for number, cell in enumerate(classifier.predictor.bundle.expected.cells):
        path = classifier.predictor.bundle.directory / SAMPLE / cell.file
        with Image.open(path) as image:
            tiles.append(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)))
        labels.append(cell.label)
        middle, half = number * side + side / 2, side // 4
        box = (side // 2 - half, round(middle) - half, side // 2 + half, round(middle) + half)
        mask = np.ones((2 * half, 2 * half), np.bool_)
        found.append(Instance(box, mask, mask, 1.0, False))
    picture = ArrayPicture(np.concatenate(tiles, axis=1))
    scale = replace(calibration.scale, value=microns_per_pixel)
    calls = classifier.classify(picture, replace(calibration, scale=scale), found)
    assert [call.kind for call in calls] == labels
    # Platelets and nucleated red cells are not in the denominator.
    called = [call for call in calls if call.decision == "called"]
    counts = count_cells([CountedCell(call.kind, call.decision) for call in calls])
    assert counts.white_cells == sum(call.kind not in ("platelet", "erythroblast") for call in called)
    assert counts.nucleated_red_cells == sum(call.kind == "erythroblast" for call in called)


def test_a_field_without_cells_has_no_calls(classifier: BundleClassifier, calibration: Calibration) -> None:
    assert list(classifier.classify(ArrayPicture(draw_field()), calibration, [])) == []


def test_a_rejected_cell_has_no_kind(classifier: BundleClassifier) -> None:
    call = call_of(classifier.predictor.predict(np.zeros((192, 192, 3), np.uint8)), classifier.classes)
    assert call.decision == "rejected" and call.reasons and call.kind_probability is None
    assert call.blast_probability is None and call.prediction_set == ()


def test_a_bundle_of_cut_out_cells_names_no_fields() -> None:
    with pytest.raises(UsageError, match="cut_out"):
        BundleClassifier(Predictor.open())
