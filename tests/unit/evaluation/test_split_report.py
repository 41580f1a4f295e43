import dataclasses
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation_fixtures import FEW
from leukoscope.core.errors import CohortError, UsageError
from leukoscope.decision.policy import decide
from leukoscope.evaluation.cases import label_suspects, worst_errors
from leukoscope.evaluation.metrics_table import pool_subjects
from leukoscope.evaluation.protocol import evaluate
from leukoscope.evaluation.scored_split import fit_rules, score_run
from leukoscope.evaluation.scores import read_run
from leukoscope.evaluation.split_report import report_split
from leukoscope.imaging.descriptors import Descriptors
from synthetic_runs import Cohort, write_run

TINY = Cohort(4, 3, 12)


def scored_run(folder: Path, **cohorts):
    run = read_run(write_run(folder, **cohorts))
    return score_run(run, fit_rules(run), {})


def test_nothing_is_fitted_on_test_rows(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", train=TINY, test=TINY)
    disjoint = fit_rules(read_run(folder))
    scores = pd.read_csv(folder / "scores.csv", dtype=str, keep_default_na=False)
    test = scores["part"] == "test"
    scores.loc[test, "logit"] = [str(value) for value in np.random.default_rng(0).normal(0, 50, test.sum())]
    scores.to_csv(folder / "scores.csv", index=False)
    assert fit_rules(read_run(folder)).parameters == disjoint.parameters


def test_fitted_counts_are_those_of_validation_rows(evaluated) -> None:
    for folder, split in zip(evaluated.runs, evaluated.report.splits, strict=True):
        validation = read_run(folder).part("validation")
        assert split.fitted[0].cells == len(validation)
        assert split.fitted[0].subjects == validation["subject"].nunique()
        assert split.fitted[0].part == "validation"


def test_one_class_in_the_test_part_gives_reasons_and_no_numbers(tmp_path: Path) -> None:
    split = scored_run(tmp_path / "run", train=TINY, test=Cohort(4, 0, 10))
    report = report_split(split, FEW, lambda _: None)
    for name in (
        "roc_auc",
        "average_precision",
        "specificity",
        "balanced_accuracy",
        "sensitivity_at_specificity_90",
    ):
        measurement = report.cell.measures[name]
        assert measurement.value is None, name
        assert measurement.not_estimable
    assert report.cell.measures["sensitivity"].value is not None
    assert report.curves.roc == ()
    assert report.area_matched is None


def test_one_subject_of_a_class_gives_values_without_intervals(tmp_path: Path) -> None:
    split = scored_run(tmp_path / "run", train=TINY, test=Cohort(4, 1, 10))
    report = report_split(split, FEW, lambda _: None)
    auc = report.cell.measures["roc_auc"]
    assert auc.value is not None
    assert auc.low is None
    assert auc.not_estimable
    assert report.cell.measures["sensitivity"].low is not None


def test_slices_hold_every_cell_once(evaluated) -> None:
    for split in evaluated.report.columns():
        for dimension in {group.dimension for group in split.subgroups}:
            parts = [group for group in split.subgroups if group.dimension == dimension]
            assert sum(group.cells for group in parts) == split.parts["test"].cells


def test_worst_errors_are_wrong_and_confident_first(evaluated) -> None:
    run = read_run(evaluated.runs[0])
    rows = score_run(run, fit_rules(run), {}).rows
    cases = worst_errors(rows, 10)
    truth = rows.set_index("cell")
    margins = [abs(truth.loc[case.cell, "margin"]) for case in cases]
    assert margins == sorted(margins, reverse=True)
    for case in cases:
        assert truth.loc[case.cell, "called"] != (truth.loc[case.cell, "label"] == 1)
    wrong = truth[truth["called"] != (truth["label"] == 1)]
    assert margins[0] == wrong["margin"].abs().max()


def test_flipped_labels_are_suspected() -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 400)
    logit = np.where(label == 1, 3.0, -3.0) + rng.normal(0, 0.7, 400)
    flipped = rng.choice(400, 8, replace=False)
    shown = label.copy()
    shown[flipped] = 1 - shown[flipped]
    rows = pd.DataFrame(
        {
            "cell": [f"c{i}" for i in range(400)],
            "sha256": "0" * 64,
            "subject": "1",
            "label": shown,
            "probability": 1 / (1 + np.exp(-logit)),
            "part": "validation",
            "split": "s",
        }
    )
    suspects = {case.cell for case in label_suspects(rows, 20)}
    # Confident learning asks for more than the class's mean confidence, so one of eight may slip through.
    assert len({f"c{i}" for i in flipped} & suspects) >= 7
    assert len(suspects) <= 12


def test_pooling_of_one_subject_by_hand() -> None:
    rows = pd.DataFrame(
        {
            "cell": list("abcde"),
            "subject": ["1", "1", "1", "H2", "H2"],
            "group": ["1", "1", "1", "H2", "H2"],
            "label": [1, 1, 1, 0, 0],
            "calibrated_logit": [4.0, -1.0, -1.0, -2.0, 2.0],
            "called": [True, False, False, False, True],
            "subject_threshold": 0.6,
        }
    )
    scored, table = pool_subjects(rows, "mean")
    assert scored.probability == pytest.approx([1 / (1 + np.exp(-2 / 3)), 0.5])
    assert scored.calls.tolist() == [True, False]
    majority, _ = pool_subjects(rows, "majority")
    assert majority.calls.tolist() == [False, True]  # one of three; a tie is called blast
    assert table["cells"].tolist() == [3, 2]


