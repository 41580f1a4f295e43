"""From fields to everything that ``leukoscope smear`` and ``data cut`` write."""

import csv
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from leukoscope.smear.reading import read_smear
from leukoscope.smear.records import FieldRecord
from smear_fields import FIELDS, ONE_CELL, OTHER_STAIN, TWO_CELLS, draw_field, save

WHITE = {
    "neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte", "immature_granulocyte", "blast",
}  # fmt: skip


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leukoscope.cli.main", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False
    )


def boxes_of(image: Path) -> list[tuple[int, int, int, int]]:
    entries = ElementTree.parse(image.with_suffix(".xml")).iter("object")
    return [
        tuple(int(entry.findtext(f"bndbox/{name}", "")) for name in ("ymin", "xmin", "ymax", "xmax"))  # type: ignore[misc]
        for entry in entries
        if entry.findtext("name") == "WBC"
    ]


def overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    height = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    width = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return height * width / (sum(areas) - height * width)


@pytest.mark.parametrize("image", [ONE_CELL, TWO_CELLS], ids=lambda path: path.stem)
def test_golden_fields(image: Path) -> None:
    record = next(iter(read_smear(image, microns_per_pixel=0.078))).record
    expected = boxes_of(image)
    assert len(record.cells) == len(expected)
    assert all(max(overlap(cell.box, box) for cell in record.cells) >= 0.5 for box in expected)
    truth = np.asarray(Image.open(image.with_suffix(".png")).convert("L")) > 127
    drawn = Image.new("1", (truth.shape[1], truth.shape[0]))
    from PIL import ImageDraw

    for cell in record.cells:
        for ring in cell.outline:  # the masks of the set cover whole white cells
            ImageDraw.Draw(drawn).polygon([(x, y) for y, x in ring], fill=1)
    mask = np.asarray(drawn)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.8


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smear")
    fields = folder / "fields"
    fields.mkdir()
    for path in (ONE_CELL, TWO_CELLS, OTHER_STAIN):
        (fields / path.name).write_bytes(path.read_bytes())
    save(fields / "only_red.png", draw_field(white_cells=()))
    (fields / "cut.jpg").write_bytes(ONE_CELL.read_bytes()[:4000])
    done = run("smear", fields, "--out", folder / "out")
    assert done.returncode == 1, done.stderr
    return folder


