"""Three classes from folders to a bundle: import, split, training, report, export, prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics
from typer.testing import CliRunner

from cohort_files import draw_cell
from leukoscope.cli.main import app
from leukoscope.core.classes import ClassSchema
from leukoscope.data.table import read_cells, read_classes
from leukoscope.evaluation.scores import read_run, scored_rows
from leukoscope.inference.predictor import Predictor
from leukoscope.models.bundle import Bundle
from leukoscope.models.report import read_report
from leukoscope.training.fit.checkpoint import load_trained

TINY = (
    "network.arch=resnet10t", "network.weights=none", "network.input_px=64", "augment.views=1", "stage1.epochs=3",
    "stage1.learning_rate=0.001", "stage2.epochs=0", "engine.batch_size=8", "engine.accelerator=cpu",
    "engine.threads=1", "network.standardize_features=true", "head_fit.penalty=2.0", "loss.class_weights=true",
    "loss.label_smoothing=0.05",
)  # fmt: skip
FOLDERS = ("Lymphoblast", "Mature lymphocyte", "monocyte")
NAMES = ("lymphoblast", "mature_lymphocyte", "monocyte")
TINTS = ((150, 70, 150), (90, 90, 190), (180, 140, 90))


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{arguments}: {result.output}"
    return result.output


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(3)
    lines = ["file,label,subject"]
    for number in range(24):
        kind = number % 3
        for count in range(4):
            rgb = draw_cell(rng, blast=kind == 0).astype(float)
            inside = rgb.any(axis=2, keepdims=True)
            tinted = np.clip(0.5 * rgb + 0.5 * np.array(TINTS[kind]), 1, 255) * inside
            name = f"{FOLDERS[kind]}/s{number}_{count}.png"
            (folder / name).parent.mkdir(exist_ok=True)
            Image.fromarray(tinted.astype(np.uint8)).save(folder / name)
            lines.append(f"{name},{FOLDERS[kind]},s{number}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    cells, splits = folder / "cells.csv", folder / "splits.json"
    call(
        "data",
        "import",
        folder / "labels.csv",
        "--out",
        cells,
        "--classes",
        "folders",
        "--positive",
        NAMES[0],
    )
    call("data", "split", cells, "--protocol", "grouped", "--k", 4, "--out", splits)
    settings = [word for setting in TINY for word in ("--set", setting)]
    plan = json.loads(splits.read_text(encoding="utf-8"))
    name = plan["splits"][0]["name"]
    call(
        "train",
        "--cells",
        cells,
        "--splits",
        splits,
        "--split",
        name,
        "--out",
        folder / "runs",
        *settings,
        "--json",
    )
    (run,) = (path for path in (folder / "runs").iterdir() if (path / "scores.csv").is_file())
    call("evaluate", run, "--out", folder / "report", "--replicates", 200)
    report = folder / "report" / "report.json"
    call(
        "export",
        run,
        "--out",
        folder / "bundle",
        "--report",
        report,
        "--name",
        "tiny-kinds",
        "--weights",
        "float32",
    )
    return folder


def run_of(way: Path) -> Path:
    return next(path for path in (way / "runs").iterdir() if (path / "scores.csv").is_file())


def test_the_import_writes_a_classes_file(way: Path) -> None:
    classes = read_classes(way / "cells.csv")
    assert classes == ClassSchema.of_names(NAMES, [NAMES[0]]) == read_classes(run_of(way) / "cells.csv")
    assert read_cells(way / "cells.csv")["label"].value_counts().to_dict() == dict.fromkeys(NAMES, 32)


def test_a_schema_file_gives_the_same_table(way: Path, tmp_path: Path) -> None:
    schema = tmp_path / "kinds.json"
    schema.write_text(ClassSchema.of_names(NAMES, [NAMES[0]]).to_json(), encoding="utf-8")
    call("data", "import", way / "labels.csv", "--out", tmp_path / "cells.csv", "--classes", schema)
    first, again = (read_cells(table) for table in (way / "cells.csv", tmp_path / "cells.csv"))
    assert (
        first["label"].tolist() == again["label"].tolist()
        and first["sha256"].tolist() == again["sha256"].tolist()
    )
    refused = CliRunner().invoke(app, ["data", "import", str(way), "--classes", str(schema), "--blast", "x"])
    assert refused.exit_code == 2


def test_scores_have_one_logit_per_class_and_the_network_one_output(way: Path) -> None:
    run = read_run(run_of(way))
    columns = [name for name in run.scores.columns if name.startswith("logit")]
    assert columns == [f"logit_{name}" for name in NAMES]
    network = load_trained(run_of(way))
    assert network.head.dense.weight.shape[0] == network.outputs == 3
    rows = scored_rows(run.scores, run.cells, run.embeddings[run.scores["row"]], run.classes)
    trained = rows.part == "train"
    assert (rows.logit[trained].argmax(axis=1) == rows.label[trained]).mean() > 0.9


def test_the_report_measures_every_class_as_scikit_learn_does(way: Path) -> None:
    report = read_report(way / "report" / "report.json")
    found = report.headline.classes
    assert found is not None and [entry.name for entry in found.classes] == list(NAMES)
    counts = np.array(found.confusion)
    truth, calls = (np.repeat(grid.ravel(), counts.ravel()) for grid in np.indices(counts.shape))
    assert found.measures["f1_macro"].value == pytest.approx(metrics.f1_score(truth, calls, average="macro"))
    assert found.measures["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, calls))
    recalls = metrics.recall_score(truth, calls, average=None)
    assert [entry.measures["recall"].value for entry in found.classes] == pytest.approx(recalls)
    run = read_run(run_of(way))
    rows = run.scores[run.scores["part"] == "test"]
    assert counts.sum() == len(rows)
    assert counts.sum(axis=1).tolist() == np.bincount(rows["label"], minlength=3).tolist()
    page = (way / "report" / "report.html").read_text(encoding="utf-8")
    assert "Mature lymphocyte" in page and "F1, macro" in page


def test_the_bundle_reproduces_the_scores_of_training(way: Path) -> None:
    bundle = Bundle.open(way / "bundle")
    assert bundle.manifest.classes.names == NAMES and bundle.manifest.task == "kinds"
    assert bundle.manifest.outputs[0].shape[1] == bundle.manifest.outputs[2].shape[1] == 3
    assert "verified" in call("bundle", "verify", way / "bundle")
    card = call("bundle", "show", way / "bundle", "--card")
    assert "By class, each against all others:" in card and "Mature lymphocyte" in card
    predictor = Predictor(bundle, Predictor.open(way / "bundle", threads=1).session)
    scores = read_run(run_of(way)).scores
    tested = scores[scores["part"] == "test"].set_index("cell")
    compared = 0
    for cell, row in tested.iterrows():
        result = predictor.predict(way / str(cell)).result
        if result.logits:
            stated = [row[f"logit_{name}"] for name in NAMES]
            assert list(result.logits.values()) == pytest.approx(stated, abs=0.03)
            compared += 1
    assert compared
