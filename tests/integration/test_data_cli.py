"""``leukoscope data`` from the shell: exit codes, JSON, one clear line for every error."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys
from itertools import pairwise
from typing import NamedTuple

import pytest
from PIL import Image

from leukoscope.assets import other_images_directory, sample_cells_directory
from leukoscope.cli.main import run
from synthetic_cohort import official_bmp, write_image


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def leukoscope(*arguments, cwd):
    """Run one command in this process, as the installed program does."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            run(["data", *map(str, arguments)])
            code = 0
        except SystemExit as end:
            code = end.code or 0
    return Done(code, out.getvalue(), error.getvalue())


@pytest.fixture(autouse=True, scope="module")
def _plain_terminal():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        patch.setenv("NO_COLOR", "1")
        yield


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    done = leukoscope("import", sample_cells_directory(), "--out", "cells.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\b60\b.*\b42\b", done.stdout) and "duplicate" in done.stdout
    return folder


def test_import_json_agrees_with_the_printed_report(imported, tmp_path):
    done = leukoscope("import", sample_cells_directory(), "--out", tmp_path / "c.csv", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (report["cells"], report["subjects"], report["groups"]) == (60, 42, 42)
    assert report["counts"]["fold_0"] == {"blast": 19, "normal": 22}
    assert report["issue_counts"]["duplicate"] == 1


def test_strict_import_fails_on_issues_only(tmp_path):
    assert leukoscope("import", sample_cells_directory(), "--strict", cwd=tmp_path).returncode == 0
    write_image(tmp_path / "data/fold_0/all/UID_1_1_1_all.bmp", 1)
    (tmp_path / "data/fold_0/all/UID_1_1_2_all.bmp").write_bytes(b"no image")
    loose = leukoscope("import", "data", cwd=tmp_path)
    assert loose.returncode == 1  # one file is missing from the table
    (tmp_path / "cells.csv").unlink()
    assert "1 x unreadable" in loose.stdout and "1 images are not in the table" in loose.stdout
    assert leukoscope("import", "data", "--strict", cwd=tmp_path).returncode == 1
    assert not (tmp_path / "cells.csv").exists()


def test_audit_of_a_clean_split_ends_with_0_and_of_a_leaking_one_with_1(imported):
    done = leukoscope("audit", "cells.csv", "--no-baselines", cwd=imported)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\b42\b.*\b30\b.*\b12\b.*\b0\b", " ".join(done.stdout.split()))
    paper = leukoscope(
        "audit", "cells.csv", "--protocol", "paper", "--per-class", 28, "--no-baselines", cwd=imported
    )
    assert paper.returncode == 1
    found = json.loads(leukoscope("audit", "cells.csv", "--json", cwd=imported).stdout)
    assert found["audit"]["merged_groups"] == ["20+21", "51+75+78", "H10+h3", "H2+H4+H5+H6"]
    assert found["leaks"] == []
    assert {row["split"] for row in found["baselines"]} == {"hold-out-fold_0", "hold-out-fold_1"}
    assert all(0.5 < row["area"]["auc"] <= 1 for row in found["baselines"])


def test_split_then_audit_of_the_file_and_of_a_tampered_one(imported):
    done = leukoscope("split", "cells.csv", "--protocol", "grouped", "--k", 3, "--json", cwd=imported)
    summary = json.loads(done.stdout)
    assert [split["name"] for split in summary["splits"]] == ["part-1-of-3", "part-2-of-3", "part-3-of-3"]
    assert sum(split["test"]["cells"] for split in summary["splits"]) == 60
    audit = leukoscope("audit", "cells.csv", "--splits", "splits.json", "--no-baselines", cwd=imported)
    assert audit.returncode == 0, audit.stderr
    plan = json.loads((imported / "splits.json").read_text())
    first = plan["splits"][0]
    by_subject = sorted(first["train"], key=parse_subject)
    moved = next(b for a, b in pairwise(by_subject) if parse_subject(a) == parse_subject(b))
    first["train"].remove(moved)
    first["test"].append(moved)
    (imported / "tampered.json").write_text(json.dumps(plan))
    leaking = leukoscope("audit", "cells.csv", "--splits", "tampered.json", "--no-baselines", cwd=imported)
    assert leaking.returncode == 1
    assert re.search(r"'part-1-of-3'.*\btrain\b.*\btest\b.*\b1\b.*\b1\b", leaking.stdout)


def parse_subject(key):
    return key.rpartition("UID_")[2].split("_")[0]


def test_sample_lists_and_copies(imported, tmp_path):
    listed = leukoscope("sample", "cells.csv", "--count", 8, cwd=imported)
    assert len(listed.stdout.splitlines()) == 8
    rows = json.loads(
        leukoscope("sample", "cells.csv", "--count", 8, "--out", tmp_path, "--json", cwd=imported).stdout
    )
    assert sorted(row["label"] for row in rows) == ["blast"] * 4 + ["normal"] * 4
    assert len(list(tmp_path.rglob("*.webp"))) == 8
    only = leukoscope("sample", "cells.csv", "--count", 4, "--fold", "fold_1", cwd=imported)
    assert all("fold_1" in line for line in only.stdout.splitlines())


def test_verify_ends_with_0_for_official_files_and_1_for_others(tmp_path):
    source = sample_cells_directory() / "fold_0/all/UID_11_1_2_all.webp"
    (tmp_path / "data").mkdir()
    with Image.open(source) as image:
        (tmp_path / "data/anything.bmp").write_bytes(official_bmp(image))
    done = leukoscope("verify", "data", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["counts"]["fold_0"] == {"renamed": 1, "missing": 3_526}
    assert leukoscope("verify", "data", "--complete", cwd=tmp_path).returncode == 1
    done = leukoscope("verify", other_images_directory(), cwd=tmp_path)
    assert done.returncode == 1 and re.search(r"\b14\b.*\b14\b", " ".join(done.stdout.split()))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["import", "absent"], 2, "absent"),
        (["audit", "absent.csv"], 2, "absent.csv"),
        (["audit", "cells.csv", "--splits", "absent.json"], 2, "absent.json"),
        (["audit", "cells.csv", "--splits", "x", "--protocol", "paper"], 2, "--protocol"),
        (["split", "cells.csv", "--protocol", "paper"], 1, "--per-class 30"),
        (["split", "cells.csv", "--protocol", "grouped", "--k", "40"], 1, "12"),
        (["sample", "cells.csv", "--fold", "fold_9"], 2, "fold_0, fold_1"),
    ],
)
def test_errors_are_one_line_with_value_and_remedy(imported, arguments, code, words):
    done = leukoscope(*arguments, cwd=imported)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from leukoscope.data.importing import import_cohort
kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 5 else None
import_cohort(Path("data"), Path("cells.csv"), workers=2, progress=kill)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_import_leaves_the_old_table_whole(tmp_path):
    write_image(tmp_path / "data/blast/0.png", 0, side_px=64)
    assert leukoscope("import", "data", cwd=tmp_path).returncode == 0
    before = (tmp_path / "cells.csv").read_bytes()
    for number in range(1, 12):
        write_image(tmp_path / f"data/blast/{number}.png", number, side_px=64)
    ended = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "cells.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.csv", "cells.import.json", "data"]
    done = leukoscope("import", "data", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["cells"] == 12