def test_tables_hold_every_field_and_cell(results: Path) -> None:
    with (results / "out" / "fields.csv").open(encoding="utf-8") as file:
        fields = {Path(row["image"]).name: row for row in csv.DictReader(file)}
    assert set(fields) == {ONE_CELL.name, TWO_CELLS.name, OTHER_STAIN.name, "only_red.png", "cut.jpg"}
    assert fields["cut.jpg"]["reason"] == "unreadable" and fields["cut.jpg"]["white_cells"] == ""
    assert fields["only_red.png"]["white_cells"] == "0"
    with (results / "out" / "cells.csv").open(encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert {Path(row["image"]).name for row in cells} == {ONE_CELL.name, TWO_CELLS.name, OTHER_STAIN.name}
    assert sum(int(row["cells"] or 0) for row in fields.values()) == len(cells)
    named = [row for row in cells if row["decision"] == "called"]
    counted = {name: int(row["white_cells"] or 0) for name, row in fields.items()}
    states = sum(int(row[name] or 0) for row in fields.values() for name in ("uncertain", "rejected_cells"))
    assert len(named) + states == len(cells)
    assert all(
        counted[name] == sum(Path(row["image"]).name == name and row["kind"] in WHITE for row in named)
        for name in counted
    )
    assert all(float(row["cell_area_um2"]) > float(row["nucleus_area_um2"]) > 10 for row in cells)


def test_exports_agree(results: Path) -> None:
    out = results / "out"
    features = json.loads((out / "cells.geojson").read_text(encoding="utf-8"))["features"]
    coco = json.loads((out / "coco.json").read_text(encoding="utf-8"))
    summary = json.loads((out / "smear.json").read_text(encoding="utf-8"))
    assert len(features) == len(coco["annotations"]) == sum(field["cells"] for field in summary["fields"])
    total = summary["counts"]["all"]["all"]
    assert total["white_cells"] == sum(field["white_cells"] for field in summary["fields"])
    assert (
        len(features)
        == sum(total[name] for name in ("white_cells", "uncertain", "rejected", "not_white"))
        + total["nucleated_red_cells"]
    )
    assert len(coco["images"]) == len(summary["fields"]) == 5
    for feature, entry in zip(features, coco["annotations"], strict=True):
        assert feature["properties"]["objectType"] == "cell"
        ring = feature["geometry"]["coordinates"][0]
        ring = ring[0] if isinstance(ring[0][0], list) else ring
        assert ring[0] == ring[-1]
        assert "nucleusGeometry" in feature
        assert feature["properties"]["measurements"]["Cell: Area µm^2"] > 10
        x, y, width, height = entry["bbox"]
        points = np.array(entry["segmentation"][0]).reshape(-1, 2)
        assert points.min(axis=0).tolist() == [x, y]
        assert points.max(axis=0).tolist() == [x + width, y + height]
    crops, overlays = list((out / "crops").glob("*.png")), list((out / "overlays").glob("*.png"))
    assert len(crops) == len(features) and len(overlays) == 4


def test_the_report_is_one_offline_file(results: Path) -> None:
    text = (results / "out" / "report.html").read_text(encoding="utf-8")
    assert "Research use only" in text
    assert "http://" not in text and "https://" not in text and "<script" not in text
    assert text.count("<figure>") == len(list((results / "out" / "crops").glob("*.png")))


def test_results_in_the_folder_are_neither_mixed_nor_lost(results: Path) -> None:
    out, fields = results / "out", results / "fields"
    before = (out / "fields.jsonl").read_bytes()
    assert run("smear", fields, "--out", out).returncode == 2
    assert run("smear", fields, "--out", out, "--resume", "--microns-per-pixel", 0.1).returncode == 2
    assert (out / "fields.jsonl").read_bytes() == before
    lines = before.splitlines(keepends=True)
    (out / "fields.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert run("smear", fields, "--out", out, "--resume").returncode == 1
    images = [json.loads(line)["image"] for line in (out / "fields.jsonl").read_bytes().splitlines()]
    assert images == [json.loads(line)["image"] for line in lines]


def test_json_and_usage(tmp_path: Path) -> None:
    done = run("smear", ONE_CELL, "--json", "--microns-per-pixel", 0.078)
    assert done.returncode == 0
    record = FieldRecord.model_validate_json(done.stdout)
    assert len(record.cells) == 1 and record.scale is not None and record.scale.source == "given"
    assert run("smear").returncode == 2
    assert run("smear", ONE_CELL, "--microns-per-pixel", -1).returncode == 2
    assert run("smear", tmp_path / "missing.png").returncode == 1


def test_cells_stay_unnamed_on_request_and_bundles_of_cut_out_cells_are_refused() -> None:
    done = run("smear", ONE_CELL, "--json", "--microns-per-pixel", 0.078, "--bundle", "none")
    record = FieldRecord.model_validate_json(done.stdout)
    assert record.model is None and record.cells[0].kind == "white cell"
    assert record.cells[0].blast_probability is None
    refused = run("smear", ONE_CELL, "--bundle", "cnmc")
    assert refused.returncode == 2 and "cut_out" in refused.stderr
    assert run("smear", ONE_CELL, "--bundle", "nowhere").returncode == 2


def test_a_named_cell_has_what_a_reader_needs() -> None:
    done = run("smear", ONE_CELL, "--json", "--microns-per-pixel", 0.078)
    record = FieldRecord.model_validate_json(done.stdout)
    assert record.model is not None and record.model.startswith("leukoscope-kinds ")
    (cell,) = record.cells
    assert cell.kind in WHITE and cell.kind_probability is not None and 0 < cell.kind_probability <= 1
    assert cell.blast_probability is not None and cell.immature_probability is not None
    assert cell.blast_probability <= cell.immature_probability <= 1
    assert (cell.decision == "called") == (cell.prediction_set == (cell.kind,))


@pytest.mark.slow
def test_a_profile_of_a_laboratory_goes_from_fields_to_results(tmp_path: Path) -> None:
    fields = tmp_path / "fields"
    fields.mkdir()
    for copy in range(8):
        for path in (ONE_CELL, TWO_CELLS):
            (fields / f"{copy}_{path.name}").write_bytes(path.read_bytes())
    profile = tmp_path / "lab.json"
    assert run("smear", fields, "--out", tmp_path / "before").returncode == 0
    with (tmp_path / "before" / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "labels.csv").open("w", encoding="utf-8") as file:
        table = csv.DictWriter(file, ("image", "cell", "label"))
        table.writeheader()
        for row in rows:
            table.writerow({"image": row["image"], "cell": row["cell"], "label": "monocyte"})
    done = run("adapt", fields, "--labels", tmp_path / "labels.csv", "--out", profile)
    assert done.returncode == 0, done.stderr
    assert (
        run("adapt", ONE_CELL, "--out", tmp_path / "labels.csv").returncode == 2
    )  # not a profile: not replaced
    read = run("smear", ONE_CELL, "--json", "--profile", profile)
    assert read.returncode == 0, read.stderr
    record = FieldRecord.model_validate_json(read.stdout)
    assert record.model is not None and "profile lab " in record.model
    assert record.cells[0].kind == "monocyte"  # as corrected
    cell = run("predict", ONE_CELL, "--bundle", "leukoscope-kinds", "--profile", profile, "--json")
    assert json.loads(cell.stdout)["profile"].startswith("lab ")
    assert run("predict", ONE_CELL, "--profile", profile, "--json").returncode == 2  # another bundle


@pytest.mark.parametrize("form", ["voc", "yolo", "coco"])
def test_own_fields_become_a_cohort(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "fields" / "P7"
    folder.mkdir(parents=True)
    image = save(folder / "a.png", np.asarray(Image.open(TWO_CELLS)))
    boxes = boxes_of(TWO_CELLS)
    options: list[object] = []
    if form == "voc":
        (folder / "a.xml").write_bytes(TWO_CELLS.with_suffix(".xml").read_bytes())
        label = "WBC"
    elif form == "yolo":
        lines = ["0 0.5 0.5 0.0015 0.002"]  # one pixel
        lines += [
            f"1 {(b[1] + b[3]) / 1280} {(b[0] + b[2]) / 960} {(b[3] - b[1]) / 640} {(b[2] - b[0]) / 480}"
            for b in boxes
        ]
        (folder / "a.txt").write_text("\n".join(lines), encoding="utf-8")
        options, label = ["--class", "x", "--class", "monocyte"], "monocyte"
    else:
        coco = {
            "images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 3, "name": "blast"}],
            "annotations": [
                {"id": i, "image_id": 1, "category_id": 3, "bbox": [b[1], b[0], b[3] - b[1], b[2] - b[0]]}
                for i, b in enumerate(boxes)
            ],
        }  # fmt: skip
        (tmp_path / "c.json").write_text(json.dumps(coco), encoding="utf-8")
        options, label = ["--annotations", tmp_path / "c.json"], "blast"
    out = tmp_path / "cells"
    done = run("data", "cut", image, "--out", out, "--microns-per-pixel", 0.078, "--canonical", *options)
    assert done.returncode == 0, done.stderr
    with (out / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(boxes)
    assert {(row["label"], row["subject"]) for row in rows} == {(label, "P7")}
    with Image.open(out / rows[0]["file"]) as cell:
        assert cell.size == (450, 450)
        assert np.asarray(cell)[:20].max() == 0
    assert (FIELDS / "SOURCES.md").exists()


def test_a_cut_cohort_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    (tmp_path / "blast").mkdir()
    image = save(tmp_path / "blast" / "a.png", draw_field(white_cells=((0.3, 0.3), (0.6, 0.7))))
    done = run("data", "cut", image, "--out", tmp_path / "cells", "--unlabeled", "--canonical")
    assert done.returncode == 0, done.stderr
    assert (
        run("data", "import", tmp_path / "cells" / "cells.csv", "--out", tmp_path / "table.csv").returncode
        == 0
    )


def test_touching_cut_and_blurred_cells_are_marked_in_the_table(tmp_path: Path) -> None:
    field = Image.open(TWO_CELLS)
    folder = tmp_path / "fields"
    folder.mkdir()
    field.save(folder / "a_touching.png")
    field.crop((200, 0, 640, 480)).save(folder / "b_cut.png")
    field.filter(ImageFilter.GaussianBlur(12)).save(folder / "c_blurred.png")
    out = tmp_path / "out"
    run("smear", folder, "--out", out, "-q", "--microns-per-pixel", "0.077")
    with (out / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    marks = {
        name: [row for row in rows if Path(row["image"]).stem == name]
        for name in ("a_touching", "b_cut", "c_blurred")
    }
    assert [row["touches_cell"] for row in marks["a_touching"]] == ["true", "true"]
    assert {row["touches_border"] for row in marks["a_touching"]} == {"false"}
    assert "true" in {row["touches_border"] for row in marks["b_cut"]}
    assert "cut_off" in {reason for row in marks["b_cut"] for reason in row["reasons"].split()}
    assert marks["c_blurred"] and {row["in_focus"] for row in marks["c_blurred"]} == {"false"}
    with (out / "fields.csv").open(newline="") as file:
        assert {row["smudge_cells"] for row in csv.DictReader(file)} <= {"0", "1", ""}
