import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from leukoscope.core.errors import CohortError, SplitError, UsageError
from leukoscope.evaluation.scores import read_run
from synthetic_runs import Cohort, write_run

TINY = Cohort(3, 2, 8)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", train=TINY, test=TINY)


def edit_scores(folder: Path, change) -> None:
    scores = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    change(scores).to_csv(folder / "scores.csv", index=False)


def test_subjects_stay_text_and_descriptors_are_joined(run_folder: Path) -> None:
    run = read_run(run_folder)
    test = run.part("test")
    assert set(test["subject"]) == {"101", "102", "103", "H104", "H105"}
    assert (test["area_px"] > 0).all()
    assert run.split == "fold_0 to fold_1"
    assert not run.leaks


@pytest.mark.parametrize("name", ["scores.csv", "embeddings.safetensors", "splits.json"])
def test_unfinished_run_names_what_is_missing(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    with pytest.raises(UsageError, match=name):
        read_run(run_folder)


def test_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="logit"), r"\blogit\b"),
        (lambda t: t.assign(logit="nan"), r"\bnan\b"),
        (lambda t: t.assign(label="2"), "2"),
        (lambda t: t.assign(part=t["part"].replace("test", "exam")), "exam"),
        (lambda t: t[t["part"] != "validation"], r"\bvalidation\b"),
        (lambda t: t[t["part"] != "test"], r"\btest\b"),
        (lambda t: pd.concat([t, t.iloc[[0]]]), r"fold_0/"),
        (lambda t: t.assign(label=(1 - t["label"].astype(int)).astype(str)), r"\blabel\b"),
        (lambda t: t.assign(sha256="0" * 64), "sha256"),
        (lambda t: t[~((t["part"] == "test") & (t["subject"] == "101"))], r"splits\.json"),
    ],
)
def test_impossible_scores_are_refused(run_folder: Path, change, message: str) -> None:
    edit_scores(run_folder, change)
    with pytest.raises(CohortError, match=message):
        read_run(run_folder)


def test_a_group_on_both_sides_is_refused_unless_the_split_says_it_leaks(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "leak", train=TINY, test=TINY, leaks=True)
    assert read_run(folder).leaks
    splits = json.loads((folder / "splits.json").read_text())
    splits["leaks"] = False
    (folder / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(SplitError):
        read_run(folder)


def test_test_cells_of_several_inner_models_get_the_mean_logit(run_folder: Path) -> None:
    before = read_run(run_folder).part("test").set_index("cell")["logit"]

    def twice(scores: pd.DataFrame) -> pd.DataFrame:
        test = scores[scores["part"] == "test"]
        shifted = test.assign(inner_fold="1", logit=(test["logit"].astype(float) + 2).astype(str))
        return pd.concat(
            [scores.assign(inner_fold=scores["inner_fold"].where(scores["part"] != "test", "0")), shifted]
        )

    edit_scores(run_folder, twice)
    embeddings = load_file(run_folder / "embeddings.safetensors")["embeddings"]
    save_file({"embeddings": np.concatenate([embeddings, embeddings])}, run_folder / "embeddings.safetensors")
    run = read_run(run_folder)
    after = run.part("test").set_index("cell")["logit"]
    assert run.remarks
    pd.testing.assert_series_equal(after.sort_index(), before.sort_index() + 1)


def test_embeddings_must_have_one_row_per_prediction(run_folder: Path) -> None:
    save_file({"embeddings": np.zeros((3, 4), np.float32)}, run_folder / "embeddings.safetensors")
    with pytest.raises(CohortError, match=r"\(3, 4\)"):
        read_run(run_folder)


def test_na_and_null_are_valid_subject_ids(run_folder: Path) -> None:
    for name in ("scores.csv", "cells.csv"):
        table = pd.read_csv(run_folder / name, dtype=str, keep_default_na=False)
        for column in ("subject", "group"):
            table[column] = table[column].replace({"1": "NA", "2": "null"})
        table.to_csv(run_folder / name, index=False)
    splits = json.loads((run_folder / "splits.json").read_text())
    from leukoscope.data.table import read_cells, table_sha256

    splits["cells_sha256"] = table_sha256(read_cells(run_folder / "cells.csv"))
    (run_folder / "splits.json").write_text(json.dumps(splits))
    assert {"NA", "null"} <= set(read_run(run_folder).scores["subject"])
