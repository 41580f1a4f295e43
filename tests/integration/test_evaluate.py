"""Run folders in, reports and documents out, through the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leukoscope.cli.main import run as run_program
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.imaging.overlay import encode_png
from leukoscope.models.report import read_report
from made_robustness import make_robustness
from shared_folders import make_once
from synthetic_runs import Cohort, write_run

TINY = Cohort(4, 3, 10)


def leukoscope(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run_program([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_once(tmp_path_factory, "written", write)


def write(folder: Path) -> None:
    run = write_run(folder / "run", train=TINY, test=TINY)
    supplement = {
        "name": "explanations",
        "title": "Explanations",
        "text": "Measured elsewhere.",
        "measures": {
            "energy_inside": {
                "value": 0.8,
                "low": 0.7,
                "high": 0.9,
                "n_cells": 10,
                "n_subjects": 3,
                "split": "sample",
                "unit": "cell",
                "method": "m",
            }
        },
    }
    (folder / "explanations.json").write_text(json.dumps(supplement))
    (folder / "robustness.json").write_text(make_robustness().model_dump_json())
    rng = np.random.default_rng(0)
    keys = [row.split(",")[0] for row in (run / "cells.csv").read_text().splitlines()[1:]]
    for key in keys:
        image = np.zeros((450, 450, 3), np.uint8)
        image[150:300, 160:290] = rng.integers(40, 200, (150, 130, 3))
        path = folder / "images" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image, 1))
    code = leukoscope(
        "evaluate", run, "--replicates", 200, "--out", folder / "out", "--title", "A <b>small</b> run",
        "--attach", folder / "explanations.json", "--attach", folder / "robustness.json",
        "--images", folder / "images",
    )  # fmt: skip
    assert code == 0


def test_report_json_follows_its_schema(written: Path) -> None:
    report = read_report(written / "out" / "report.json")
    assert report.notice == RESEARCH_USE
    assert report.supplements[0].measures["energy_inside"].value == 0.8
    assert report.robustness == make_robustness()
    assert report.runs[0].architecture == "efficientnet_b3"
    assert report.runs[0].training_seconds == 1234.5


def test_only_one_robustness_and_no_other_json_is_attached(written: Path, tmp_path: Path) -> None:
    attach = ("--attach", written / "robustness.json")
    assert leukoscope("evaluate", written / "run", "--out", tmp_path / "twice", *attach, *attach) == 2
    (tmp_path / "other.json").write_text('{"unchanged": 1, "perturbations": 2}')
    other = ("--attach", tmp_path / "other.json")
    assert leukoscope("evaluate", written / "run", "--out", tmp_path / "other", *other) == 2


def test_the_page_is_self_contained(written: Path) -> None:
    page = (written / "out" / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert page.count(RESEARCH_USE) >= 2
    assert "A &lt;b&gt;small&lt;/b&gt; run" in page
    assert "data:image/png;base64" in page
    assert "Explanations" in page
    assert all(re.search(r"alt=\"[^\"]+\"", tag) for tag in re.findall(r"<img[^>]*>", page))


def test_figures_are_written_in_both_formats(written: Path) -> None:
    figures = written / "out" / "figures" / "fold_0_to_fold_1"
    names = {path.stem for path in figures.glob("*.svg")}
    assert names == {path.stem for path in figures.glob("*.png")}
    assert {"roc", "subjects", "subgroups", "baselines", "reliability", "risk_coverage", "confusion"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures.glob("*.png"))
    assert not list((written / "out").rglob("*.part"))


def test_compare_puts_disjoint_splits_first_and_flags_the_rest(written: Path, tmp_path: Path) -> None:
    leak = write_run(tmp_path / "leak", train=TINY, test=TINY, leaks=True)
    code = leukoscope(
        "compare",
        leak,
        written / "run",
        written / "out" / "report.json",
        "--replicates",
        200,
        "--out",
        tmp_path / "out",
    )
    assert code == 0
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    kinds = [row["split"] for row in rows]
    assert kinds == sorted(kinds, key=["subject-disjoint", "not stated", "leaking"].index)
    leaking = next(row for row in rows if row["name"] == "leak")
    assert leaking["split"] == "leaking"
    measured = next(row for row in rows if row["name"] == "run")
    reported = next(row for row in rows if row["name"] == "A <b>small</b> run")
    assert measured["measures"]["roc_auc"]["value"] == reported["measures"]["roc_auc"]["value"]
    assert measured["parameters"] == 10_700_000
    winner = next(row for row in rows if "Challenge winner" in row["name"])
    assert winner["measures"] == {"f1_weighted": 0.910}
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "A &lt;b&gt;small&lt;/b&gt; run" in page
    assert (tmp_path / "out" / "comparison.md").read_text().count("\n| ") == len(rows)


def test_compare_subtracts_runs_of_the_same_test_cells_and_writes_csv_and_latex(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", train=TINY, test=TINY)
    second = write_run(tmp_path / "second_50%", train=TINY, test=TINY, arch="resnet_50")
    scores = pd.read_csv(second / "scores.csv", dtype={"subject": str, "group": str})
    noise = np.random.default_rng(1).normal(0, 2, len(scores))
    column = next(name for name in scores if name.startswith("logit"))
    scores[column] += noise
    scores.to_csv(second / "scores.csv", index=False)
    elsewhere = write_run(tmp_path / "elsewhere", train=TINY, test=TINY, test_first=301)
    out = tmp_path / "out"
    command = ("compare", first, second, elsewhere, "--replicates", 200, "--no-literature", "--out", out)
    assert leukoscope(*command) == 0
    table = pd.read_csv(out / "comparison.csv").set_index("name")
    assert table.loc["second_50%", "architecture"] == "resnet_50"
    assert table.loc["second_50%", "compared_with"] == "first"
    for name in ("roc_auc", "accuracy", "f1_weighted", "ece"):
        row = table.loc["second_50%"]
        assert row[f"{name}_difference"] == pytest.approx(row[name] - table.loc["first", name], abs=1e-12)
        assert row[f"{name}_difference_low"] <= row[f"{name}_difference"] <= row[f"{name}_difference_high"]
    assert table.loc[["first", "elsewhere"], "roc_auc_difference"].isna().all()
    lines = (out / "comparison.tex").read_text().splitlines()
    rows = [line for line in lines if line.endswith(r"\\")]
    columns = next(line for line in lines if line.startswith(r"\begin{tabular}")).count(
        "l", len(r"\begin{tabular}")
    )
    assert {len(re.split(r"(?<!\\)&", line)) for line in rows} == {columns}
    assert r"second\_50\%" in rows[2]
    assert any(line.startswith("%") and RESEARCH_USE in line for line in lines)


def test_leakage_prints_both_and_the_difference(written: Path, tmp_path: Path, capsys) -> None:
    leak = write_run(tmp_path / "leak", train=TINY, test=TINY, leaks=True)
    capsys.readouterr()
    assert leukoscope("leakage", leak, written / "run", "--replicates", 200, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    auc = content["measures"]["roc_auc"]
    difference = auc["leaking"]["value"] - auc["disjoint"]["value"]
    assert auc["inflation"]["value"] == pytest.approx(difference)
    assert auc["inflation"]["low"] < difference < auc["inflation"]["high"]
    assert content["notes"]


def test_leakage_in_the_wrong_order_is_refused(written: Path, tmp_path: Path, capsys) -> None:
    leak = write_run(tmp_path / "leak", train=TINY, test=TINY, leaks=True)
    assert leukoscope("leakage", written / "run", leak) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def tools(*words: object) -> int:
    from leukoscope_tools.__main__ import app

    with pytest.raises(SystemExit) as end:
        app([str(word) for word in words])
    return end.value.code


def test_publish_writes_and_check_ends_with_one_on_staleness(written: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "page.md"
    report = written / "out" / "report.json"
    page.write_text(f"<!-- leukoscope: results report={report} -->\n<!-- /leukoscope -->\n")
    assert tools("publish", page, "--check") == 1
    assert "page.md:1 (results)" in capsys.readouterr().err
    assert tools("publish", page) == 0
    assert tools("publish", page, "--check") == 0


def test_wrong_usage_ends_with_two_and_one_line(tmp_path: Path, capsys) -> None:
    assert leukoscope("evaluate", tmp_path / "nothing") == 2
    error = capsys.readouterr().err.strip()
    assert str(tmp_path / "nothing") in error
    assert error.count("\n") == 0
    assert leukoscope("evaluate", tmp_path, "--bundle", tmp_path) == 2


def test_evaluation_needs_no_torch_and_no_engine(written: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from importlib.abc import MetaPathFinder
class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "openvino", "onnxruntime"):
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Block())
from pathlib import Path
from leukoscope.evaluation.compare import compare
from leukoscope.evaluation import protocol, report
from leukoscope.evaluation.split_report import EvaluationSettings
from leukoscope.stats.intervals import BootstrapSettings
print(len(compare([Path({str(written / "run")!r})], settings=EvaluationSettings(BootstrapSettings(200))).rows))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 1
