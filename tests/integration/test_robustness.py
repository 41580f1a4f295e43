"""``leukoscope robustness`` on a small cohort with the small bundle."""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cohort_files import write_cohort
from leukoscope.cli.main import app
from leukoscope.data.table import read_cells, write_cells
from leukoscope.evaluation.figures_robustness import CSV_HEADER
from leukoscope.inference.perturbed import perturbations
from leukoscope.inference.predictor import Predictor
from leukoscope.models.report import Robustness
from leukoscope.workflows.robustness import in_training_set, measure_robustness
from shared_folders import make_once

SUBJECTS, CELLS_EACH = 6, 3


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["robustness", *map(str, words)])


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, small_bundle_path: Path) -> Path:
    """Folder with the cohort, the bundle and the outputs of one call."""

    def make(folder: Path) -> None:
        write_cohort(folder, subjects=SUBJECTS, cells_each=CELLS_EACH)
        shutil.copytree(small_bundle_path, folder / "bundle")
        result = run(
            folder / "cells.csv", "--bundle", folder / "bundle", "--cells-per-subject", 2,
            "--replicates", 200, "--out", folder / "out", "--json",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        (folder / "printed.json").write_text(result.stdout)

    return make_once(tmp_path_factory, "robustness", make)


@pytest.fixture
def here(measured: Path, tmp_path: Path) -> Path:
    return shutil.copytree(measured, tmp_path / "here")


def quick(folder: Path, *words: object) -> Result:
    return run(
        folder / "cells.csv",
        "--bundle",
        folder / "bundle",
        "--cells-per-subject",
        1,
        "--replicates",
        200,
        *words,
    )


def test_files_and_output_agree(measured: Path) -> None:
    text = (measured / "out" / "robustness.json").read_text()
    assert json.loads(text) == json.loads((measured / "printed.json").read_text())
    robustness = Robustness.model_validate_json(text)
    assert (robustness.cells, robustness.subjects) == (2 * SUBJECTS, SUBJECTS)
    assert robustness.in_training == "unknown"
    assert [one.name for one in robustness.perturbations] == [one.name for one in perturbations()]
    for one in robustness.perturbations:
        share = one.measures["decisions_changed"]
        assert share.n_cells == 2 * SUBJECTS and share.n_subjects == SUBJECTS
        assert (one.reached is None) == (one.aim is None)
        if one.aim is not None:
            assert one.reached == (share.value <= one.aim)
        assert one.measures["roc_auc"].value is not None
    with (measured / "out" / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_HEADER
    assert len(rows) == len(robustness.unchanged) + 10 * len(robustness.perturbations)
    for row in rows:
        if row["change"] == "turn_90" and row["measure"] == "decisions_changed":
            assert float(row["value"]) == robustness.perturbations[0].measures["decisions_changed"].value
    assert (measured / "out" / "robustness.svg").read_bytes().startswith(b"<?xml")
    assert (measured / "out" / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert str(measured) not in text


@pytest.mark.slow
def test_the_result_depends_on_neither_order_nor_repetition(here: Path) -> None:
    first = quick(here, "--json").stdout
    table = read_cells(here / "cells.csv")
    write_cells(table.sample(frac=1.0, random_state=3), here / "cells.csv")
    assert json.loads(quick(here, "--json").stdout) == json.loads(first)
    assert (
        json.loads(quick(here, "--json", "--seed", 5).stdout)["cells_sha256"]
        != json.loads(first)["cells_sha256"]
    )


@pytest.mark.slow
def test_figures_have_the_same_bytes_again(here: Path) -> None:
    for place in ("one", "two"):
        assert quick(here, "-q", "--out", here / place).exit_code == 0
    for name in ("robustness.svg", "robustness.png", "robustness.csv", "robustness.json"):
        assert (here / "one" / name).read_bytes() == (here / "two" / name).read_bytes()


def test_the_table_is_printed_and_quiet_prints_nothing(here: Path) -> None:
    shown = quick(here)
    assert shown.exit_code == 0 and "unchanged" in shown.stdout and "Research use only" in shown.stdout
    assert quick(here, "-q").stdout == ""


def test_without_labels_shares_are_measured_and_the_auc_has_a_reason(here: Path) -> None:
    table = read_cells(here / "cells.csv")
    write_cells(table.assign(label=""), here / "cells.csv")
    result = quick(here, "--json", "--out", here / "unlabeled")
    assert result.exit_code == 0, result.output
    robustness = Robustness.model_validate_json(result.stdout)
    for one in robustness.perturbations:
        assert one.measures["decisions_changed"].value is not None
        assert one.measures["roc_auc"].value is None and one.measures["roc_auc"].not_estimable


def test_without_subjects_every_cell_is_measured_without_intervals(here: Path) -> None:
    table = read_cells(here / "cells.csv").head(4)
    digests = [f"sha256:{digest[:12]}" for digest in table["sha256"]]
    write_cells(table.assign(subject="", group=digests), here / "cells.csv")
    robustness = Robustness.model_validate_json(quick(here, "--json").stdout)
    assert (robustness.cells, robustness.subjects) == (4, 0)
    assert all(one.low is None for result in robustness.perturbations for one in result.measures.values())


def test_cells_without_a_subject_are_left_out_where_others_have_one(here: Path) -> None:
    table = read_cells(here / "cells.csv")
    unknown = table["subject"] == "s0"
    table.loc[unknown, ["subject", "group"]] = ["", "sha256:0"]
    write_cells(table, here / "cells.csv")
    robustness = Robustness.model_validate_json(quick(here, "--json").stdout)
    assert robustness.subjects == SUBJECTS - 1
    assert any("3 cells" in remark for remark in robustness.remarks)


def test_missing_images_are_named_and_the_others_measured(here: Path) -> None:
    for path in (here / "images").glob("s0_*.png"):
        path.unlink()
    result = quick(here, "--json")
    assert result.exit_code == 1
    assert "images/s0_" in result.stderr
    robustness = Robustness.model_validate_json(result.stdout)
    assert robustness.cells == robustness.subjects == SUBJECTS - 1
    shutil.rmtree(here / "images")
    none = quick(here, "--json")
    assert none.exit_code == 1 and none.stdout == ""


def test_an_empty_table_and_an_unknown_fold_are_refused(here: Path) -> None:
    assert quick(here, "--fold", "fold_7").exit_code == 2
    write_cells(read_cells(here / "cells.csv").head(0), here / "cells.csv")
    assert quick(here).exit_code == 1


def test_a_fold_is_measured_alone(here: Path) -> None:
    table = read_cells(here / "cells.csv")
    write_cells(table.assign(fold=["fold_0"] * 9 + ["fold_1"] * 9), here / "cells.csv")
    robustness = Robustness.model_validate_json(quick(here, "--json", "--fold", "fold_1").stdout)
    assert robustness.fold == "fold_1" and robustness.subjects == 3


def test_membership_in_the_training_set_is_known_where_its_groups_are_some_folds() -> None:
    import pandas as pd

    table = pd.DataFrame({"group": ["a", "a", "b", "c", "d"], "fold": ["0", "0", "0", "1", "2"]})

    def digest(*groups: str) -> str:
        return hashlib.sha256("".join(f"{group}\n" for group in groups).encode()).hexdigest()

    assert in_training_set(table, table, digest("a", "b", "c", "d")) == "all"
    assert in_training_set(table, table, digest("a", "b")) == "some"
    assert in_training_set(table, table, digest("a", "b", "d")) == "some"
    assert in_training_set(table, table[table["fold"] == "1"], digest("a", "b", "d")) == "none"
    assert in_training_set(table, table[table["fold"] == "0"], digest("a", "b")) == "all"
    assert in_training_set(table, table, digest("a")) == "unknown"
    assert in_training_set(table, table, None) == "unknown"


def test_three_classes(here: Path) -> None:
    from leukoscope.core.classes import ClassSchema
    from small_bundle import make_small_bundle

    classes = ClassSchema.of_names(["blast", "normal", "other"], positive=["blast"])
    make_small_bundle(here / "three", classes=classes)
    robustness, unreadable = measure_robustness(
        Predictor.open(here / "three", threads=1), here / "cells.csv", cells_per_subject=1, replicates=200
    )
    assert unreadable == []
    assert all(one.measures["roc_auc"].value is not None for one in robustness.perturbations)
