"""The real folds 0 and 1: LEUKOSCOPE_CNMC names the folder with the official BMP files."""

import os
import time
from pathlib import Path

import pytest

from leukoscope.data.audit import audit_cells, find_leaks
from leukoscope.data.importing import import_cohort
from leukoscope.data.splits import inner_folds, make_splits
from leukoscope.data.table import read_cells
from leukoscope.data.verify import verify_files
from leukoscope.evaluation.baselines import area_baseline, nine_scalars_baseline

FOLDER = os.environ.get("LEUKOSCOPE_CNMC")
pytestmark = [
    pytest.mark.dataset,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not FOLDER, reason="LEUKOSCOPE_CNMC does not name the folder of the cohort"),
]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    table = tmp_path_factory.mktemp("cnmc") / "cells.csv"
    # Processor time, so that other work on the machine does not decide: 2 minutes on 2 cores are 240 s.
    start = time.process_time()
    report = import_cohort(Path(FOLDER), table, workers=2)
    assert time.process_time() - start < 240
    cells = read_cells(table)
    return report, cells[cells["fold"].isin(["fold_0", "fold_1"])]


def test_counts_duplicates_and_groups(imported):
    report, cells = imported
    audit = audit_cells(cells)
    assert (audit.folds["fold_0"]["cells"], audit.folds["fold_1"]["cells"]) == (3_527, 3_581)
    assert len(audit.subjects) == 42
    assert audit.duplicate_counts == {
        "sets": 5,
        "within_subject": 5,
        "across_subjects": 0,
        "across_labels": 0,
        "across_folds": 0,
    }
    assert {found.subjects for found in audit.duplicates} == {("H10",)}
    assert all(len(found.cells) == 2 for found in audit.duplicates)
    assert audit.merged_groups == ("20+21", "51+75+78", "H10+h3", "H2+H4+H5+H6")
    assert not {"unreadable", "name_not_parsed", "label_conflict"} & set(report.issue_counts())


def test_every_file_is_official():
    found = verify_files(Path(FOLDER))
    assert found.trustworthy
    assert found.counts["fold_0"] == {"official": 3_527} and found.counts["fold_1"] == {"official": 3_581}


@pytest.mark.parametrize(
    ("held_out", "area", "nine_scalars"), [("fold_1", 0.868, 0.891), ("fold_0", 0.837, 0.887)]
)
def test_shortcut_baselines(imported, held_out, area, nine_scalars):
    _, cells = imported
    plan = make_splits(cells, "official", validation_share=0)
    assert find_leaks(cells, plan) == []
    split = plan.named(f"hold-out-{held_out}")
    assert not split.removed
    assert area_baseline(cells, split.train, split.test).auc == pytest.approx(area, abs=0.001)
    scores = nine_scalars_baseline(cells, split.train, split.test)
    assert scores.auc == pytest.approx(nine_scalars, abs=0.006)
    assert scores.weighted_f1 == pytest.approx(0.855, abs=0.01)


def test_inner_folds_of_a_fold_with_three_normal_subjects(imported):
    _, cells = imported
    train = cells.loc[cells["fold"] == "fold_1", "cell"]
    for fold in inner_folds(cells, train, 5, seed=0):
        assert set(cells.loc[cells["cell"].isin(fold.validation), "label"]) == {"blast", "normal"}
