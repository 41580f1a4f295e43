"""The first thing a new user runs."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope.cli.main import app
from leukoscope.core.terms import RESEARCH_USE
from shared_folders import make_once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_once(tmp_path_factory, "demo", run_demo) / "demo"


def run_demo(folder: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(folder / "demo")])
    assert result.exit_code == 0, result.output
    assert RESEARCH_USE in result.output
    assert "contact_sheet.html" in result.output  # what to open next


def test_every_shipped_image_has_a_result(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    cells = [row for row in rows if "/cells/" in row["source"]]
    others = [row for row in rows if "/other/" in row["source"]]
    assert (len(cells), len({row["source"] for row in others})) == (60, 14)
    assert len(others) > 14  # one of the photographs shows two cells
    assert all(row["decision"] == "rejected" and row["reasons"] for row in others)
    scored = [row for row in cells if row["decision"] != "rejected"]
    assert len(scored) >= 58
    assert all(0 <= row["probability"] <= 1 for row in scored)


def test_most_training_cells_are_classified_correctly(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    blasts = [
        row["probability"] for row in rows if row["source"].endswith("_all.webp") and row["probability"]
    ]
    normals = [
        row["probability"] for row in rows if row["source"].endswith("_hem.webp") and row["probability"]
    ]
    wins = sum(blast > normal for blast in blasts for normal in normals)
    assert wins / (len(blasts) * len(normals)) > 0.8


def test_the_sheet_shows_cells_and_heat_maps_and_is_one_file(folder: Path) -> None:
    page = (folder / "contact_sheet.html").read_text(encoding="utf-8")
    rows = (folder / "results.jsonl").read_text().splitlines()
    assert page.count("<article") == len(rows)
    assert page.count("data:image/") > 120
    assert "http://" not in page and "https://" not in page
    assert RESEARCH_USE in page


def test_a_second_run_replaces_the_first_but_no_foreign_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    refused = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_an_interrupted_demo_is_done_again_and_results_of_others_are_left_alone(
    folder: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "demo"))
    (out / "contact_sheet.html").unlink()
    journal = out / "results.jsonl"
    journal.write_bytes(journal.read_bytes()[:40_000])  # killed within a row
    result = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert len(journal.read_text().splitlines()) == len((folder / "results.jsonl").read_text().splitlines())
    (out / "contact_sheet.html").unlink()
    row = json.loads(journal.read_text().splitlines()[0])
    own = json.dumps({**row, "source": "my/own.bmp"}) + "\n"
    journal.write_text(own)
    assert CliRunner().invoke(app, ["demo", "--out", str(out)]).exit_code == 2
    assert journal.read_text() == own
