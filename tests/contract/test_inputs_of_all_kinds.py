"""Labels, gaps, subjects and encodings: one test per kind, over every command that it concerns."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cohort_files import write_cohort
from leukoscope.cli.main import app
from leukoscope.core.errors import CohortError, ConfigError, UsageError
from leukoscope.core.subjects import (
    check_spelling,
    likely_equal,
    normalize_subject,
    read_subjects,
    spelling_key,
)
from leukoscope.core.text import TextError, decode_text, format_rows, parse_table, read_table
from leukoscope.data.importing import import_cohort
from leukoscope.data.layouts import IssueKind
from leukoscope.data.table import read_cells
from small_bundle import sample_paths
from smear_fields import TWO_CELLS
from synthetic_cohort import write_image


def call(*words: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def labels_of(folder: Path, **options: object) -> dict[str, str]:
    import_cohort(folder, folder.parent / "cells.csv", **options)
    cells = read_cells(folder.parent / "cells.csv")
    return {key.partition("/")[2]: label for key, label in zip(cells["cell"], cells["label"], strict=True)}


# 2. Labels.

READINGS = [
    (("normal/a.png",), {}, ["normal"]),
    (("Hem/P1/a.png",), {}, ["normal"]),
    (("blast/2024-01/a.png", "normal/2024-02/b.png"), {}, ["blast", "normal"]),
    (("0/a.png", "1/b.png"), {}, ["normal", "blast"]),
    (("1/a.png", "2/b.png", "3/c.png"), {}, ["", "", ""]),
    (("normal/1/a.png",), {}, [""]),
    (("normal/0/a.png",), {}, ["normal"]),
    (("normal/1/a.png", "normal/2/b.png"), {}, ["normal", "normal"]),
    (("all/hem/a.png", "hem/all/b.png"), {}, ["", ""]),
    (("normal/blast/a.png",), {}, [""]),
    (("normal/monocyte/a.png", "blast/debris/b.png"), {}, ["", ""]),
    (("all/L1/a.png",), {}, ["blast"]),
    (("patients/P1/a.png",), {}, [""]),
    (("a.png",), {}, [""]),
    (("normal/1/a.png",), {"normal/1": "normal"}, ["normal"]),
    (("normal/monocyte/a.png",), {"monocyte": "normal"}, ["normal"]),
    (("blast/debris/a.png", "blast/b1/b.png"), {"debris": "none"}, ["", "blast"]),
    (("early/P-1/a.png", "benign/P-2/b.png"), {"early": "blast"}, ["blast", "normal"]),
    (("BLAST\u200b/a.png",), {}, [""]),
]


@pytest.mark.parametrize(
    ("files", "labels", "expected"), READINGS, ids=[" ".join(row[0]) for row in READINGS]
)
def test_a_label_is_read_only_if_one_reading_exists(
    tmp_path: Path, files: tuple[str, ...], labels: dict[str, str], expected: list[str]
) -> None:
    for number, name in enumerate(files):
        write_image(tmp_path / "data" / name, number + 1, side_px=64)
    found = labels_of(tmp_path / "data", labels=labels)
    assert [found[name] for name in files] == expected


@pytest.mark.parametrize("folder", ["hem", "normal/x1", "hem/all", "blast/hem"])
def test_names_of_cnmc_and_folders_that_contradict_give_no_label(tmp_path: Path, folder: str) -> None:
    write_image(tmp_path / "data" / folder / "UID_1_1_1_all.bmp", 1)
    assert labels_of(tmp_path / "data") == {f"{folder}/UID_1_1_1_all.bmp": ""}


def test_sources_of_labels_and_reasons_are_listed_with_counts(tmp_path: Path) -> None:
    for number, name in enumerate(("hem/P1/a.png", "hem/P2/b.png", "blast/c.png", "normal/debris/d.png")):
        write_image(tmp_path / "data" / name, number + 1, side_px=64)
    result = call("data", "import", tmp_path / "data", "--out", tmp_path / "cells.csv")
    assert result.exit_code == 0
    report = json.loads((tmp_path / "cells.import.json").read_text())["report"]
    assert {(row["label"], row["images"]) for row in report["label_sources"]} == {("normal", 2), ("blast", 1)}
    (issue,) = [row for row in report["issues"] if row["kind"] == "unknown_class"]
    assert issue["file"] == "normal/debris"
    assert "--labels" in issue["message"]
    assert "'hem'" in result.stderr


def test_a_label_of_no_class_is_wrong_usage(tmp_path: Path) -> None:
    write_image(tmp_path / "data" / "x" / "a.png", 1, side_px=64)
    for value in ("x=maybe", "x", "=blast"):
        result = call("data", "import", tmp_path / "data", "--out", tmp_path / "c.csv", "--labels", value)
        assert result.exit_code == 2, value


# 3. Gaps.


def as_other_user(words: Iterable[object], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the program as a user who may not read everything; root may."""
    code = "import os, sys; os.setgid(65534); os.setuid(65534); from leukoscope.cli.main import run; run(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(cwd), "LEUKOSCOPE_CACHE": "off"},
    )  # fmt: skip


