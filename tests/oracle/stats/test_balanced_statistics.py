"""Statistics in which each subject counts the same, against weights and against a loop over subjects."""

import numpy as np
import pytest

from leukoscope import metrics as public
from leukoscope.stats.balanced import of_balanced_roc_auc, of_mean_of_subjects
from leukoscope.stats.intervals import BootstrapSettings, bootstrap
from leukoscope.stats.resampling import SubjectSample


@pytest.fixture(params=range(6))
def cells(request) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, tied scores and subjects of very different sizes, one of them with both labels."""
    rng = np.random.default_rng(request.param)
    subjects = rng.choice([f"s{number}" for number in range(9)], 200, p=[0.4, 0.2, 0.1, *[0.05] * 6])
    labels = (np.char.replace(subjects, "s", "").astype(int) % 2).astype(int)
    labels[subjects == "s1"] = rng.integers(0, 2, (subjects == "s1").sum())
    scores = np.round(labels + rng.normal(0, 1, 200), 1)
    return labels, scores, subjects


def test_auc_is_that_of_rows_weighted_by_their_subject(cells) -> None:
    labels, scores, subjects = cells
    sample = SubjectSample.of(labels, subjects)
    value = of_balanced_roc_auc(sample, scores)(np.ones((1, sample.n_subjects)))
    assert value[0] == pytest.approx(public.roc_auc(labels, scores, subjects=subjects), abs=1e-12)


def test_a_resample_is_the_cohort_with_its_subjects_repeated(cells) -> None:
    labels, scores, subjects = cells
    sample = SubjectSample.of(labels, subjects)
    names = np.unique(subjects)
    counts = sample.resample(5, np.random.default_rng(2))
    aucs = of_balanced_roc_auc(sample, scores)(counts)
    means = of_mean_of_subjects(sample, scores)(counts)
    for row, auc, mean in zip(counts, aucs, means, strict=True):
        parts = [
            (np.flatnonzero(subjects == name), f"{name}-{copy}")
            for name, times in zip(names, row, strict=True)
            for copy in range(int(times))
        ]
        places = np.concatenate([place for place, _ in parts])
        people = np.concatenate([np.full(len(place), name) for place, name in parts])
        assert auc == pytest.approx(
            public.roc_auc(labels[places], scores[places], subjects=people), abs=1e-12
        )
        assert mean == pytest.approx(np.mean([scores[place].mean() for place, _ in parts]), abs=1e-12)


def test_a_large_subject_has_no_more_weight_than_a_small_one() -> None:
    subjects = np.repeat(["large", "small"], [99, 1])
    changed = subjects == "small"
    sample = SubjectSample.of(None, subjects)
    estimate = bootstrap(sample, of_mean_of_subjects(sample, changed), BootstrapSettings(replicates=300))
    assert estimate.value == 0.5
    assert estimate.n_subjects == 2


def test_difference_of_one_score_from_itself_is_zero(cells) -> None:
    labels, scores, subjects = cells
    sample = SubjectSample.of(labels, subjects)
    statistic = of_balanced_roc_auc(sample, scores)
    estimate = bootstrap(sample, statistic, BootstrapSettings(replicates=200), minus=statistic)
    assert estimate.value == 0.0
    assert estimate.reason is not None