def test_subjects_that_share_images_count_once(tmp_path: Path) -> None:
    split = scored_run(tmp_path / "run", train=TINY, test=TINY)
    rows = split.rows.copy()
    first, second = rows.loc[rows["label"] == 1, "subject"].unique()[:2]
    rows.loc[rows["subject"].isin([first, second]), "group"] = f"{first}+{second}"
    report = report_split(dataclasses.replace(split, rows=rows), FEW, lambda _: None)
    accuracy = report.subject_mean.measures["accuracy"]
    assert accuracy.n_subjects == rows["subject"].nunique() - 1 == len(report.subjects)
    merged = next(row for row in report.subjects if row.group == f"{first}+{second}")
    assert merged.cells == int(rows["subject"].isin([first, second]).sum())
    assert {first, second} == set(merged.subject.split("+"))


def test_model_and_baselines_are_called_at_the_same_threshold(evaluated) -> None:
    split = evaluated.report.splits[0]
    at_half = next(point for point in split.operating_points if point.name == "fixed_50")
    default = next(point for point in split.operating_points if point.default)
    assert split.at_half["accuracy"] == at_half.measures["accuracy"]
    assert split.cell.measures["accuracy"] == default.measures["accuracy"]
    for baseline in split.baselines:
        for name, difference in baseline.differences.items():
            apart = split.at_half[name].value - baseline.measures[name].value
            assert difference.value == pytest.approx(apart, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_decided_cells_are_those_that_the_policy_decides(tmp_path: Path, seed: int) -> None:
    run = read_run(write_run(tmp_path / "run", train=Cohort(12, 8, 12), test=Cohort(12, 8, 12), seed=seed))
    rules = fit_rules(run)
    split = score_run(run, rules, {})
    fit = split.rows[~split.rows["unfit"]]
    report = report_split(dataclasses.replace(split, rows=fit), FEW, lambda _: None)
    names = [field.name for field in dataclasses.fields(Descriptors)]
    scored = [
        decide(logit, None, Descriptors(**row), rules.parameters).decision
        for logit, row in zip(fit["logit"], fit[names].to_dict("records"), strict=True)
    ]
    right = [
        (decision == "blast") == (label == 1)
        for decision, label in zip(scored, fit["label"], strict=True)
        if decision != "uncertain"
    ]
    outcomes, measures = report.abstention.outcomes, report.abstention.measures
    assert sum(outcomes.values()) == len(fit)
    assert [outcomes["blast"], outcomes["normal"]] == [
        scored.count("blast"),
        scored.count("normal"),
    ]
    cells = fit.groupby("group")["cell"].transform("size").to_numpy()
    decided = np.array([decision != "uncertain" for decision in scored])
    assert measures["decided"].value == pytest.approx(np.average(decided, weights=1 / cells))
    assert measures["accuracy_of_decided"].value == pytest.approx(
        np.average(right, weights=1 / cells[decided])
    )


def test_caveats_depend_on_the_cells_only(evaluated) -> None:
    text = " ".join(evaluated.report.caveats)
    area = next(b for b in evaluated.report.headline.baselines if b.name == "area").measures["roc_auc"]
    assert f"{area.value:.3f}" in text
    assert "one laboratory" not in text


def test_a_subject_with_both_labels_is_left_out_at_subject_level(tmp_path: Path) -> None:
    split = scored_run(tmp_path / "run", train=TINY, test=TINY)
    rows = split.rows.copy()
    rows.loc[rows.index[0], "label"] = 1 - rows.loc[rows.index[0], "label"]
    report = report_split(dataclasses.replace(split, rows=rows), FEW, lambda _: None)
    assert any(re.search(r"\b1\b", remark) for remark in report.remarks)
    assert report.subject_mean.measures["accuracy"].n_subjects == split.parts["test"].subjects - 1
    mixed = [row for row in report.subjects if row.label == "mixed"]
    assert len(mixed) == 1
    assert mixed[0].called_by_mean is None


def test_runs_that_test_the_same_cells_are_not_pooled(evaluated, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--pooled"):
        evaluate(evaluated.runs[:1], pooled=True)
    twin = write_run(tmp_path / "twin", train=TINY, test=TINY, seed=1, split="again")
    other = write_run(tmp_path / "other", train=TINY, test=TINY, seed=1, split="and again")
    with pytest.raises(CohortError, match=r"again.*and again"):
        evaluate([twin, other], pooled=True, settings=FEW)
    with pytest.raises(CohortError, match=r"\b2\b"):
        evaluate([twin, twin], settings=FEW)


def test_a_leaking_split_is_named_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "leak", train=TINY, test=TINY, leaks=True)
    report = evaluate([folder], settings=FEW)
    disjoint = write_run(tmp_path / "disjoint", train=TINY, test=TINY)
    assert report.caveats[0] not in evaluate([disjoint], settings=FEW).caveats
    assert report.splits[0].leaks