@pytest.fixture
def gaps(tmp_path: Path) -> Path:
    """A folder with good images, a dead link, a loop, a pipe and a folder named as an image."""
    data = tmp_path / "data"
    for number, path in enumerate(sample_paths()[:2]):
        place = data / ("hem", "all")[number] / path.name
        place.parent.mkdir(parents=True)
        shutil.copy(path, place)
    (data / "hem" / "dead.png").symlink_to(tmp_path / "nowhere.png")
    (data / "hem" / "dead_folder").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    (data / "all" / "loop").symlink_to(data, target_is_directory=True)
    os.mkfifo(data / "hem" / "pipe.png")
    (data / "all" / "folder.png").mkdir()
    return data


def test_import_reports_unreadable_files_and_continues(gaps: Path, tmp_path: Path) -> None:
    result = call("data", "import", gaps, "--out", tmp_path / "cells.csv", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    unreadable = {row["file"].rpartition("/")[2] for row in report["issues"] if row["kind"] == "unreadable"}
    assert unreadable == {"dead.png", "dead_folder", "pipe.png"}
    assert report["cells"] == 2


def test_verify_reports_unreadable_files_and_continues(gaps: Path) -> None:
    result = call("data", "verify", gaps, "--json")
    assert result.exit_code == 1
    status = {Path(row["file"]).name: row["status"] for row in json.loads(result.stdout)["files"]}
    assert {name for name, one in status.items() if one == "unreadable"} == {
        "dead.png",
        "dead_folder",
        "pipe.png",
    }
    assert len(status) == 5


def test_predict_reports_unreadable_files_and_continues(gaps: Path, small_bundle_path: Path) -> None:
    result = call("predict", gaps, "--json", "--bundle", small_bundle_path)
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    reasons = {Path(row["source"]).name: [reason["code"] for reason in row["reasons"]][:1] for row in rows}
    assert reasons["dead.png"] == reasons["dead_folder"] == ["not_found"]
    assert reasons["pipe.png"] == ["not_a_file"]
    assert sum(row["decision"] != "rejected" for row in rows) == 2


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become another user"
)
def test_an_unreadable_folder_is_reported_by_every_command(tmp_path: Path, small_bundle_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    for folder in (*tmp_path.parents[:3], tmp_path):
        folder.chmod(folder.stat().st_mode | 0o055)
    for number, path in enumerate(sample_paths()[:3]):
        place = data / ("hem", "all", "locked")[number] / path.name
        place.parent.mkdir(parents=True)
        shutil.copy(path, place)
    (data / "locked").chmod(0)
    probe = as_other_user(["--version"], tmp_path)
    if probe.returncode:
        pytest.skip("the installation cannot be read by another user")
    try:
        done = as_other_user(["data", "import", data, "--out", out / "cells.csv", "--json"], out)
        assert done.returncode == 1, done.stderr
        assert "locked" in {row["file"] for row in json.loads(done.stdout)["issues"]}
        done = as_other_user(["data", "verify", data, "--json"], out)
        assert ("locked", "unreadable") in {
            (row["file"], row["status"]) for row in json.loads(done.stdout)["files"]
        }
        bundle = shutil.copytree(small_bundle_path, out / "bundle")
        done = as_other_user(["predict", data, "--json", "--bundle", bundle], out)
        assert done.returncode == 1, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["reasons"][0]["code"] for row in rows if row["source"].endswith("locked")] == [
            "unreadable"
        ]
        assert len(rows) == 3
    finally:
        (data / "locked").chmod(0o755)


def test_a_file_that_vanishes_affects_no_other_file(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / f"data/blast/{number}.png", number + 1, side_px=64)

    def vanish(_sources: object) -> None:
        (tmp_path / "data/blast/5.png").unlink()

    report = import_cohort(tmp_path / "data", tmp_path / "cells.csv", announce=vanish)
    assert report.cells == 5
    assert [Path(row.file).name for row in report.issues if row.kind is IssueKind.UNREADABLE] == ["5.png"]
    assert not report.is_complete


# 4. Subjects.

