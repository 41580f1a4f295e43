"""``leukoscope data explore``: one picture of a cohort."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from leukoscope import assets
from leukoscope.cli.main import run as run_program


def leukoscope(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run_program([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    table = tmp_path / "cells.csv"
    assert leukoscope("data", "import", assets.sample_cells_directory(), "--out", table) == 0
    return table


def test_a_cohort_is_drawn_and_its_audit_printed(table: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    assert leukoscope("data", "explore", table, "--out", tmp_path / "cohort.png", "--json") == 0
    audit = json.loads(capsys.readouterr().out)["audit"]
    assert audit["cells"] == 60
    assert sum(subject["blast"] for subject in audit["subjects"]) == 30
    with Image.open(tmp_path / "cohort.png") as image:
        assert image.width > 1500
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
    assert {(0, 0x61, 0xA0), (0xB0, 0x43, 0)} <= colors  # both classes are drawn in their colors


def test_the_same_table_gives_the_same_picture(table: Path, tmp_path: Path) -> None:
    for name in ("one.svg", "other.svg"):
        assert leukoscope("data", "explore", table, "--out", tmp_path / name) == 0
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


def test_a_cell_whose_file_is_gone_leaves_its_place_empty(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    for path in sorted(assets.sample_cells_directory().rglob("*.webp"))[:4]:
        buffer = io.BytesIO()
        Image.open(path).save(buffer, "PNG")
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / f"{path.stem}.png").write_bytes(buffer.getvalue())
    assert leukoscope("data", "import", folder, "--out", tmp_path / "cells.csv") == 0
    next(folder.rglob("*.png")).unlink()
    assert leukoscope("data", "explore", tmp_path / "cells.csv", "--out", tmp_path / "cohort.png") == 0
    assert (tmp_path / "cohort.png").stat().st_size > 10_000


def test_another_suffix_is_refused_before_the_table_is_read(tmp_path: Path, capsys) -> None:
    assert leukoscope("data", "explore", tmp_path / "none.csv", "--out", tmp_path / "cohort.bmp") == 2
    assert ".png or .svg" in capsys.readouterr().err
