"""``predict`` takes photographs as well as cut-out cells: one row per found cell."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import leukoscope
from leukoscope.assets import other_images_directory, sample_cells_directory
from leukoscope.cli.main import app
from leukoscope.core.terms import Reason, WarningCode
from leukoscope.imaging.decode import decode_image
from leukoscope.inference.cells import Predictions, Source
from leukoscope.inference.predictor import Predictor
from leukoscope.models.files import SAMPLE
from leukoscope.models.registry import KINDS_MODEL
from leukoscope.smear.photographs import take_photographs
from smear_fields import draw_field

FIELDS = Path(__file__).parents[1] / "data" / "smear_fields"
TWO_CELLS = FIELDS / "BloodImage_00176.jpg"
BOXES = [(34, 107, 234, 324), (102, 306, 246, 460)]
ONE_CELL = FIELDS / "BloodImage_00125.jpg"
PHOTOGRAPHS = sorted((other_images_directory() / "pbc").glob("*.jpg"))
CELL = next(sample_cells_directory().glob("fold_0/all/*.webp"))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return leukoscope.load_model()


def iou(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, height) * max(0, width)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return str(result.stdout)


def test_each_cell_of_a_photograph_has_a_row_with_its_box(predictor: Predictor) -> None:
    rows = predictor.predict(TWO_CELLS)
    assert isinstance(rows, Predictions)
    assert [(row.cell, row.result.cells) for row in rows] == [(1, 2), (2, 2)]
    for box in BOXES:
        assert max(iou(row.box, box) for row in rows if row.box is not None) > 0.6
    for row in rows:
        assert (row.result.width_px, row.result.height_px) == (640, 480)
        assert row.result.microns_per_pixel == pytest.approx(0.077, rel=0.1)
        assert [warning.code for warning in row.result.warnings] == [WarningCode.OTHER_LABORATORY]
        assert row.canvas is not None and row.canvas.shape == (450, 450, 3)
        assert (row.canvas[0] == 0).all() and (row.canvas[:, -1] == 0).all()


def test_the_cell_on_the_canvas_has_the_scale_of_the_model(predictor: Predictor) -> None:
    (one,) = [predictor.predict(ONE_CELL)]
    image = Image.open(ONE_CELL)
    large = image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)
    (other,) = predictor.predict([np.asarray(large)])
    assert one.descriptors is not None and other.descriptors is not None
    assert other.descriptors.area_px == pytest.approx(one.descriptors.area_px, rel=0.15)
    assert other.box is not None and one.box is not None
    assert iou(tuple(round(side / 2) for side in other.box), one.box) > 0.8


def test_a_cut_out_has_the_same_result_as_without_photographs(predictor: Predictor) -> None:
    plain = Predictor(predictor.bundle, predictor.session)
    assert plain.photographs is None
    for path in sorted(CELL.parent.iterdir())[:4]:
        one, other = plain.predict(path), predictor.predict(path)
        leave = {"duration_ms"}
        assert one.result.model_dump(exclude=leave) == other.result.model_dump(exclude=leave)
        assert one.cell is None and one.box is None
        assert np.array_equal(one.embedding, other.embedding)
        assert np.array_equal(one.canvas, other.canvas)


def test_a_cut_out_on_white_or_transparent_ground_is_the_same_cell(
    predictor: Predictor, tmp_path: Path
) -> None:
    rgb = decode_image(CELL)
    ground = (rgb == 0).all(axis=2)
    Image.fromarray(np.where(ground[..., None], 255, rgb).astype(np.uint8)).save(tmp_path / "white.png")
    alpha = np.where(ground, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "clear.png")
    expected = predictor.predict(CELL)
    for name in ("white.png", "clear.png"):
        assert predictor.predict(tmp_path / name).probability == expected.probability


@pytest.mark.parametrize(
    ("rgb", "reason"),
    [
        (draw_field(white_cells=()), Reason.NO_CELLS),
        (np.full((300, 400, 3), 128, np.uint8), Reason.BLANK),
        (np.full((300, 400, 3), (240, 200, 220), np.uint8), Reason.BLANK),
        (np.full((40, 40, 3), (240, 200, 220), np.uint8), Reason.TOO_SMALL),
    ],
)
def test_a_photograph_without_cells_has_one_row_with_one_reason(
    predictor: Predictor, rgb: np.ndarray, reason: Reason
) -> None:
    row = predictor.predict(rgb)
    assert [entry.code for entry in row.reasons] == [reason]
    assert row.cell is None and row.decision == "rejected"


def test_a_photograph_without_a_scale_names_the_option(predictor: Predictor) -> None:
    rgb = decode_image(ONE_CELL)[140:300, 110:270]  # one white cell, hardly a red one
    row = predictor.predict(rgb)
    assert [entry.code for entry in row.reasons] == [Reason.NO_SCALE]
    assert "--microns-per-pixel" in row.reasons[0].message
    given = take_photographs(Predictor(predictor.bundle, predictor.session), 0.08).predict(rgb)
    assert given.cell == 1 and given.result.microns_per_pixel == 0.08


def test_a_cell_at_the_border_is_rejected(predictor: Predictor) -> None:
    rgb = decode_image(TWO_CELLS)[:, 200:]
    rows = [row for row in predictor.stream([rgb]) if row.box is not None and row.box[1] == 0]
    assert [row.reasons[0].code for row in rows] == [Reason.CUT_OFF]


def test_a_stream_of_all_forms_keeps_its_order_and_reads_little_ahead(
    predictor: Predictor,
) -> None:
    taken = []

    def sources():
        for number in range(40):
            taken.append(number)
            yield Source(f"{number}", TWO_CELLS if number % 8 == 1 else CELL)

    rows = predictor.stream(sources())
    first = [next(rows) for _ in range(3)]
    assert [(row.source, row.cell) for row in first] == [("0", None), ("1", 1), ("1", 2)]
    assert len(taken) < 20
    names = [row.source for row in first] + [row.source for row in rows]
    assert names == [str(number) for number in range(40) for _ in range(2 if number % 8 == 1 else 1)]


def test_json_csv_and_folder_have_one_row_per_cell(tmp_path: Path) -> None:
    printed = call(TWO_CELLS, CELL, "--json", "--out", tmp_path / "out", "--csv", tmp_path / "table.csv")
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["cell"] for row in rows] == [1, 2, None]
    assert [row["source"] for row in rows] == [str(TWO_CELLS), str(TWO_CELLS), str(CELL)]
    assert rows[0]["box"] and rows[2]["box"] is None
    for path in (tmp_path / "table.csv", tmp_path / "out" / "results.csv"):
        with path.open(newline="") as file:
            table = list(csv.DictReader(file))
        assert [entry["cell"] for entry in table] == ["1", "2", ""]
        assert [entry["box"] for entry in table] == [" ".join(map(str, row["box"] or ())) for row in rows]
        assert table[0]["warnings"] == "other_laboratory" and not table[2]["warnings"]
    assert [
        json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    ] == rows
    assert len(list((tmp_path / "out" / "heat_maps").iterdir())) == 3


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_resume_continues_within_a_photograph(tmp_path: Path, kept: int) -> None:
    sources = (CELL, TWO_CELLS, TWO_CELLS, CELL)
    out = tmp_path / "out"
    call(*sources, "--out", out)
    path = out / "results.jsonl"
    whole = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["cell"] for row in whole] == [None, 1, 2, 1, 2, None]
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:kept]))
    call(*sources, "--out", out, "--resume")
    again = [json.loads(line) for line in path.read_text().splitlines()]
    leave = {"duration_ms"}
    assert [{k: v for k, v in row.items() if k not in leave} for row in again] == [
        {k: v for k, v in row.items() if k not in leave} for row in whole
    ]


def test_the_table_names_cells_and_counts_images() -> None:
    printed = call(TWO_CELLS, CELL)
    assert f"{TWO_CELLS}, cell 2" in printed
    assert "2 images, 3 results" in printed
    assert printed.count("warning:") == 1  # the same for both cells of the photograph


def test_an_impossible_scale_is_refused() -> None:
    call(TWO_CELLS, "--microns-per-pixel", "-1", code=2)


@pytest.fixture(scope="module")
def kinds() -> Predictor:
    return leukoscope.load_model(KINDS_MODEL)


@pytest.mark.parametrize("path", [TWO_CELLS, ONE_CELL, *PHOTOGRAPHS], ids=lambda path: path.stem)
def test_a_model_of_uncut_cells_gives_the_kinds_of_a_smear(kinds: Predictor, path: Path) -> None:
    (reading,) = leukoscope.read_smear(path, classifier=KINDS_MODEL)
    rows = list(kinds.stream([path]))
    cells = reading.record.cells
    if not cells:  # the object in the middle of a small image is no white cell
        assert [row.label for row in rows] == [
            "platelet" if path.stem.startswith("PLATELET") else "erythroblast"
        ]
        return
    assert [row.box for row in rows] == [cell.box for cell in cells]
    for row, cell in zip(rows, cells, strict=True):
        if cell.touches_border or not cell.in_focus:
            assert row.decision == "rejected"
        else:
            assert row.label == (cell.kind if cell.decision == "called" else None)
            assert all(warning.code is WarningCode.PHOTOGRAPH for warning in row.result.warnings)
            assert row.canvas is not None and row.canvas.shape == (192, 192, 3)


def test_a_small_image_without_scale_is_one_cell_of_assumed_size(kinds: Predictor) -> None:
    rgb = decode_image(ONE_CELL)[140:300, 110:270]
    row = kinds.predict(rgb)
    assert row.cell == 1 and row.box == (0, 0, 160, 160)
    assert [warning.code for warning in row.result.warnings] == [WarningCode.ASSUMED_SCALE]
    assert row.result.microns_per_pixel == pytest.approx(30 / 160)
    large = np.tile(rgb[:1, :1], (600, 800, 1))
    large[200:360, 300:460] = rgb
    assert [reason.code for reason in kinds.predict(large).reasons] == [Reason.NO_SCALE]


def test_a_prepared_crop_is_used_unchanged(kinds: Predictor) -> None:
    expected = kinds.bundle.expected.cells[0]
    row = kinds.predict(kinds.bundle.directory / SAMPLE / expected.file)
    assert row.cell is None and row.label == expected.label
