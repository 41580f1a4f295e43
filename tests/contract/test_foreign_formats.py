"""Files of other formats: every command names the format and the remedy, and the good files go on."""

import json
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from foreign_files import FOREIGN, picture, tiff_with
from leukoscope.cli.main import app
from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.data.importing import report_path
from leukoscope.data.table import read_cells
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.foreign_formats import is_zip_archive, name_foreign_format
from leukoscope.smear.files import open_field
from small_bundle import sample_paths
from smear_fields import draw_field, save
from web_fixtures import form

Answers = dict[str, tuple[str, str]]
"""File -> code and message."""


def call(*words: object, exit_code: int = 1) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every foreign file under the name of an image, and a good cell and a good field."""
    folder = tmp_path_factory.mktemp("foreign") / "hem"
    folder.mkdir()
    for name, (write, _, _) in FOREIGN.items():
        (folder / f"{name}.png").write_bytes(write())
    shutil.copy(sample_paths()[0], folder / "cell.webp")
    save(folder / "field.png", draw_field())
    return folder


@pytest.fixture(scope="module")
def answers(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, small_bundle_path: Path
) -> dict[str, Answers]:
    """What each command says of each file."""
    out = tmp_path_factory.mktemp("out")
    answers: dict[str, Answers] = {}
    rows = [
        json.loads(line)
        for line in call("predict", folder, "--json", "--bundle", small_bundle_path).stdout.splitlines()
    ]
    answers["predict"] = {
        Path(row["source"]).stem: (row["reasons"][0]["code"], row["reasons"][0]["message"])
        for row in rows
        if row["reasons"]
    }
    rows = [json.loads(line) for line in call("smear", folder, "--json").stdout.splitlines()]
    answers["smear"] = {
        Path(row["image"]).stem: (row["reason"], row["message"]) for row in rows if row["reason"]
    }
    call("data", "import", folder.parent, "--out", out / "cells.csv")
    issues = json.loads(report_path(out / "cells.csv").read_text())["report"]["issues"]
    answers["import"] = {
        Path(row["file"]).stem: (Reason.UNKNOWN_FORMAT.value, row["message"])
        for row in issues
        if row["kind"] == "unreadable"
    }
    files = json.loads(call("data", "verify", folder, "--json").stdout)["files"]
    answers["verify"] = {
        Path(row["file"]).stem: (Reason.UNKNOWN_FORMAT.value, row["message"]) for row in files
    }
    odd = json.loads(call("data", "cut", folder, "--out", out / "cut", "--json").stdout)["odd"]
    answers["cut"] = {Path(name).stem: (Reason.UNKNOWN_FORMAT.value, message) for name, message in odd}
    return answers


@pytest.mark.parametrize("command", ["predict", "smear", "import", "verify", "cut"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_every_command_names_the_format_and_the_remedy(
    answers: dict[str, Answers], command: str, kind: str
) -> None:
    code, message = answers[command][kind]
    _, name, remedy = FOREIGN[kind]
    assert name in message
    assert remedy in message
    if kind.startswith("dicom") and command in ("predict", "smear"):
        assert code == Reason.MULTIPLE_FRAMES  # read as DICOM, and the frames counted
        return
    assert code == Reason.UNKNOWN_FORMAT
    if kind.startswith("dicom") and command != "cut":
        assert "leukoscope smear" in message


@pytest.mark.parametrize("command", ["predict", "smear", "import", "cut"])
def test_one_foreign_file_never_costs_the_others(answers: dict[str, Answers], command: str) -> None:
    good = "cell" if command in ("predict", "import") else "field"
    assert answers[command].get(good, ("", ""))[0] in (
        "",
        Reason.BOTH_PLAUSIBLE,
        Reason.NOVEL,
        Reason.NEITHER_PLAUSIBLE,
    )
    assert set(FOREIGN) <= set(answers[command])


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind != "zip"])
def test_an_upload_names_the_format(client, kind: str) -> None:
    write, name, remedy = FOREIGN[kind]
    [row] = client.post("/api/v1/predict", data=form([("cell.png", write())])).get_json()
    assert row["reasons"][0]["code"] == "unknown_format"
    assert name in row["reasons"][0]["message"]
    assert remedy in row["reasons"][0]["message"]


@pytest.mark.parametrize(
    ("tags", "name"),
    [({270: "Aperio Image Library v1|MPP = 0.25"}, "Aperio SVS"), ({65420: 1}, "Hamamatsu NDPI")],
)
def test_a_slide_is_a_field_to_smear_and_named_to_the_others(tags: dict[int, int | str], name: str) -> None:
    content = tiff_with(tags)
    with pytest.raises(ImageError, match=name) as raised:
        decode_image(content)
    assert raised.value.reason is Reason.UNKNOWN_FORMAT
    assert open_field(content).picture.width_px == 64


def test_every_command_reads_a_big_tiff_as_it_reads_the_classic_one(
    client, tmp_path: Path, small_bundle_path: Path
) -> None:
    with Image.open(sample_paths()[0]) as image:
        cell, field = image.convert("RGB").crop((35, 35, 415, 415)), Image.fromarray(draw_field())
    for name, image in (("hem/cell", cell), ("fields/field", field)):
        for big in (False, True):
            path = tmp_path / ("big" if big else "classic") / f"{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = BytesIO()
            image.save(stream, "TIFF", big_tiff=big)
            path.write_bytes(stream.getvalue())
    answers = []
    for folder in (tmp_path / "classic", tmp_path / "big"):
        cell_file, field_file = folder / "hem" / "cell.tif", folder / "fields" / "field.tif"
        row = json.loads(
            call("predict", cell_file, "--json", "--bundle", small_bundle_path, exit_code=0).stdout
        )
        smeared = json.loads(call("smear", field_file, "--json", exit_code=0).stdout.splitlines()[0])
        call("data", "import", folder / "hem", "--out", folder / "cells.csv", exit_code=0)
        call("data", "cut", folder / "fields", "--out", folder / "cut", "--unlabeled", exit_code=0)
        [uploaded] = client.post(
            "/api/v1/predict", data=form([("cell.tif", cell_file.read_bytes())])
        ).get_json()
        cut = sorted(path.name for path in (folder / "cut").rglob("*.png"))
        cells = read_cells(folder / "cells.csv")[["width_px", "height_px", "area_px"]].to_numpy().tolist()
        answers.append((row["probability"], smeared["width_px"], cells, uploaded["probability"], cut))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", ["BMP", "PNG", "JPEG", "TIFF", "WEBP"])
def test_images_that_are_read_are_not_foreign(kind: str) -> None:
    stream = BytesIO()
    picture().save(stream, kind)
    assert name_foreign_format(stream.getvalue()) is None
    assert decode_image(stream.getvalue()).shape == (64, 64, 3)


def test_an_archive_that_holds_a_workbook_is_an_archive() -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("table.xlsx", FOREIGN["xlsx"][0]())
        archive.writestr("cell.png", b"")
    assert is_zip_archive(stream.getvalue())
    assert not is_zip_archive(FOREIGN["xlsx"][0]())
    assert is_zip_archive(b"PK\x03\x04 cut short")


# Files that operating systems, cameras' sync tools and archivers leave.

SYSTEM = (
    "@eaDir/cell.webp", "$RECYCLE.BIN/a.png", "__MACOSX/._cell.webp", ".DS_Store", "Thumbs.db", "._cell.webp",
    "desktop.ini", "lost+found/b.png", ".Trashes/c.png", "System Volume Information/d.png",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "hem").mkdir(parents=True)
    for name in SYSTEM:
        path = tree / "hem" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not an image")
    shutil.copy(sample_paths()[0], tree / "hem" / "cell.webp")
    save(tree / "hem" / "field.png", draw_field())
    return tree


def _predict(tree: Path, bundle: Path) -> tuple[int, str, int]:
    result = call("predict", tree, "--json", "--bundle", bundle, exit_code=0)
    images = {json.loads(line)["source"] for line in result.stdout.splitlines()}
    return len(images), result.stderr, 0


def _smear(tree: Path, bundle: Path) -> tuple[int, str, int]:
    result = call("smear", tree, "--json", exit_code=1)
    return len(result.stdout.splitlines()), result.stderr, 0


def _import(tree: Path, bundle: Path) -> tuple[int, str, int]:
    result = call("data", "import", tree, "--out", tree.parent / "cells.csv", exit_code=0)
    return (
        2,
        result.output.replace("10 x system file", "10 files and folders of an operating system skipped"),
        0,
    )


def _verify(tree: Path, bundle: Path) -> tuple[int, str, int]:
    result = call("data", "verify", tree, exit_code=1)
    shown = json.loads(call("data", "verify", tree, "--json").stdout)
    return len(shown["files"]), result.output, len(shown["system_files"]) - len(SYSTEM)


def _cut(tree: Path, bundle: Path) -> tuple[int, str, int]:
    result = call("data", "cut", tree, "--out", tree.parent / "cut", "--json", exit_code=1)
    report = json.loads(result.stdout)
    return report["fields"] + report["rejected"], result.stderr, report["system_files"] - len(SYSTEM)


@pytest.mark.parametrize("command", [_predict, _smear, _import, _verify, _cut])
def test_files_of_systems_are_skipped_and_counted(
    tree: Path, command: Callable[[Path, Path], tuple[int, str, int]], small_bundle_path: Path
) -> None:
    images, text, difference = command(tree, small_bundle_path)
    assert images == 2
    assert "10 files and folders of an operating system skipped" in " ".join(text.split())
    assert difference == 0


def test_an_upload_skips_files_of_systems(client) -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in SYSTEM:
            archive.writestr(f"smear 1/{name}", b"not an image")
        archive.write(sample_paths()[0], "smear 1/cell.webp")
    rows = client.post("/api/v1/predict", data=form([("cells.zip", stream.getvalue())])).get_json()
    assert [row["source"] for row in rows] == ["cell.webp"]
