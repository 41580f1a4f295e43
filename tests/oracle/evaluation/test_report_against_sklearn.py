"""Every number of a report against an independent library or a brute-force count, on the same classified rows."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from sklearn import metrics

from evaluation_fixtures import FEW
from leukoscope.evaluation.metrics_table import Context, score_cells
from leukoscope.evaluation.scored_split import fit_rules, score_baselines, score_run
from leukoscope.evaluation.scores import read_run
from leukoscope.evaluation.split_report import match_areas, report_split
from synthetic_runs import write_run


@pytest.fixture(scope="module")
def scored(evaluated):
    run = read_run(evaluated.runs[0])
    return score_run(run, fit_rules(run), score_baselines(run))


@pytest.fixture(scope="module")
def rows(scored) -> pd.DataFrame:
    return scored.rows


@pytest.fixture(scope="module")
def weights(rows) -> np.ndarray:
    """Every subject of the same weight."""
    return 1 / rows.groupby("group")["cell"].transform("size").to_numpy()


@pytest.mark.parametrize("level", ["cell", "cell_weighted"])
def test_calls_and_scores_of_cells(evaluated, rows, weights, level: str) -> None:
    y, p, called = rows["label"], rows["probability"], rows["called"]
    w = {"sample_weight": weights if level == "cell" else np.ones(len(rows))}
    expected = {
        "roc_auc": metrics.roc_auc_score(y, p, **w),
        "average_precision": metrics.average_precision_score(y, p, **w),
        "accuracy": metrics.accuracy_score(y, called, **w),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, called, **w),
        "sensitivity": metrics.recall_score(y, called, **w),
        "specificity": metrics.recall_score(1 - y, ~called, **w),
        "ppv": metrics.precision_score(y, called, **w),
        "npv": metrics.precision_score(1 - y, ~called, **w),
        "f1_blast": metrics.f1_score(y, called, **w),
        "f1_normal": metrics.f1_score(1 - y, ~called, **w),
        "f1_weighted": metrics.f1_score(y, called, average="weighted", **w),
        "mcc": metrics.matthews_corrcoef(y, called, **w),
        "brier": metrics.brier_score_loss(y, p, **w),
    }
    measures = getattr(evaluated.report.splits[0], level).measures
    assert {one.weighting for one in measures.values()} == {"subject" if level == "cell" else "cell"}
    for name, value in expected.items():
        assert measures[name].value == pytest.approx(value, abs=1e-12), name
    tn, fp, fn, tp = metrics.confusion_matrix(y, called).ravel()
    counts = evaluated.report.splits[0].cell.confusion
    assert (counts.true_negative, counts.false_positive) == (tn, fp)
    assert (counts.false_negative, counts.true_positive) == (fn, tp)


def test_rates_where_the_other_is_held(evaluated, rows, weights) -> None:
    fall_out, sensitivity, _ = metrics.roc_curve(
        rows["label"], rows["probability"], sample_weight=weights, drop_intermediate=False
    )
    measures = evaluated.report.splits[0].cell.measures
    for held in (0.90, 0.95):
        best = sensitivity[fall_out <= 1 - held + 1e-12].max()
        assert measures[f"sensitivity_at_specificity_{held * 100:.0f}"].value == pytest.approx(best)
        best = 1 - fall_out[sensitivity >= held - 1e-12].min()
        assert measures[f"specificity_at_sensitivity_{held * 100:.0f}"].value == pytest.approx(best)


def test_temperature_is_the_maximum_likelihood_one_of_validation_rows(tmp_path) -> None:
    run = read_run(write_run(tmp_path / "overconfident", sharpness=4.0))
    validation = run.part("validation")
    weights = 1 / validation.groupby("group")["cell"].transform("size")

    def loss(temperature: float) -> float:
        p = 1 / (1 + np.exp(-validation["logit"] / temperature))
        return metrics.log_loss(validation["label"], p, sample_weight=weights)

    best = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    assert fit_rules(run).parameters.temperature == pytest.approx(best, rel=1e-4)


def test_subject_calls(evaluated, rows) -> None:
    grouped = rows.groupby("subject")
    labels = grouped["label"].first()
    pooled = 1 / (1 + np.exp(-grouped["calibrated_logit"].mean()))
    called = pooled >= rows["subject_threshold"].iloc[0]
    measures = evaluated.report.splits[0].subject_mean.measures
    assert measures["roc_auc"].value == pytest.approx(metrics.roc_auc_score(labels, pooled))
    assert measures["sensitivity"].value == pytest.approx(metrics.recall_score(labels, called))
    right = int((called == (labels == 1)).sum())
    interval = stats.binomtest(right, len(labels)).proportion_ci(0.95, method="wilson")
    assert measures["accuracy"].low == pytest.approx(interval.low, abs=1e-6)
    assert measures["accuracy"].high == pytest.approx(interval.high, abs=1e-6)
    assert measures["accuracy"].n_subjects == len(labels)
    votes = grouped["called"].mean() >= 0.5
    majority = evaluated.report.splits[0].subject_majority.measures
    assert majority["accuracy"].value == pytest.approx(metrics.accuracy_score(labels, votes))


def mann_whitney(y: np.ndarray, score: np.ndarray) -> float:
    blasts = int(y.sum())
    rank_sum = stats.rankdata(score)[y == 1].sum()
    return (rank_sum - blasts * (blasts + 1) / 2) / (blasts * (len(y) - blasts))


def test_difference_to_a_baseline_and_its_interval(evaluated, scored, rows, weights) -> None:
    baseline = next(b for b in evaluated.report.splits[0].baselines if b.name == "nine_scalars")
    y, ours, theirs = (
        rows["label"].to_numpy(),
        rows["probability"].to_numpy(),
        scored.baselines["nine_scalars"],
    )
    w = {"sample_weight": weights}
    value = metrics.roc_auc_score(y, ours, **w) - metrics.roc_auc_score(y, theirs, **w)
    difference = baseline.differences["roc_auc"]
    assert difference.value == pytest.approx(value, abs=1e-12)
    # An independent bootstrap: draw subjects within each class and concatenate their rows.
    rng = np.random.default_rng(5)
    groups = {g: np.flatnonzero(rows["group"] == g) for g in rows["group"].unique()}
    strata = [[g for g in groups if y[groups[g][0]] == label] for label in (0, 1)]
    draws = []
    for _ in range(400):
        index = np.concatenate([groups[g] for s in strata for g in rng.choice(s, len(s))])
        w = {"sample_weight": weights[index]}
        draws.append(
            metrics.roc_auc_score(y[index], ours[index], **w)
            - metrics.roc_auc_score(y[index], theirs[index], **w)
        )
    low, high = np.quantile(draws, [0.025, 0.975])
    # The expanded interval of few subjects is wider than the plain one, never narrower.
    assert difference.low <= low + 0.02
    assert difference.high >= high - 0.02
    assert difference.high - difference.low < 4 * (high - low)


def test_area_matched_auc_by_counting_pairs(scored, rows, weights) -> None:
    context = Context("s", FEW.bootstrap, FEW.bins)
    matched = match_areas(scored, score_cells(rows), context, 0.05)
    size, p, blast = (
        np.log(rows["area_px"].to_numpy()),
        rows["probability"].to_numpy(),
        rows["label"].to_numpy() == 1,
    )
    near = np.abs(size[blast][:, None] - size[~blast][None, :]) <= 0.05
    won = (p[blast][:, None] > p[~blast][None, :]) + 0.5 * (p[blast][:, None] == p[~blast][None, :])
    assert matched.pairs == near.sum()
    counted = weights[blast][:, None] * weights[~blast][None, :]
    assert matched.roc_auc.value == pytest.approx(np.average(won[near], weights=counted[near]), abs=1e-12)
    assert abs(matched.area_alone.value - 0.5) < 0.1
    assert matched.matched_blasts == near.any(axis=1).sum()
    assert matched.matched_normals == near.any(axis=0).sum()


def test_area_under_risk_and_coverage(evaluated, rows, weights) -> None:
    order = np.argsort(-rows["margin"].abs().to_numpy(), kind="stable")
    wrong = (rows["called"] != (rows["label"] == 1)).to_numpy()[order]
    counted = weights[order]
    risks = [np.average(wrong[: k + 1], weights=counted[: k + 1]) for k in range(len(wrong))]
    area = evaluated.report.splits[0].abstention.risk_coverage_area
    assert area.value == pytest.approx(np.average(risks, weights=counted), abs=1e-12)


def test_prevalence_and_net_benefit_by_hand(evaluated, rows, weights) -> None:
    split = evaluated.report.splits[0]
    sensitivity, specificity = (
        split.cell.measures["sensitivity"].value,
        split.cell.measures["specificity"].value,
    )
    point = next(p for p in split.prevalence if math.isclose(p.prevalence, 0.1))
    assert point.ppv.value == pytest.approx(sensitivity * 0.1 / (sensitivity * 0.1 + (1 - specificity) * 0.9))
    assert point.npv.value == pytest.approx(specificity * 0.9 / (specificity * 0.9 + (1 - sensitivity) * 0.1))
    benefit = next(p for p in split.decision_curve if math.isclose(p.threshold, 0.3))
    called, blast = rows["probability"] >= 0.3, rows["label"] == 1
    share = lambda mask: np.average(mask, weights=weights)  # noqa: E731
    expected = share(called & blast) - share(called & ~blast) * 0.3 / 0.7
    assert benefit.model.value == pytest.approx(expected)
    assert benefit.call_all == pytest.approx(share(blast) - share(~blast) * 0.3 / 0.7)


def test_mean_of_splits_is_the_mean_of_the_splits(evaluated) -> None:
    report = evaluated.report
    mean = np.mean([split.cell.measures["roc_auc"].value for split in report.splits])
    assert report.pooled.cell.measures["roc_auc_mean_of_splits"].value == pytest.approx(mean)


def test_coverage_of_prediction_sets_by_counting(evaluated, rows, weights) -> None:
    measures = evaluated.report.splits[0].abstention.measures
    blast = (rows["label"] == 1).to_numpy()
    for side, name in ((blast, "blast"), (~blast, "normal")):
        covered = np.average(rows.loc[side, f"set_{name}"], weights=weights[side])
        assert measures[f"coverage_{name}"].value == pytest.approx(covered)
    decided = rows["set_blast"] != rows["set_normal"]
    assert (rows.loc[decided, "called"] == rows.loc[decided, "set_blast"]).all()
    assert measures["decided"].value == pytest.approx(np.average(decided, weights=weights))


def test_pooled_cells_are_classified_by_the_rules_of_their_own_split(evaluated) -> None:
    report = evaluated.report
    total = [split.cell.confusion for split in report.splits]
    for name in ("true_positive", "false_negative", "false_positive", "true_negative"):
        assert getattr(report.pooled.cell.confusion, name) == sum(getattr(c, name) for c in total)


def test_the_same_input_gives_the_same_section(scored, evaluated) -> None:
    assert report_split(scored, FEW, lambda _: None) == evaluated.report.splits[0]
