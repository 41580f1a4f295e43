"""Fitting the decision layer: from held-out rows, never from test rows, with a reason if it is infeasible."""

import dataclasses

import numpy as np
import pytest

from leukoscope.core.errors import CohortError
from leukoscope.decision.calibration import (
    Calibration,
    Infeasible,
    Rule,
    choose_calibration,
    choose_operating_point,
    fit_temperature,
)
from leukoscope.decision.fit import DecisionSettings, ScoredRows, fit_decision

SUBJECTS, BLAST_SUBJECTS, CELLS, DIMENSION = 40, 26, 25, 24


def make_rows(seed: int = 0, subjects: int = SUBJECTS, blasts: int = BLAST_SUBJECTS) -> ScoredRows:
    """Rows of all three parts; embeddings shift with the subject, as real ones do."""
    rng = np.random.default_rng(seed)
    parts = []
    for part in ("train", "validation", "test"):
        names = np.array([f"{part}{s}" for s in range(subjects)])
        index = np.repeat(np.arange(subjects), CELLS)
        label = (index < blasts).astype(int)
        logit = 6 * (label - 0.5) + 2 * rng.normal(size=subjects)[index] + 3 * rng.normal(size=len(index))
        embedding = rng.normal(size=(subjects, DIMENSION))[index] + rng.normal(size=(len(index), DIMENSION))
        parts.append((np.full(len(index), part), label, logit, names[index], embedding))
    part, label, logit, group, embedding = (np.concatenate(column) for column in zip(*parts, strict=True))
    size = len(part)
    descriptors = {
        "area_px": rng.normal(32_000, 3_000, size),
        "foreground_share": rng.normal(0.16, 0.015, size),
        "focus": rng.gamma(30, 0.02, size),
        "border_contact_px": np.zeros(size),
        "components": np.ones(size),
    }
    inner_fold = np.where(part == "validation", np.arange(size) // CELLS % 5, -1).astype(str)
    return ScoredRows(part, label, logit, group, inner_fold, embedding.astype(np.float32), descriptors)


def test_all_parts_are_fitted_without_test_rows() -> None:
    rows = make_rows()
    fit = fit_decision(rows)
    assert fit.notes == ()
    assert fit.parameters.conformal.classes["blast"].subjects == BLAST_SUBJECTS
    assert [point.name for point in fit.parameters.operating_points] == [
        "fixed_50",
        "sensitivity_95",
        "youden",
        "specificity_90",
    ]
    poisoned = dataclasses.replace(
        rows,
        logit=np.where(rows.part == "test", 1e6, rows.logit),
        label=np.where(rows.part == "test", 1 - rows.label, rows.label),
        embeddings=np.where((rows.part == "test")[:, None], np.float32(1e6), rows.embeddings),
    )
    again = fit_decision(poisoned)
    assert again.parameters == fit.parameters
    assert all((again.novelty.to_tensors()[k] == v).all() for k, v in fit.novelty.to_tensors().items())


@pytest.mark.parametrize("novelty_rows", ["validation", "train"])
def test_novelty_refuses_few_cells_of_unseen_subjects_and_all_far_ones(novelty_rows: str) -> None:
    rows = make_rows(1)
    fit = fit_decision(rows, DecisionSettings(novelty_rows=novelty_rows))
    limit = fit.parameters.novelty.limit
    test = rows.of("test").embeddings
    assert (fit.novelty.score(test) > limit).mean() <= 0.04
    assert (fit.novelty.score(test + 8) > limit).mean() == 1


def test_temperature_undoes_overconfidence() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=20_000) * 2
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-truth))).astype(int)
    assert fit_temperature(3 * truth, labels).temperature == pytest.approx(3, rel=0.05)
    both = fit_temperature(3 * (truth - 1), labels, with_bias=True)
    assert (both.temperature, both.bias) == (pytest.approx(3, rel=0.05), (0.0, pytest.approx(1, abs=0.1)))


@pytest.mark.parametrize("labels", [[1, 1, 1], [1, 0, 0]])
def test_impossible_temperatures_leave_the_logits_unchanged(labels: list[int]) -> None:
    got = fit_temperature([-1.0, 0.5, 2.0], labels)
    assert (got.temperature, got.bias) == (1.0, ()) and got.reason


def test_temperature_of_perfect_separation_is_bounded() -> None:
    got = fit_temperature([-1.0, -2.0, 1.0, 2.0], [0, 0, 1, 1])
    assert got.temperature == pytest.approx(0.02, rel=1e-3)
    assert np.isfinite(got.probabilities([-1e4, 1e4])).all()


