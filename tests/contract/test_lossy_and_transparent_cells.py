"""Cut-out cells saved as JPEG or on transparent ground: answered as the lossless cell on black, over all commands."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import leukoscope
from leukoscope.assets import default_bundle_path, sample_cells_directory
from leukoscope.cli.main import app
from leukoscope.core.terms import Reason, WarningCode
from leukoscope.data.table import read_cells
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import describe_cell
from leukoscope.inference.predictor import Predictor
from leukoscope.smear.reading import read_smear
from small_bundle import sample_paths
from web_fixtures import form

CELLS = sorted(sample_cells_directory().rglob("*.webp"))
PLAUSIBLE_REJECTIONS = {Reason.BLURRED, Reason.NOVEL}


def encoded(rgb: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, kind, **options)
    return stream.getvalue()


def as_jpeg(path: Path, quality: int) -> bytes:
    return encoded(decode_image(path), "JPEG", quality=quality, subsampling="4:2:0")


def on_transparent_ground(path: Path, hidden: int = 0) -> np.ndarray:
    """Return the cell as RGBA; below the transparent pixels lies the gray value ``hidden``."""
    rgb = decode_image(path)
    cell = rgb.any(axis=2)
    shown = np.where(cell[..., None], rgb, np.uint8(hidden))
    return np.dstack([shown, cell.astype(np.uint8) * 255])


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    if not default_bundle_path().is_dir():
        pytest.skip("no shipped bundle")
    return leukoscope.load_model()


@pytest.mark.slow
@pytest.mark.parametrize("quality", [75, 85, 95])
def test_sample_cells_saved_as_jpeg_are_answered(shipped: Predictor, quality: int) -> None:
    exact = list(shipped.stream(CELLS))
    lossy = list(shipped.stream([as_jpeg(path, quality) for path in CELLS]))
    answered = [item for item in lossy if item.probability is not None]
    assert len(answered) >= 57
    assert {reason.code for item in lossy if item.probability is None for reason in item.reasons} <= (
        PLAUSIBLE_REJECTIONS
    )
    same = sum(one.decision == other.decision for one, other in zip(exact, lossy, strict=True))
    assert same >= {75: 40, 85: 45, 95: 50}[quality]
    assert all(
        [warning.code for warning in item.result.warnings] == [WarningCode.NOISY_GROUND] for item in lossy
    )
    assert not any(item.result.warnings for item in exact)


def test_predict_marks_a_jpeg_in_json_csv_and_rows(tmp_path: Path, small_bundle_path: Path) -> None:
    (tmp_path / "cell.jpg").write_bytes(as_jpeg(sample_paths()[0], 85))
    (tmp_path / "cell.webp").write_bytes(sample_paths()[0].read_bytes())
    line = ["predict", str(tmp_path), "--bundle", str(small_bundle_path)]
    rows = [json.loads(row) for row in CliRunner().invoke(app, [*line, "--json"]).stdout.splitlines()]
    assert [[warning["code"] for warning in row["warnings"]] for row in rows] == [["noisy_ground"], []]
    assert "lossless" in rows[0]["warnings"][0]["message"]
    table = tmp_path / "out.csv"
    shown = CliRunner().invoke(app, [*line, "--csv", str(table)])
    assert [row["warnings"] for row in csv.DictReader(table.read_text().splitlines())] == ["noisy_ground", ""]
    assert "warning: The black around the cell" in shown.stdout


def test_import_measures_a_jpeg_as_its_lossless_cell(tmp_path: Path) -> None:
    for name, content in (
        ("a.webp", sample_paths()[0].read_bytes()),
        ("b.jpg", as_jpeg(sample_paths()[0], 85)),
    ):
        (tmp_path / "hem").mkdir(exist_ok=True)
        (tmp_path / "hem" / name).write_bytes(content)
    done = CliRunner().invoke(app, ["data", "import", str(tmp_path), "--out", str(tmp_path / "cells.csv")])
    assert done.exit_code == 0, done.output
    exact, lossy = (row for _, row in read_cells(tmp_path / "cells.csv").sort_values("cell").iterrows())
    assert lossy["area_px"] == pytest.approx(exact["area_px"], rel=0.02)
    assert lossy["components"] == exact["components"]


def test_the_page_marks_a_jpeg(client) -> None:
    [row] = client.post("/api/v1/predict", data=form([("c.jpg", as_jpeg(sample_paths()[0], 85))])).get_json()
    assert [warning["code"] for warning in row["warnings"]] == ["noisy_ground"]
    assert "noise of lossy compression" in client.get(f"/cases/{row['case']}").get_data(as_text=True)


@pytest.mark.parametrize("hidden", [0, 255, 128])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_cell_on_transparent_ground_is_the_cell_on_black(
    small_predictor: Predictor, kind: str, hidden: int
) -> None:
    path = sample_paths()[0]
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    content = encoded(on_transparent_ground(path, hidden), kind, **options)
    assert np.array_equal(decode_image(content), decode_image(path))
    exact, transparent = small_predictor.predict(path), small_predictor.predict(content)
    assert transparent.probability == exact.probability
    assert describe_cell(decode_image(content)) == describe_cell(decode_image(path))


def test_a_fully_transparent_image_says_so_everywhere(
    tmp_path: Path, small_bundle_path: Path, client
) -> None:
    rgba = on_transparent_ground(sample_paths()[0])
    rgba[..., :3], rgba[..., 3] = decode_image(sample_paths()[0]), 0
    path = tmp_path / "hem" / "clear.png"
    path.parent.mkdir()
    path.write_bytes(encoded(rgba, "PNG"))
    refusals = []
    row = CliRunner().invoke(app, ["predict", str(path), "--json", "--bundle", str(small_bundle_path)])
    refusals.append((json.loads(row.stdout)["reasons"][0]["code"], row.stdout))
    [answer] = client.post("/api/v1/predict", data=form([("c.png", path.read_bytes())])).get_json()
    refusals.append((answer["reasons"][0]["code"], answer["reasons"][0]["message"]))
    record = next(iter(read_smear(path))).record
    refusals.append((record.reason, str(record.message)))
    out = tmp_path / "cut"
    cut = CliRunner().invoke(app, ["data", "cut", str(path), "--out", str(out), "--json"])
    refusals.append(("unsupported_mode", json.loads(cut.stdout)["odd"][0][1]))
    imported = CliRunner().invoke(app, ["data", "import", str(tmp_path), "--out", str(tmp_path / "c.csv")])
    refusals.append(("unsupported_mode", imported.output.replace("\n", " ")))
    for code, message in refusals:
        assert code == Reason.UNSUPPORTED_MODE
        assert "very pixel is transparent (alpha 0)" in message
