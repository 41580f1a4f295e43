"""The rule for subjects: its threshold, the number of cells it needs, and when there is none."""

import numpy as np
import pytest

from leukoscope.decision.subject_rule import FEWEST_SUBJECTS, fit_subject_rule


def rows(positives: int, negatives: int, *, spread: float = 0.0, cells: int = 60, shift: float = 0.0):
    """Subjects whose cells scatter by ``spread`` around +2 or -1, moved by ``shift``."""
    rng = np.random.default_rng(5)
    labels = np.repeat([1] * positives + [0] * negatives, cells)
    subjects = np.repeat(np.arange(positives + negatives), cells)
    scores = np.where(labels == 1, 2.0, -1.0) + shift + spread * rng.normal(size=len(labels))
    return np.stack([np.zeros_like(scores), scores], axis=1), labels, subjects


def test_the_threshold_lies_in_the_middle_between_the_subjects() -> None:
    rule = fit_subject_rule(*rows(6, 6))
    assert rule.subjects == 12
    assert rule.cells_needed == 1
    middle = (1 / (1 + np.exp(-2.0)) + 1 / (1 + np.exp(1.0))) / 2
    assert rule.threshold == pytest.approx(middle)


def test_it_moves_with_the_subjects_not_with_their_numbers_of_cells() -> None:
    logits, labels, subjects = rows(6, 6, shift=1.0)
    many = subjects == 0
    repeated = [
        np.concatenate([values, np.repeat(values[many], 30, axis=0)]) for values in (logits, labels, subjects)
    ]
    assert fit_subject_rule(*repeated).threshold == fit_subject_rule(logits, labels, subjects).threshold
    assert fit_subject_rule(logits, labels, subjects).threshold > fit_subject_rule(*rows(6, 6)).threshold


def test_the_more_cells_scatter_the_more_are_needed() -> None:
    needed = [fit_subject_rule(*rows(8, 8, spread=spread)).cells_needed for spread in (0.0, 2.0, 5.0)]
    assert needed == sorted(needed)
    assert needed[0] == 1 < needed[-1]


def test_without_enough_subjects_or_a_difference_there_is_no_rule() -> None:
    assert fit_subject_rule(*rows(FEWEST_SUBJECTS - 1, 9)) is None
    logits, labels, subjects = rows(6, 6)
    assert fit_subject_rule(np.zeros_like(logits), labels, subjects) is None
    mixed = labels.copy()
    mixed[::7] = 1 - mixed[::7]
    assert fit_subject_rule(logits, mixed, subjects) is None