def draw_scored_people(scale: float, spread: float, seed: int = 5):
    """40 people of 50 cells, calibrated at ``scale`` = 1 and ``spread`` = 0; the spread moves a person's logits."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(40), 50)
    truth = rng.normal(size=2000) * 2
    labels = (rng.random(2000) < 1 / (1 + np.exp(-truth))).astype(int)
    return scale * (truth + spread * rng.normal(size=40)[group]), labels, group


@pytest.mark.parametrize("scale", [0.3, 3.0])
@pytest.mark.parametrize("folds", [1, 5])
def test_a_temperature_that_helps_held_out_subjects_is_kept(scale: float, folds: int) -> None:
    logits, labels, group = draw_scored_people(scale, 0.0)
    got = choose_calibration(logits, labels, group, group % folds)
    assert got.reason is None
    assert got.temperature == pytest.approx(scale, rel=0.15)
    assert got == fit_temperature(logits, labels)


def test_calibrated_logits_are_unchanged_and_the_reason_states_the_temperature() -> None:
    logits, labels, group = draw_scored_people(1.0, 0.0)
    got = choose_calibration(logits, labels, group, group % 5)
    assert (got.temperature, got.bias) == (1.0, ())
    assert "standard error of 0.0" in got.reason and "would fit best" in got.reason
    assert fit_temperature(logits, labels).reason is None


def test_one_subject_does_not_determine_the_temperature() -> None:
    logits, labels, group = draw_scored_people(1.0, 0.0)
    wrong = group == 0
    logits[wrong] = np.where(labels[wrong] == 1, -6.0, 6.0)
    assert fit_temperature(logits, labels).temperature > 1.2
    assert choose_calibration(logits, labels, group, group % 5).temperature == 1.0


def test_a_temperature_of_a_single_subject_is_not_kept() -> None:
    logits, labels, _ = draw_scored_people(3.0, 0.0)
    got = choose_calibration(logits, labels, ["only"] * 2000, [""] * 2000)
    assert got.temperature == 1.0 and got.reason


@pytest.mark.parametrize("unit", ["cell", "subject"])
def test_operating_points_keep_their_rule(unit: str) -> None:
    rows = make_rows(3).of("validation")
    probabilities = Calibration(2.0).probabilities(rows.logit)[:, 1]
    calls = {}
    for rule in (Rule("sensitivity", 0.95, unit), Rule("specificity", 0.9, unit), Rule("youden", unit=unit)):
        point = choose_operating_point(rule, probabilities, rows.label, rows.group)
        calls[rule.kind] = probabilities >= point.threshold
        assert not np.isin(point.threshold, probabilities)
    blast = rows.label == 1
    # All simulated subjects have as many cells, so that both units ask for the same.
    assert calls["sensitivity"][blast].mean() >= 0.95 > calls["sensitivity"][blast].mean() - 2 / blast.sum()
    assert (~calls["specificity"][~blast]).mean() >= 0.9
    sums = [call[blast].mean() + (~call[~blast]).mean() for call in calls.values()]
    assert max(sums) == sums[2]


def test_subject_rule_is_not_ruled_by_one_large_subject() -> None:
    labels = np.array([1] * 100 + [1] * 4 + [0] * 10)
    subjects = np.array(["large"] * 100 + ["a", "b", "c", "d"] + [f"h{i}" for i in range(10)])
    probabilities = np.concatenate([np.full(100, 0.9), np.full(4, 0.4), np.linspace(0.05, 0.3, 10)])
    by_cell = choose_operating_point(Rule("sensitivity", 0.95, "cell"), probabilities, labels)
    by_subject = choose_operating_point(Rule("sensitivity", 0.95, "subject"), probabilities, labels, subjects)
    assert by_cell.threshold > 0.4 > by_subject.threshold


def test_infeasible_rules_have_a_reason() -> None:
    backwards = choose_operating_point(Rule("sensitivity", 0.95), [0.9, 0.8, 0.1], [0, 0, 1])
    assert isinstance(backwards, Infeasible) and "every row positive" in backwards.reason
    one_class = choose_operating_point(Rule("youden"), [0.9, 0.8], [1, 1])
    assert isinstance(one_class, Infeasible) and one_class.reason


def test_few_subjects_are_noted() -> None:
    fit = fit_decision(make_rows(4, subjects=20, blasts=14), DecisionSettings(alpha=0.1))
    assert fit.parameters.conformal.classes["normal"].quantile is None
    assert fit.parameters.conformal.classes["blast"].quantile is not None
    assert any("normal is never excluded" in note and "9 are needed" in note for note in fit.notes)


def test_missing_parts_and_classes_are_refused() -> None:
    rows = make_rows(5)
    with pytest.raises(CohortError, match="'validation'"):
        fit_decision(rows.of("train"))
    one_class = dataclasses.replace(rows, label=np.where(rows.part == "validation", 1, rows.label))
    with pytest.raises(CohortError):
        fit_decision(one_class)
    with pytest.raises(ValueError, match=rf"{len(rows.logit) - 1}"):
        dataclasses.replace(rows, logit=rows.logit[:-1])
