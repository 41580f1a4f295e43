"""The public package: what is exported, what is accepted, what wrong values are answered with."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import leukoscope
from leukoscope import datasets
from leukoscope.core.errors import ImageError, UsageError
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.sources import iterate_sources

CELLS = datasets.sample()


@pytest.fixture(scope="module")
def predictor(small_predictor: Predictor) -> Predictor:
    return small_predictor


def same(one: leukoscope.Prediction, other: leukoscope.Prediction) -> bool:
    return one.decision == other.decision and one.result.logit == pytest.approx(other.result.logit, abs=1e-5)


def test_every_public_name_is_there() -> None:
    assert [name for name in leukoscope.__all__ if not hasattr(leukoscope, name)] == []
    assert set(leukoscope.__all__) <= set(dir(leukoscope))
    with pytest.raises(AttributeError, match="load_model"):
        leukoscope.load_modle  # noqa: B018


def test_the_import_is_light() -> None:
    code = "import sys, leukoscope; print(len([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]]))"
    heavy = ("numpy", "PIL", "openvino", "pydantic", "torch", "pandas", "sklearn")
    finished = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "0"


def test_prediction_needs_no_training_package() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'pandas', 'sklearn', 'scipy', 'matplotlib'): sys.modules[name] = None\n"
        "import leukoscope\n"
        "print(leukoscope.predict(leukoscope.datasets.sample_paths()[0]).to_dict()['decision'])\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() in {"blast", "normal", "uncertain"}


def test_every_form_of_one_image_gives_the_same_answer(predictor: Predictor) -> None:
    path = CELLS[0].path
    rgb = CELLS[0].read()
    png = io.BytesIO()
    Image.fromarray(rgb).save(png, "PNG")
    opaque = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    forms = [
        str(path), path, path.read_bytes(), bytearray(path.read_bytes()), memoryview(png.getvalue()), rgb, opaque,
        Image.fromarray(rgb), Image.fromarray(opaque), Image.open(path), leukoscope.Source("x", path),
    ]  # fmt: skip
    expected = predictor.predict(path)
    for form in forms:
        answer = predictor.predict(form)
        assert isinstance(answer, leukoscope.Prediction)
        assert same(answer, expected), type(form)


def test_several_images_come_as_a_list_in_their_order(predictor: Predictor, tmp_path: Path) -> None:
    paths = CELLS.paths[:3]
    single = [predictor.predict(path) for path in paths]
    for given in (
        paths,
        tuple(map(str, paths)),
        (path for path in paths),
        [cell.read() for cell in CELLS[:3]],
    ):
        answer = predictor.predict(given)
        assert isinstance(answer, leukoscope.Predictions)
        assert all(same(one, other) for one, other in zip(answer, single, strict=True))
    folder = predictor.predict(str(paths[0].parent))
    assert [item.source for item in folder] == sorted(item.source for item in folder)
    pattern = predictor.predict(str(paths[0].parent / "*_all.webp"))
    assert [item.source for item in pattern] == [item.source for item in folder]
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    "value",
    [None, 3, 2.5, True, {"a": 1}, object(), np.zeros((450, 450, 3)), np.zeros((450, 450), np.uint8),
     np.zeros((3, 450, 450), np.uint8), np.zeros((0, 0, 3), np.uint8), [1, 2], [None]],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_value_that_is_no_image_is_a_type_error_with_the_right_call(
    predictor: Predictor, value: object
) -> None:
    with pytest.raises(TypeError, match="expected") as raised:
        predictor.predict(value)
    assert isinstance(raised.value, leukoscope.LeukoscopeError)


def test_an_empty_path_is_refused(predictor: Predictor) -> None:
    with pytest.raises(UsageError):
        predictor.predict("")


def test_a_missing_file_is_a_rejected_prediction(predictor: Predictor) -> None:
    answer = predictor.predict("nowhere/cell.webp")
    assert answer.decision == "rejected"
    assert [reason.code for reason in answer.reasons] == ["not_found"]
    with pytest.raises(UsageError, match="no heat map"):
        answer.heat_map()


def test_a_single_path_is_not_iterated_by_character() -> None:
    folder = datasets.sample_directory() / "fold_1" / "hem"
    assert len(list(iterate_sources(str(folder)))) == 8
    assert len(list(iterate_sources(folder))) == 8


def test_models_are_found_by_name_and_by_folder(
    small_bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert leukoscope.list_models()[0] == "cnmc"
    assert (
        Predictor.open(str(small_bundle_path)).bundle.sha256
        == leukoscope.load(small_bundle_path).bundle.sha256
    )
    (tmp_path / "mine").symlink_to(small_bundle_path, target_is_directory=True)
    monkeypatch.setenv("LEUKOSCOPE_MODELS", str(tmp_path))
    assert leukoscope.list_models() == ["cnmc", "leukoscope-kinds", "finder", "mine"]
    assert leukoscope.load_model("mine").bundle.directory == tmp_path / "mine"
    with pytest.raises(UsageError, match=r"'nosuch'.*mine"):
        leukoscope.load_model("nosuch")
    with pytest.raises(TypeError):
        leukoscope.load_model(3)  # type: ignore[arg-type]


def test_results_as_dictionary_table_and_text(predictor: Predictor) -> None:
    predictions = predictor.predict([*CELLS.paths[:2], "nowhere.png"])
    first = predictions[0].to_dict()
    assert first["source"] == str(CELLS.paths[0])
    assert first["notice"]
    table = predictions.to_pandas()
    assert list(table["decision"]) == [str(item.decision) for item in predictions]
    assert list(table["reasons"])[2] == "not_found"
    assert "rejected" in repr(predictions)
    assert CELLS.paths[0].name in repr(predictions[0])
    for shown in (predictions, predictions[0], predictions[2]):
        assert "Research use only" in shown._repr_html_()
    assert predictor.predict([]).to_pandas().empty
    if predictions[0].activation_map is not None:
        assert predictions[0].heat_map().shape == (450, 450, 3)


def test_a_hostile_name_is_escaped_in_html(predictor: Predictor) -> None:
    rgb = CELLS[0].read()
    shown = predictor.predict(rgb, name="<script>alert(1)</script>")
    assert "<script>" not in shown._repr_html_()
    assert "<script>" not in leukoscope.Predictions([shown])._repr_html_()


def test_embeddings_are_rows_in_order(predictor: Predictor) -> None:
    embeddings = predictor.embed(CELLS.paths[:3])
    assert embeddings.shape == (3, predictor.bundle.manifest.embedding_width)
    alone = predictor.embed(CELLS.paths[2])
    assert np.allclose(embeddings[2], alone[0], atol=1e-4)
    assert predictor.embed([]).shape == (0, predictor.bundle.manifest.embedding_width)
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        predictor.embed(["nowhere.png"])


def test_images_are_read_with_subjects(tmp_path: Path) -> None:
    paths = CELLS.paths[:2]
    table = tmp_path / "subjects.csv"
    table.write_text(f"source,subject\n{paths[0].name},P1\n", encoding="utf-8")
    assert [source.subject for source in leukoscope.read_images(*paths, subjects=table)] == ["P1", None]
    mapping = {paths[1].name: "P2"}
    assert [source.subject for source in leukoscope.read_images(paths, subjects=mapping)] == [None, "P2"]


def test_datasets_read_the_shipped_cells_as_a_cohort(tmp_path: Path) -> None:
    cohort = datasets.cnmc(datasets.sample_directory(), folds=["fold_1"])
    assert {cell.fold for cell in cohort} == {"fold_1"}
    assert {*cohort.labels} == {"blast", "normal"}
    assert cohort.table is not None
    assert len(cohort.table) == len(cohort)
    assert cohort[0].read().shape == (450, 450, 3)
    assert len(cohort[:4]) == 4
    plan = cohort.splits("grouped", k=2)
    assert len(plan.splits) == 2
    with pytest.raises(UsageError, match="fold_7"):
        datasets.cnmc(datasets.sample_directory(), folds=["fold_7"])
    with pytest.raises(UsageError):
        CELLS.splits()


def test_cohort_and_splits_are_made_by_functions(tmp_path: Path) -> None:
    frame = leukoscope.import_cohort(datasets.sample_directory(), tmp_path / "cells.csv")
    assert len(frame) == 60
    plan = leukoscope.make_splits(tmp_path / "cells.csv", "official", out=tmp_path / "splits.json")
    assert (tmp_path / "splits.json").is_file()
    assert plan.protocol == "official"
