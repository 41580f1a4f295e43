"""Shares and AUC of changed answers on data made by hand."""

import numpy as np
import pytest

from leukoscope import metrics as public
from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.evaluation.robustness import Answers, MeasuredCells, measure_change, measure_unchanged
from leukoscope.stats.intervals import BootstrapSettings

FEW = BootstrapSettings(replicates=200)
# Subject a has four cells, b two, c and d one each.
SUBJECTS = np.array(["a", "a", "a", "a", "b", "b", "c", "d"])
LABELS = np.array(["blast"] * 6 + ["normal"] * 2)


def answers(decisions: str, log_odds: list[float], checked: str = "") -> Answers:
    """Make answers of two classes: b(last), n(ormal), u(ncertain), r(ejected); ``checked`` names rejected rows."""
    words = {"b": "blast", "n": "normal", "u": "uncertain", "r": "rejected"}
    made = np.array([words[letter] for letter in decisions])
    odds = np.array(log_odds, dtype=np.float64)
    by_check = np.array([str(row) in checked for row in range(len(made))])
    return Answers(
        calls=np.where(odds >= 0, "blast", "normal"),
        decisions=made,
        logits=np.stack([np.zeros_like(odds), odds], axis=1),
        novel=(made == "rejected") & ~by_check,
        checked=by_check,
    )


def cells(subjects: np.ndarray | None = SUBJECTS, labels: np.ndarray = LABELS) -> MeasuredCells:
    return MeasuredCells(subjects, labels, BINARY, "all", FEW)


BEFORE = answers("bbbbubnn", [2, 2, 2, 2, 0.5, 2, -2, -1])
#         row 0: reversed; 1: uncertain; 2: novel; 5: refused by a check; 7: uncertain, and its call changes
AFTER = answers("nurbubbu", [-2, 1, 2, 2, 0.5, 2, 3, 0.25])


def test_shares_count_each_subject_the_same() -> None:
    measures = measure_change(cells(), BEFORE, AFTER)
    # By hand: a 3 of 4 changed, b 0 of 2, c 1 of 1, d 1 of 1.
    assert measures["decisions_changed"].value == pytest.approx((0.75 + 0 + 1 + 1) / 4)
    assert measures["decisions_reversed"].value == pytest.approx((0.25 + 0 + 1 + 0) / 4)
    assert measures["decisions_rejected"].value == pytest.approx(0.25 / 4)
    assert measures["calls_changed"].value == pytest.approx((0.25 + 0 + 1 + 1) / 4)
    assert measures["rejected"].value == measures["rejected_as_novel"].value == pytest.approx(0.25 / 4)
    assert measures["rejected_by_checks"].value == 0.0
    assert measures["logit_change"].value == pytest.approx(((4 + 1) / 4 + 0 + 5 + 1.25) / 4)
    for measurement in measures.values():
        assert measurement.n_cells == 8 and measurement.n_subjects == 4
    low, high = measures["decisions_changed"].low, measures["decisions_changed"].high
    assert low is not None and high is not None and low < 0.6875 < high


def test_rejection_is_divided_by_its_cause_and_before_is_its_own() -> None:
    after = answers("bbrrubnn", [2, 2, 2, 2, 0.5, 2, -2, -1], checked="3")
    measures = measure_change(cells(), BEFORE, after)
    assert measures["rejected"].value == pytest.approx(0.5 / 4)
    assert (
        measures["rejected_as_novel"].value == measures["rejected_by_checks"].value == pytest.approx(0.25 / 4)
    )
    assert measures["calls_changed"].value == 0.0
    unchanged = measure_unchanged(cells(), after)
    assert unchanged["rejected"].value == pytest.approx(0.5 / 4)
    assert unchanged["decided"].value == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    back = measure_change(cells(), after, BEFORE)
    assert back["decisions_rejected"].value == 0.0
    assert back["decisions_changed"].value == pytest.approx(0.5 / 4)


