"""``leukoscope predict`` and ``bundle`` as a person or a program uses them."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from leukoscope.assets import other_images_directory
from leukoscope.cli.main import app
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.inference.predictor import Predictor
from leukoscope.models.bundle import Bundle
from small_bundle import sample_paths

PATHS = sample_paths()
UNCUT = sorted(other_images_directory().glob("pbc/*.jpg"))[0]


@pytest.fixture
def run(small_bundle_path: Path):
    def call(*arguments: object, stdin: bytes | None = None, bundle: bool = True) -> Result:
        words = [str(argument) for argument in arguments]
        if bundle:
            words += ["--bundle", str(small_bundle_path)]
        return CliRunner().invoke(app, words, input=stdin)

    return call


def rows_of(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_cell_gets_a_row_and_the_notice(run) -> None:
    result = run("predict", PATHS[0])
    assert result.exit_code == 0
    head, row, notice = result.stdout.splitlines()[:3]
    assert head.split() == ["decision", "P(blast)", "subject", "image"]
    assert row.split()[0] in ("blast", "normal", "uncertain")
    assert row.endswith(str(PATHS[0]))
    assert RESEARCH_USE in (notice, result.stdout.splitlines()[-1])


def test_json_lines_follow_the_published_schema_in_the_order_of_the_input(run, tmp_path: Path) -> None:
    schema = json.loads(run("predict", "--schema", bundle=False).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    given = [PATHS[3], tmp_path / "missing.png", PATHS[0], UNCUT, PATHS[7]]
    result = run("predict", *given, "--json")
    rows = rows_of(result)
    assert [row["source"] for row in rows] == [str(path) for path in given]
    for row in rows:
        validator.validate(row)
        assert set(row) >= {"source", "decision", "probability", "reasons", "subject", "model"}
        assert (row["probability"] is None) == (row["decision"] == "rejected")
        assert bool(row["reasons"]) == (row["decision"] in ("rejected", "uncertain"))
    assert result.exit_code == 1  # two images were refused, the others have their results
    assert [row["subject"] for row in rows] == ["17", None, "11", None, "22"]


def test_the_schema_rejects_invalid_results(run) -> None:
    schema = json.loads(run("predict", "--schema", bundle=False).stdout)
    [row] = rows_of(run("predict", PATHS[0], "--json"))
    for change in ({"probability": 1.5}, {"status": "cancer"}, {"extra": 1}, {"model": None}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**row, **change}, schema)


def test_the_result_folder_is_complete(run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    sheet, table = tmp_path / "sheet.html", tmp_path / "extra.csv"
    result = run("predict", PATHS[0], PATHS[1], UNCUT, "--out", out, "--sheet", sheet, "--csv", table)
    assert result.exit_code == 0
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == [str(PATHS[0]), str(PATHS[1]), str(UNCUT)]
    for row in rows[:2]:
        with Image.open(row["heat_map"]) as overlay, Image.open(row["source"]) as cell:
            assert overlay.size == cell.size == (450, 450)
            changed = np.asarray(overlay.convert("RGB")) != np.asarray(cell.convert("RGB"))
            assert 0 < changed.mean() < 1
    assert [row["cell"] for row in rows] == [None, None, 1]
    for path in (out / "results.csv", table):
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert [line["source"] for line in lines] == [row["source"] for row in rows]
        assert [line["decision"] for line in lines] == [row["decision"] for row in rows]
        assert float(lines[0]["probability"]) == rows[0]["probability"]
    with (out / "subjects.csv").open(newline="") as file:
        assert [line["subject"] for line in csv.DictReader(file)] == ["11", "14"]
    page = sheet.read_text()
    assert page.count("<article>") == 3
    assert page.count("data:image/png;base64,") == 7  # legend, three cells with maps
    assert RESEARCH_USE in page
    assert "http" not in page  # nothing is loaded from elsewhere


def test_the_sheet_can_be_a_picture(run, tmp_path: Path) -> None:
    result = run("predict", PATHS[0], PATHS[1], "-q", "--sheet", tmp_path / "sheet.png")
    assert result.stdout == ""
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 900


def test_page_and_csv_are_safe_against_hostile_names(run, tmp_path: Path) -> None:
    name = tmp_path / "=cmd<img src=x onerror=alert(1)>.webp"
    shutil.copy(PATHS[0], name)
    subjects = tmp_path / "subjects.csv"
    subjects.write_text(f'source,subject\n"{name.name}",=1+1\n')
    sheet = tmp_path / "sheet.html"
    run("predict", name, PATHS[1], "--sheet", sheet, "--subjects", subjects, "--out", tmp_path / "out")
    assert "<img src=x" not in sheet.read_text()
    with (tmp_path / "out" / "subjects.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["subject"] == "'=1+1"


def test_subjects_are_pooled_from_the_table(run, tmp_path: Path) -> None:
    subjects = tmp_path / "subjects.csv"
    subjects.write_text("source,subject\n" + "".join(f"{path.name},patient-1\n" for path in PATHS[:4]))
    result = run("predict", *PATHS[:4], "--subjects", subjects)
    line = next(line for line in result.stdout.splitlines() if line.startswith("patient-1") and "%" in line)
    assert line.split()[3] == "4"


def test_equal_file_names_of_two_subjects_are_distinguished(run, tmp_path: Path) -> None:
    for name in ("p1/001.webp", "p2/001.webp", "p2/002.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PATHS[0], tmp_path / name)
    table = tmp_path / "t.csv"
    table.write_text("source,subject\np1/001.webp,Anna\np2/002.webp,Bert\np3/001.webp,Carl\n")
    result = run("predict", tmp_path / "p1", tmp_path / "p2", "--subjects", table, "--json")
    assert [row["subject"] for row in rows_of(result)] == ["Anna", None, "Bert"]
    assert re.search(rf"{re.escape(str(table))}.*\b1\b", result.stderr)


def test_archives_lists_and_standard_input(run, tmp_path: Path) -> None:
    archive = tmp_path / "cells.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(PATHS[0], "one/a.webp")
        file.writestr("one/b.png", b"no image")
    rows = rows_of(run("predict", archive, "--json"))
    assert [row["source"] for row in rows] == [f"{archive}/one/a.webp", f"{archive}/one/b.png"]
    assert [row["decision"] == "rejected" for row in rows] == [False, True]
    [piped] = rows_of(run("predict", "-", "--json", stdin=PATHS[0].read_bytes()))
    assert piped["logit"] == pytest.approx(rows[0]["logit"], abs=1e-6)
    listed = run("predict", "--stdin-list", "--json", stdin="\n".join(map(str, PATHS[:3])).encode())
    assert [row["source"] for row in rows_of(listed)] == [str(path) for path in PATHS[:3]]


def test_an_interrupted_batch_is_resumed(run, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("predict", *PATHS[:6], "--out", whole, "-q")
    run("predict", *PATHS[:6], "--out", parts, "-q")
    journal = parts / "results.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + lines[2][:40])  # killed within the third row
    again = run("predict", *PATHS[:6], "--out", parts, "--resume", "--json")
    assert [row["source"] for row in rows_of(again)] == [str(path) for path in PATHS[2:6]]
    strip = {"duration_ms", "heat_map"}
    first, second = (
        [
            {key: value for key, value in json.loads(line).items() if key not in strip}
            for line in text.splitlines()
        ]
        for text in ((folder / "results.jsonl").read_text() for folder in (whole, parts))
    )
    assert first == second
    assert (whole / "subjects.csv").read_text() == (parts / "subjects.csv").read_text()
    other = run("predict", *PATHS[1:7], "--out", parts, "--resume")
    assert other.exit_code == 2
    assert str(PATHS[1]) in other.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ""),
        (("{empty}",), "{empty}"),
        (("{missing}/*.png",), "{missing}/*.png"),
        (("x.png", "--resume"), "--out DIR"),
        (("x.png", "--sheet", "s.gif"), ".png"),
        (("x.png", "--engine", "tpu"), "openvino"),
        (("x.png", "--tta", "5"), "1, 4, 8"),
        (("x.png", "--threads", "0"), "--threads"),
        (("x.png", "--operating-point", "best"), "balanced, sensitive"),
        (("x.png", "--subjects", "{missing}"), "{missing}"),
        (("-", "--stdin-list"), "--stdin-list"),
        (("--stdin-list",), ".png"),
        (("x.png", "--nonsense"), "--nonsense"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(run, tmp_path: Path, arguments: tuple, words: str) -> None:
    (tmp_path / "empty").mkdir(exist_ok=True)
    *filled, words = (
        word.format(empty=tmp_path / "empty", missing=tmp_path / "missing") for word in (*arguments, words)
    )
    result = run("predict", *filled)
    assert result.exit_code == 2
    assert result.stderr.strip() and words in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


BAD_FILES = {
    "missing.png": None,
    "empty.png": b"",
    "text.png": b"this is text",
    "cut.bmp": b"BM" + bytes(30),
    "tiny.png": "1x1",
    "grey16.png": "I;16",
    "cmyk.jpg": "CMYK",
    "animated.webp": "frames",
}


@pytest.mark.parametrize("name", list(BAD_FILES))
def test_a_bad_image_ends_with_1_one_reason_and_no_traceback(run, tmp_path: Path, name: str) -> None:
    content = BAD_FILES[name]
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "1x1":
        Image.new("RGB", (1, 1)).save(path)
    elif content == "frames":
        frames = [Image.new("RGB", (450, 450), (n, 0, 0)) for n in (0, 90)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif content is not None:
        Image.new(content, (450, 450)).save(path)
    result = run("predict", path, PATHS[0], "--json")
    bad, good = rows_of(result)
    assert result.exit_code == 1
    assert bad["decision"] == "rejected"
    assert len(bad["reasons"]) == 1
    assert "\n" not in bad["reasons"][0]["message"]
    assert good["decision"] != "rejected"
    assert "Traceback" not in result.output


def test_an_empty_folder_among_others_is_a_warning(run, tmp_path: Path) -> None:
    result = run("predict", tmp_path, PATHS[0], "--json")
    assert result.exit_code == 0
    assert len(rows_of(result)) == 1
    assert str(tmp_path) in result.stderr


def test_a_folder_in_place_of_an_image_is_read_as_a_folder(run, tmp_path: Path) -> None:
    shutil.copy(PATHS[0], tmp_path / "a.webp")
    assert [row["source"] for row in rows_of(run("predict", tmp_path, "--json"))] == [
        str(tmp_path / "a.webp")
    ]


def test_an_altered_bundle_classifies_nothing(run, small_bundle_path: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(small_bundle_path, tmp_path / "bundle"))
    with (bundle / "decision.json").open("a") as file:
        file.write(" ")
    result = run("predict", PATHS[0], "--bundle", bundle, bundle=False)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "decision.json" in result.stderr
    verified = run("bundle", "verify", bundle, "--json", bundle=False)
    assert verified.exit_code == 1
    assert not json.loads(verified.stdout)["passed"]


def test_bundle_verify_and_show(run, small_bundle_path: Path) -> None:
    sha256 = Bundle.open(small_bundle_path).sha256
    both = ("--engine", "openvino", "--engine", "onnxruntime")
    result = run("bundle", "verify", small_bundle_path, "--expect", sha256, *both, "--json", bundle=False)
    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert answer["passed"]
    assert [check["name"] for check in answer["checks"]].count("reproduce") == 2
    assert run("bundle", "verify", small_bundle_path, "--expect", "0" * 64, bundle=False).exit_code == 1
    shown = json.loads(run("bundle", "show", small_bundle_path, "--json", bundle=False).stdout)
    assert shown["sha256"] == sha256
    card = run("bundle", "show", small_bundle_path, "--card", bundle=False).stdout
    assert card == (small_bundle_path / "MODEL_CARD.md").read_text()
    assert sha256 in run("bundle", "show", small_bundle_path, bundle=False).stdout


def test_explain_check_measures_the_maps(run, tmp_path: Path) -> None:
    out = tmp_path / "explanations.json"
    result = run("explain-check", PATHS[0], PATHS[1], PATHS[2], PATHS[40], UNCUT, "--out", out)
    assert result.exit_code == 0, result.output
    assert re.search(r"\b4\b.*\b4\b", result.stdout)
    measures = json.loads(out.read_text())["measures"]
    assert 0 < measures["energy_inside"]["value"] < 1
    assert measures["area_share"]["n_cells"] == 4
    assert measures["relevance_gap"]["value"] > 0


def test_engines_agree_on_the_command_line(run) -> None:
    rows = [rows_of(run("predict", *PATHS[:5], "--json", "--engine", e)) for e in ("openvino", "onnxruntime")]
    for first, second in zip(*rows, strict=True):
        assert first["decision"] == second["decision"]
        assert first["logit"] == pytest.approx(second["logit"], abs=1e-5)


def test_results_of_another_subject_table_are_not_continued(run, tmp_path: Path) -> None:
    tables = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for table, subject in zip(tables, ("Anna", "Bert"), strict=True):
        table.write_text(f"source,subject\n{PATHS[0].name},{subject}\n")
    out = tmp_path / "out"
    assert run("predict", PATHS[0], "--out", out, "-q", "--subjects", tables[0]).exit_code == 0
    for other in (("--subjects", tables[1]), ()):
        refused = run("predict", *PATHS[:2], "--out", out, "--resume", "-q", *other)
        assert refused.exit_code == 2
        assert "subjects_sha256" in refused.stderr
    again = run("predict", *PATHS[:2], "--out", out, "--resume", "-q", "--subjects", tables[0])
    assert again.exit_code == 0


def test_the_sheet_of_a_resumed_run_names_missing_images(run, tmp_path: Path) -> None:
    out, page, picture = tmp_path / "out", tmp_path / "s.html", tmp_path / "s.png"
    run("predict", *PATHS[:2], "--out", out, "-q")
    run("predict", *PATHS[:3], "--out", out, "--resume", "-q", "--sheet", page)
    assert page.read_text().count("<article>") == 1
    assert re.search(r"[^.<>]*\b2\b[^.<>]*", page.read_text())
    nothing = run("predict", *PATHS[:3], "--out", out, "--resume", "--sheet", picture)
    assert not picture.exists()
    assert f"written: {picture}" not in nothing.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_of_any_bytes_and_letters_reach_every_output(run, small_bundle_path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    shutil.copy(PATHS[0], folder / os.fsdecode(b"\xff.webp"))
    (folder / os.fsdecode(b"broken\xff.webp")).write_bytes(b"RIFF")
    shutil.copy(PATHS[1], folder / "细胞😀é.webp")
    table = tmp_path / "t.csv"
    out = tmp_path / os.fsdecode(b"out\xe9")
    words = ["predict", folder, "--out", out, "--csv", table, "--sheet", out / "s.html"]
    names = ["broken\\udcff.webp", "细胞😀é.webp", "\\udcff.webp"]
    result = run(*words, "--json")
    assert result.exit_code == 1, result.output
    assert [row["source"].rpartition("/")[2] for row in rows_of(result)] == names
    with table.open(newline="", encoding="utf-8") as file:
        assert [row["source"].rpartition("/")[2] for row in csv.DictReader(file)] == names
    assert run(*words, "--resume", "-q").exit_code == 1
    for encoding in ("latin-1", "ascii"):
        for options in (["--json"], []):
            command = [sys.executable, "-m", "leukoscope.cli.main", "predict", str(folder), *options]
            done = subprocess.run(
                [*command, "--bundle", str(small_bundle_path)],
                capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=False,
            )  # fmt: skip
            assert done.returncode == 1, done.stderr
            if options:
                lines = done.stdout.decode("ascii").splitlines()
                assert [json.loads(line)["source"].rpartition("/")[2] for line in lines] == names


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "{cell}", "--sheet", "{cell}/x.png"),
        ("predict", "{cell}", "--csv", "{cell}/x.csv"),
        ("predict", "{cell}", "--csv", "-"),
        ("predict", "{cell}", "--csv", "{folder}"),
        ("predict", "{cell}", "--out", "{cell}/x"),
        ("demo", "--out", "{cell}"),
        ("explain-check", "{cell}", "--out", "{folder}"),
        ("data", "sample", "{folder}/cells.csv", "--out", "{cell}/x"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, words: tuple) -> None:
    cell = shutil.copy(PATHS[0], tmp_path / "cell.webp")
    before = cell.read_bytes()
    result = CliRunner().invoke(app, [word.format(cell=cell, folder=tmp_path) for word in words])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert cell.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_is_a_one_line_error(small_bundle_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "leukoscope.cli.main", "predict", str(PATHS[0])]
    command += ["--bundle", str(small_bundle_path)]
    for options in (["--json"], ["--csv", "/dev/full", "--quiet"]):
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            done = subprocess.run(
                [*command, *options], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1


def test_an_os_error_names_the_file_and_is_not_an_internal_error(monkeypatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(13, "Permission denied", str(tmp_path / "x"))

    monkeypatch.setattr("leukoscope.cli.predicting.run_predict", refuse)
    result = CliRunner().invoke(app, ["predict", str(PATHS[0])])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"leukoscope: {tmp_path / 'x'}: Permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_and_links_are_written_into_and_not_replaced(run, tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe.csv", tmp_path / "link.csv", tmp_path / "target.csv"
    os.mkfifo(pipe)
    target.touch()
    link.symlink_to(target)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        assert run("predict", PATHS[0], "--csv", pipe, "-q").exit_code == 0
        text, _ = reader.communicate()
    assert text.startswith("source,") and str(PATHS[0]) in text
    assert pipe.is_fifo()
    run("predict", PATHS[0], "--csv", link, "-q")
    assert link.is_symlink()
    assert str(PATHS[0]) in target.read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_control_c_ends_with_130_and_keeps_what_is_done(small_bundle_path: Path, tmp_path: Path) -> None:
    many = tmp_path / "list"
    many.write_text("\n".join(map(str, PATHS * 2000)))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "leukoscope.cli.main", "predict", "--stdin-list", "--no-heat-maps"]
    command += ["--bundle", str(small_bundle_path), "--out", str(out)]
    with (
        many.open("rb") as stdin,
        subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        journal = out / "results.jsonl"
        while process.poll() is None and not (journal.exists() and journal.stat().st_size):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
    lines = journal.read_text().splitlines()
    assert lines
    assert [json.loads(line)["source"] for line in lines] == [
        str(path) for path in (PATHS * 2000)[: len(lines)]
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_a_folder_takes_one_process_at_a_time_and_a_kill_frees_it(run, small_bundle_path, tmp_path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "leukoscope.cli.main", "predict", "--stdin-list", "--quiet"]
    command += ["--no-heat-maps", "--bundle", str(small_bundle_path), "--out", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write("".join(f"{path}\n" for path in PATHS[:4]).encode())
        process.stdin.flush()  # left open: the process waits for more
        while process.poll() is None and not (out / "results.jsonl").exists():
            time.sleep(0.05)
        second = run("predict", *PATHS[:4], "--out", out, "--resume", "-q")
        assert second.exit_code == 2
        assert str(out) in second.stderr
        process.kill()
    assert run("predict", *PATHS[:4], "--out", out, "--resume", "-q").exit_code == 0
    rows = [json.loads(line)["source"] for line in (out / "results.jsonl").read_text().splitlines()]
    assert rows == [str(path) for path in PATHS[:4]]


def test_the_shipped_bundle_classifies_the_shipped_cells(shipped_bundle_path: Path) -> None:
    predictor = Predictor.open(shipped_bundle_path)
    predictions = predictor.predict(PATHS[:4])
    assert all(entry.activation_map is not None for entry in predictions)
    assert all(entry.result.model.sha256 == predictor.bundle.model_sha256 for entry in predictions)
