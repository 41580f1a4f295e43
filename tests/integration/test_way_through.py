"""The whole way by the commands a user types: cohort, split, training, report, bundle, prediction."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope import assets
from leukoscope.cli.main import app
from leukoscope.models.bundle import Bundle
from shared_folders import make_once

pytest.importorskip("torch", reason="the commands need pip install -e '.[train]'")
pytestmark = pytest.mark.slow

TINY = (
    "network.arch=resnet10t", "network.weights=none", "network.input_px=64", "augment.views=1",
    "stage1.epochs=2", "stage2.epochs=1", "stage2.unfreeze_layers=4", "engine.batch_size=8",
    "engine.accelerator=cpu", "engine.threads=1",
)  # fmt: skip


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"{arguments}: {result.output}"
    return result.output


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_once(tmp_path_factory, "way", go)


def go(folder: Path) -> None:
    shutil.copytree(assets.sample_cells_directory(), folder / "cells")
    cells, splits = folder / "cells" / "cells.csv", folder / "splits.json"
    call("data", "import", folder / "cells", "--out", cells)
    call("data", "split", cells, "--protocol", "official", "--out", splits)
    settings = [word for setting in TINY for word in ("--set", setting)]
    split = ("--split", "hold-out-fold_1")
    call("train", "--cells", cells, "--splits", splits, *split, "--out", folder / "runs", *settings, "--json")
    (run,) = (path for path in (folder / "runs").iterdir() if (path / "scores.csv").is_file())
    call("evaluate", run, "--out", folder / "report", "--replicates", 200)
    report = folder / "report" / "report.json"
    named = ("--name", "tiny", "--version", "1.2.3", "--limitation", "Made of sixty cells.")
    call("export", run, "--out", folder / "bundle", "--report", report, *named)


def test_the_bundle_verifies_and_contains_the_report(way: Path) -> None:
    assert "verified" in call("bundle", "verify", way / "bundle")
    bundle = Bundle.open(way / "bundle")
    assert (bundle.manifest.name, bundle.manifest.version) == ("tiny", "1.2.3")
    assert bundle.manifest.training.initial_weights == "random"
    assert 0 < bundle.manifest.training.cells < 60
    assert bundle.report is not None
    assert bundle.report.runs[0].split == "hold-out-fold_1"
    assert [record.license for record in bundle.manifest.licenses] == [
        "Apache-2.0",
        "NOASSERTION",  # WebP copies: their digests are not the official ones
        "CC-BY-3.0",
    ]
    card = call("bundle", "show", way / "bundle", "--card")
    assert "Made of sixty cells." in card
    assert "ROC AUC" in card
    assert "Research use only" in card


def test_the_bundle_records_the_groups_it_was_trained_on_and_no_path(way: Path) -> None:
    for file in (way / "bundle").rglob("*"):
        if file.suffix in (".json", ".md"):
            assert str(way) not in file.read_text(encoding="utf-8"), file.name


def test_prediction_repeats_the_scores_of_training(way: Path) -> None:
    import csv

    (run,) = (path for path in (way / "runs").iterdir() if (path / "scores.csv").is_file())
    with (run / "scores.csv").open(encoding="utf-8", newline="") as file:
        scores = {row["cell"]: float(row["logit"]) for row in csv.DictReader(file) if row["part"] == "test"}
    cells = sorted(scores)[:6]
    files = [way / "cells" / cell for cell in cells]
    result = CliRunner().invoke(app, ["predict", "--bundle", str(way / "bundle"), "--json", *map(str, files)])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    scored = [
        (row["logit"], scores[cell])
        for row, cell in zip(rows, cells, strict=True)
        if row["logit"] is not None
    ]
    assert scored
    for found, expected in scored:
        assert found == pytest.approx(expected, abs=0.02)  # 16-bit weights, another engine