def test_auc_is_balanced_and_its_change_is_paired() -> None:
    measures = measure_change(cells(), BEFORE, AFTER)
    truth = (LABELS == "blast").astype(int)
    before = public.roc_auc(truth, BEFORE.logits[:, 1], subjects=SUBJECTS)
    after = public.roc_auc(truth, AFTER.logits[:, 1], subjects=SUBJECTS)
    assert before == 1.0 and after < 1.0
    assert measures["roc_auc"].value == pytest.approx(after)
    assert measures["roc_auc_change"].value == pytest.approx(after - before)
    assert measure_unchanged(cells(), BEFORE)["roc_auc"].value == pytest.approx(before)


def test_equal_answers_change_nothing() -> None:
    measures = measure_change(cells(), BEFORE, BEFORE)
    for name in (
        "decisions_changed",
        "decisions_reversed",
        "calls_changed",
        "logit_change",
        "roc_auc_change",
    ):
        assert measures[name].value == 0.0
        assert measures[name].not_estimable is not None  # no resample differs


@pytest.mark.parametrize("labels", [np.full(8, ""), np.full(8, "blast"), np.full(8, "normal")])
def test_without_two_labels_the_auc_has_a_reason_and_the_shares_remain(labels: np.ndarray) -> None:
    measures = measure_change(cells(labels=labels), BEFORE, AFTER)
    assert measures["roc_auc"].value is None and measures["roc_auc"].not_estimable
    assert measures["roc_auc_change"].value is None and measures["roc_auc_change"].not_estimable
    assert measures["decisions_changed"].value == pytest.approx(0.6875)


def test_cells_without_a_label_are_left_out_of_the_auc_alone() -> None:
    labels = LABELS.copy()
    labels[0] = ""
    known = labels != ""
    measures = measure_change(cells(labels=labels), BEFORE, AFTER)
    expected = public.roc_auc(
        (labels[known] == "blast").astype(int), AFTER.logits[known, 1], subjects=SUBJECTS[known]
    )
    assert measures["roc_auc"].value == pytest.approx(expected)
    assert measures["roc_auc"].n_cells == 7
    assert measures["decisions_changed"].n_cells == 8


def test_without_subjects_cells_count_the_same_and_there_is_no_interval() -> None:
    measures = measure_change(cells(subjects=None), BEFORE, AFTER)
    assert measures["decisions_changed"].value == pytest.approx(5 / 8)
    assert measures["roc_auc"].value == pytest.approx(
        public.roc_auc((LABELS == "blast").astype(int), AFTER.logits[:, 1])
    )
    for measurement in measures.values():
        assert measurement.low is None and measurement.not_estimable and measurement.n_subjects == 0


def test_more_classes_without_a_positive_group() -> None:
    classes = ClassSchema.of_names(["a", "b", "c"])
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]))
    moved = np.log(np.array([[0.2, 0.7, 0.1], [0.1, 0.6, 0.3]]))

    def made(names: list[str], values: np.ndarray) -> Answers:
        none = np.zeros(2, dtype=bool)
        return Answers(np.array(names), np.array(names), values, none, none)

    measured = MeasuredCells(np.array(["s", "t"]), np.array(["a", "b"]), classes, "all", FEW)
    measures = measure_change(measured, made(["a", "b"], logits), made(["b", "b"], moved))
    assert measures["decisions_reversed"].value == measures["calls_changed"].value == 0.5
    # Log-odds of the class called before: from log(0.7 / 0.3) to log(0.2 / 0.8).
    assert measures["logit_change"].value == pytest.approx((np.log(0.7 / 0.3) - np.log(0.2 / 0.8)) / 2)
    assert measures["roc_auc"].value is None


def test_more_classes_with_a_positive_group_have_its_auc() -> None:
    classes = ClassSchema.of_names(["a", "b", "c"], positive=["b", "c"])
    logits = np.array([[2.0, 0, 0], [0, 1, 0], [0, 0, 3], [0, 0, 0]])
    labels, subjects = np.array(["a", "b", "c", "a"]), np.array(["s", "t", "u", "v"])
    none = np.zeros(4, dtype=bool)
    names = np.array(["a", "b", "c", "b"])
    made = Answers(names, names, logits, none, none)
    measured = MeasuredCells(subjects, labels, classes, "all", FEW)
    assert measure_unchanged(measured, made)["roc_auc"].value == 1.0
