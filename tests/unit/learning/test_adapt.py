from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leukoscope.assets import kinds_bundle_path
from leukoscope.core.errors import UsageError
from leukoscope.inference.cells import Source
from leukoscope.inference.predictor import Predictor
from leukoscope.learning.adapt import adapt, read_corrections
from leukoscope.models.files import SAMPLE
from leukoscope.models.profile import read_profile
from smear_fields import ONE_CELL, OTHER_STAIN, TWO_CELLS


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.open(kinds_bundle_path(), streaming=True)


@pytest.fixture(scope="module")
def crops(predictor: Predictor) -> list[Source]:
    """The bundle's sample cells, each in four turns: 32 cells of eight kinds."""
    sources = []
    for cell in predictor.bundle.expected.cells:
        path = predictor.bundle.directory / SAMPLE / cell.file
        rgb = np.asarray(Image.open(path).convert("RGB"))
        sources += [Source(f"{cell.label}/{turn}", np.rot90(rgb, turn).copy()) for turn in range(4)]
    return sources


def test_corrected_cells_change_predictions_and_the_result_names_the_profile(
    predictor: Predictor, crops: list[Source], tmp_path: Path
) -> None:
    """A laboratory that calls its monocytes blasts: the head follows its corrections."""
    corrections = {
        (crop.name, 0): "blast" if crop.name.startswith("monocyte") else crop.name.split("/")[0]
        for crop in crops
    }
    profile = adapt(crops, predictor, name="lab", corrections=corrections, single_cells=True)
    assert profile.head is not None and profile.head.counts["blast"] == 4
    path = tmp_path / "lab.json"
    profile.write(path)
    assert read_profile(path) == profile
    with_profile = Predictor(predictor.bundle, predictor.session, profile=profile)
    for crop in crops:
        before = predictor.predict(crop.content).probabilities
        after = with_profile.predict(crop.content)
        assert after.result.profile == profile.reference
        if crop.name.startswith("monocyte"):
            assert after.probabilities["blast"] > before["blast"] + 0.3


def test_without_corrections_predictions_do_not_change(predictor: Predictor, crops: list[Source]) -> None:
    profile = adapt(crops, predictor, name="lab", single_cells=True)
    assert profile.head is None and profile.embedding.cells == 32
    assert 0 < profile.embedding.shrinkage < 1
    with_profile = Predictor(predictor.bundle, predictor.session, profile=profile)
    for crop in crops[::5]:
        assert (
            with_profile.predict(crop.content).probabilities == predictor.predict(crop.content).probabilities
        )


def test_right_labels_that_add_nothing_leave_the_head(predictor: Predictor, crops: list[Source]) -> None:
    corrections = {(crop.name, 0): crop.name.split("/")[0] for crop in crops}
    profile = adapt(crops, predictor, name="lab", corrections=corrections, single_cells=True)
    with_profile = Predictor(predictor.bundle, predictor.session, profile=profile)
    for crop in crops:
        probabilities = with_profile.predict(crop.content).probabilities
        assert max(probabilities, key=lambda name: probabilities[name]) == crop.name.split("/")[0]


@pytest.mark.slow
def test_fields_give_scale_and_stain(predictor: Predictor) -> None:
    """Copies of two fields of one microscope hold more than the least number of cells."""
    fields = [
        Source(f"smear/{copy}_{path.name}", np.asarray(Image.open(path).convert("RGB")))
        for copy, path in enumerate((ONE_CELL, *[TWO_CELLS] * 10))
    ]
    profile = adapt(fields, predictor, name="BCCD")
    assert profile.microns_per_pixel is not None and 0.06 < profile.microns_per_pixel < 0.09
    assert profile.surroundings.fields == 11
    red, green, _ = profile.surroundings.red_cells_od or (0, 0, 0)
    assert green > red > 0
    assert (
        Predictor(predictor.bundle, predictor.session, profile=profile).microns_per_pixel
        == profile.microns_per_pixel
    )


def test_too_few_cells_and_cells_that_are_not_there_are_errors(
    predictor: Predictor, crops: list[Source]
) -> None:
    with pytest.raises(UsageError, match="1 cells found"):
        adapt([OTHER_STAIN], predictor, name="lab", microns_per_pixel=0.137)
    with pytest.raises(UsageError, match="elsewhere"):
        adapt(crops, predictor, name="lab", corrections={("elsewhere", 0): "blast"}, single_cells=True)
    with pytest.raises(UsageError, match="macrophage"):
        adapt(crops, predictor, name="lab", corrections={(crops[0].name, 0): "macrophage"}, single_cells=True)


def test_a_profile_of_another_model_is_refused(
    predictor: Predictor, crops: list[Source], tmp_path: Path
) -> None:
    profile = adapt(crops, predictor, name="lab", single_cells=True).model_copy(
        update={"model_sha256": "0" * 64}
    )
    with pytest.raises(UsageError, match="000000000000"):
        Predictor(predictor.bundle, predictor.session, profile=profile)
    broken = tmp_path / "lab.json"
    broken.write_text('{"laboratory_profile": 7}')
    with pytest.raises(UsageError):
        read_profile(broken)
    with pytest.raises(UsageError):
        read_profile(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("image,cell\na.png,1\n", "label"),
        ("image,cell,label\na.png,one,blast\n", "one"),
        ("image,cell,label\na.png,1,blast\na.png,1,lymphocyte\n", "two labels"),
    ],
)
def test_a_table_of_corrections_that_is_wrong_names_the_place(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=wrong):
        read_corrections(path)


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image;cell;kind;label\na.png;2;monocyte;blast\na.png;3;monocyte;\nb.png;;;lymphocyte\n")
    assert read_corrections(path) == {("a.png", 2): "blast", ("b.png", 0): "lymphocyte"}
