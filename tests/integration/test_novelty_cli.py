"""What the shipped bundle refuses, measured by the command on the shipped images."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope import assets
from leukoscope.cli.main import app
from leukoscope.models.report import Supplement
from shared_folders import make_once

pytest.importorskip("sklearn", reason="the commands need pip install -e '.[evaluate]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Supplement:
    folder = make_once(tmp_path_factory, "novelty", measure)
    return Supplement.model_validate_json((folder / "novelty.json").read_text(encoding="utf-8"))


def measure(folder: Path) -> None:
    shutil.copytree(assets.sample_cells_directory(), folder / "cells")
    table, splits, out = folder / "cells" / "cells.csv", folder / "splits.json", folder / "novelty.json"
    other = str(assets.other_images_directory())
    for call in (
        ["data", "import", str(folder / "cells"), "--out", str(table)],
        ["data", "split", str(table), "--protocol", "official", "--out", str(splits)],
        [
            *("novelty", other, "--cells", str(table), "--splits", str(splits)),
            *("--split", "hold-out-fold_1", "--out", str(out), "--json"),
        ],
    ):
        result = CliRunner().invoke(app, call)
        assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(Path(out).read_text(encoding="utf-8"))


def test_out_of_distribution_images_are_rejected(measured: Supplement) -> None:
    for kind in ("other", "noise", "text", "shapes", "flat color", "blank"):
        assert measured.measures[f"refused: {kind}"].value == 1.0, kind
    assert measured.measures["novelty_auroc"].value >= 0.95


def test_cells_of_unseen_subjects_pass(measured: Supplement) -> None:
    cells_rejected = measured.measures["unseen_cells_refused"]
    assert cells_rejected.n_cells >= 15
    assert cells_rejected.n_subjects >= 10
    assert cells_rejected.value is not None
    assert cells_rejected.value * cells_rejected.n_cells <= 1.5  # of these few, one may lie beyond the limit