SAME = [
    ("P1", "p1"), ("07", "7"), ("P007", "P7"), (" P1", "P1"), ("P1\u00a0", "P1"), ("P\u200b1", "P1"),
    ("P_1", "P-1"), ("P 1", "P-1"),
    ("P\u20111", "P-1"), ("P1", "P-1"), ("\uff30\uff11", "P1"), ("Jos\u00e9", "Jose\u0301"),
    ("stra\u00dfe", "STRASSE"), ("\ufb01n", "fin"),
]  # fmt: skip
OTHER = [
    ("11", "H11"),
    ("h3", "H4"),
    ("1-12", "11-2"),
    ("1", "10"),
    ("P1", "P11"),
    ("NA", ""),
    ("A", "B"),
    ("1.5", "15"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_probably_equal_spellings_are_refused_or_merged(one: str, other: str) -> None:
    assert spelling_key(one) == spelling_key(other)
    subjects = [normalize_subject(one), normalize_subject(other), "X9"]
    if subjects[0] == subjects[1]:
        return
    with pytest.raises(CohortError) as raised:
        check_spelling(subjects, "cohort")
    assert "--subjects" in str(raised.value)
    assert "--keep-spelling" in str(raised.value)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_different_subjects_are_not_merged(one: str, other: str) -> None:
    assert likely_equal([one, other]) == []


def test_official_cnmc_subjects_are_all_different() -> None:
    from leukoscope.data.official import official_files

    assert likely_equal({file.subject for file in official_files()}) == []


@given(st.text(max_size=12))
def test_normalizing_twice_changes_nothing(text: str) -> None:
    assert normalize_subject(normalize_subject(text)) == normalize_subject(text)
    assert spelling_key(normalize_subject(text)) == spelling_key(text)


@pytest.fixture
def spelled(tmp_path: Path) -> Path:
    for number, name in enumerate(("P1", "p1", "P2", "H1")):
        write_image(tmp_path / "img" / f"{name}_{number}.png", number + 1, side_px=64)
    rows = [("file", "label", "subject"), ("img/P1_0.png", "blast", "P1"), ("img/p1_1.png", "blast", "p1")]
    rows += [("img/P2_2.png", "blast", "P2"), ("img/H1_3.png", "normal", "H1")]
    (tmp_path / "table.csv").write_text(format_rows(rows))
    return tmp_path


def test_commands_that_take_subjects_refuse_two_spellings_of_one(
    spelled: Path, small_bundle_path: Path
) -> None:
    out = spelled / "cells.csv"
    refused = call("data", "import", spelled / "table.csv", "--out", out)
    assert refused.exit_code == 1
    assert "'P1' (1) and 'p1' (1)" in refused.stderr
    assert not out.exists()
    assert call("data", "import", spelled / "table.csv", "--out", out, "--keep-spelling").exit_code == 0
    assert (
        call("data", "split", out, "--protocol", "grouped", "--k", 2, "--out", spelled / "s.json").exit_code
        == 1
    )
    subjects = spelled / "subjects.csv"
    subjects.write_text("source,subject\nP1_0.png,P1\np1_1.png,p1\n")
    line = ("predict", spelled / "img", "--bundle", small_bundle_path, "-q", "--subjects", subjects)
    assert call(*line).exit_code == 1
    assert "--keep-spelling" in call(*line).stderr
    assert call(*line, "--keep-spelling").exit_code in (0, 1)


def test_a_table_of_subjects_gives_one_spelling(spelled: Path) -> None:
    subjects = spelled / "subjects.csv"
    subjects.write_text("Image;Patient\r\nimg\\p1_1.png;P1\r\n", encoding="utf-16")
    done = call(
        "data", "import", spelled / "table.csv", "--out", spelled / "cells.csv", "--subjects", subjects
    )
    assert done.exit_code == 0, done.output
    assert sorted(set(read_cells(spelled / "cells.csv")["subject"])) == ["H1", "P1", "P2"]


# 5. Encodings and line ends.

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_are_read_in_every_form_that_spreadsheets_write(
    encoding: str, ends: str, separator: str
) -> None:
    lines = [
        separator.join(fields) for fields in (("File", " Label "), ("a.png", "bl\u00e4st"), ("b, c.png", "x"))
    ]
    if separator == ",":
        lines[2] = '"b, c.png",x'
    content = ends.join([*lines, ""]).encode(encoding)
    table = parse_table(decode_text(content, "t.csv"), "t.csv")
    assert table.columns == ("File", "Label")
    assert [row.fields for row in table.rows] == [
        {"file": "a.png", "label": "bl\u00e4st"},
        {"file": "b, c.png", "label": "x"},
    ]


@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2, max_size=2
        )
    )
)
def test_written_tables_are_read_back(rows: list[list[str]]) -> None:
    rows = [row for row in rows if any(value.strip() for value in row)]
    table = parse_table(format_rows([("one", "two"), *rows]), "t.csv", strip=False)
    assert [list(row.fields.values()) for row in table.rows] == rows


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"file,label\na\xe9.png,blast\n", "line 2: byte 0xe9 at offset 12"),
        (b"file,label\na\0.png,blast\n", "NUL"),
        (b"file,label\na,b,c\n", "3 fields, the header has 2"),
        (b"file,File\na,b\n", "'file'"),
        (b"", "empty"),
        (b'file,label\n"a,b\n', "not CSV"),
    ],
)
def test_unreadable_text_names_its_position(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(TextError) as raised:
        read_table(path)
    assert named in str(raised.value)
    with pytest.raises(UsageError):
        read_subjects(path)


def test_a_text_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leukoscope.core.text.MAX_TEXT_BYTES", 1024)
    (tmp_path / "t.csv").write_bytes(b"file,label\n".ljust(1024))
    assert read_table(tmp_path / "t.csv").columns == ("file", "label")
    (tmp_path / "t.csv").write_bytes(b"file,label\n".ljust(1025))
    for path in (tmp_path / "t.csv", Path("/dev/zero")):
        with pytest.raises(TextError, match="limit"):
            read_table(path)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[1, 2]", "a\0"])
@pytest.mark.parametrize(
    ("line", "settings"), [("predict cell.webp", "predict.json"), ("smear field.jpg", "smear.settings.json")]
)
def test_damaged_settings_of_results_are_a_message_and_the_results_stay(
    tmp_path: Path,
    line: str,
    settings: str,
    content: str,
    small_bundle_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(sample_paths()[0], "cell.webp")
    shutil.copy(TWO_CELLS, "field.jpg")
    if line.startswith("predict"):
        line += f" --bundle {small_bundle_path}"
    assert call(*line.split(), "-q", "--out", "out").exit_code == 0
    Path("out", settings).write_text(content)
    kept = {path.name: path.read_bytes() for path in Path("out").glob("*.*") if path.suffix != ".lock"}
    result = call(*line.split(), "-q", "--out", "out", "--resume")
    assert result.exit_code == 2, result.output
    assert settings in result.stderr
    assert {name: Path("out", name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "7"])
@pytest.mark.parametrize("name", ["all.json", "all.geojson", "field.geojson"])
def test_damaged_annotations_are_a_message(
    tmp_path: Path, name: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(TWO_CELLS, "field.jpg")
    Path(name).write_text(content)
    given = () if name == "field.geojson" else ("--annotations", name)
    result = call("data", "cut", "field.jpg", "--out", "cut", *given)
    assert result.exit_code in (1, 2), result.output
    assert name in result.stderr


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_every_text_may_have_a_byte_order_mark(
    tmp_path: Path, encoding: str, small_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cells, splits = write_cohort(tmp_path, subjects=8, cells_each=2)
    for path in (cells, splits):
        path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode(encoding))
    assert call("data", "audit", cells, "--splits", splits, "--no-baselines").exit_code == 0
    config = tmp_path / "config.toml"
    config.write_bytes('[network]\r\narch = "nosuch"\r\n'.encode(encoding))
    result = call("train", "--cells", cells, "--splits", splits, "--config", config)
    assert result.exit_code == 2
    assert "nosuch" in result.stderr
    subjects = tmp_path / "subjects.csv"
    subjects.write_bytes("source,subject\r\ncell.webp,P\u00e9\r\n".encode(encoding))
    shutil.copy(sample_paths()[0], tmp_path / "cell.webp")
    listed = "cell.webp\r\n".encode(encoding)
    line = ("predict", "--stdin-list", "--json", "--bundle", small_bundle_path, "--subjects", subjects)
    assert json.loads(call(*line, stdin=listed).stdout)["subject"] == "P\u00e9"
    from leukoscope.cli.serve import _read_token

    token = tmp_path / "token"
    token.write_bytes("secret-token\r\n".encode(encoding))
    assert _read_token(token) == "secret-token"


def test_a_configuration_in_another_encoding_is_a_config_error(tmp_path: Path) -> None:
    from leukoscope.core.config import read_toml

    path = tmp_path / "c.toml"
    path.write_bytes(b'name = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="line 1"):
        read_toml(path)
    with pytest.raises(ConfigError):
        read_toml(tmp_path)


NAMES = [
    "a\rb.png",
    "a\nb.png",
    'a"b.png',
    "a,b;c.png",
    "a\tb.png",
    " a .png",
    "=1+1.png",
    "\u202egnp.png",
    "n" * 200 + ".png",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_unusual_file_names_pass_import_split_and_predict(
    tmp_path: Path, name: str, small_bundle_path: Path
) -> None:
    for number, label in enumerate(("blast", "normal")):
        for count in range(2):
            write_image(
                tmp_path / "data" / label / f"S{number}{count}" / name, 4 * number + count + 1, side_px=64
            )
    done = call("data", "import", tmp_path / "data", "--out", tmp_path / "cells.csv", "--json")
    assert done.exit_code == 0, done.output
    cells = read_cells(tmp_path / "cells.csv")
    assert len(cells) == 4
    assert all(key.endswith(f"/{name}") for key in cells["cell"])
    split = call(
        "data", "split", tmp_path / "cells.csv", "--protocol", "grouped", "--k", 2, "--cells-as-subjects",
        "--validation-share", 0, "--out", tmp_path / "s.json",
    )  # fmt: skip
    assert split.exit_code == 0, split.output
    keys = {key for one in json.loads((tmp_path / "s.json").read_text())["splits"] for key in one["test"]}
    assert keys == set(cells["cell"])
    rows = call("predict", tmp_path / "data", "--json", "--bundle", small_bundle_path).stdout.splitlines()
    assert {json.loads(row)["source"] for row in rows} == {str(tmp_path / key) for key in keys}


def test_names_that_are_not_utf8_are_a_row_error_or_are_read(tmp_path: Path, small_bundle_path: Path) -> None:
    folder = tmp_path / "data" / "hem"
    write_image(folder / "good.png", 1, side_px=64)
    odd = os.fsencode(folder) + b"/caf\xe9.png"
    try:
        shutil.copy(sample_paths()[0], odd)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    done = call("data", "import", tmp_path / "data", "--out", tmp_path / "cells.csv", "--json")
    assert done.exit_code == 1, done.output
    assert [row["kind"] for row in json.loads(done.stdout)["issues"] if "caf" in row["file"]][-1:] == [
        "unreadable"
    ]
    assert len(read_cells(tmp_path / "cells.csv")) == 1
    assert call("data", "verify", tmp_path / "data", "--json").exit_code == 1
    out = tmp_path / "out"
    line = ("predict", tmp_path / "data", "--bundle", small_bundle_path, "--json", "--out", out)
    rows = [json.loads(row) for row in call(*line).stdout.splitlines()]
    assert [row["decision"] == "rejected" for row in rows if "caf" in row["source"]] == [False]
    listed = call("predict", "--stdin-list", "--json", "--bundle", small_bundle_path, stdin=odd + b"\n")
    assert json.loads(listed.stdout)["decision"] != "rejected"


def test_tables_name_files_with_windows_separators_and_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_image(tmp_path / "img" / "a.png", 1, side_px=64)
    write_image(tmp_path / "home" / "b.png", 2, side_px=64)
    (tmp_path / "t.csv").write_text("file\tlabel\nimg\\a.png\tblast\n~/b.png\tnormal\n")
    report = import_cohort(tmp_path / "t.csv", tmp_path / "cells.csv")
    assert report.cells == 2
    assert report.is_complete
    monkeypatch.chdir(tmp_path)
    done = call("data", "import", "~/../img/../t.csv", "--out=~/cells.csv", "--json")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "home" / "cells.csv").is_file()


def test_a_cell_table_saved_by_a_spreadsheet_is_the_same_table(tmp_path: Path) -> None:
    cells, _ = write_cohort(tmp_path, subjects=8, cells_each=2)
    before = read_cells(cells)
    text = cells.read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines()]
    saved = [[value.replace(".", ",") if i > 7 else value for i, value in enumerate(row)] for row in rows]
    cells.write_bytes("\r\n".join(map(";".join, saved)).encode("utf-8-sig"))
    assert read_cells(cells).equals(before)


def test_unicode_forms_of_one_subject_are_one(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", 1, side_px=64)
    write_image(tmp_path / "b.png", 2, side_px=64)
    composed, apart = (unicodedata.normalize(form, "Jos\u00e9") for form in ("NFC", "NFD"))
    (tmp_path / "t.csv").write_text(f"file,label,subject\na.png,blast,{composed}\nb.png,blast, {apart} \n")
    import_cohort(tmp_path / "t.csv", tmp_path / "cells.csv")
    assert set(read_cells(tmp_path / "cells.csv")["subject"]) == {composed}
