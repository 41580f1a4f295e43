"""Do 95 % intervals hold the true value 95 times in 100, when cells of a subject are alike?"""

import dataclasses
import math
from statistics import NormalDist

import numpy as np
import pytest

from leukoscope.stats import metrics as discrimination
from leukoscope.stats import reliability
from leukoscope.stats import resampling as clusters
from leukoscope.stats.intervals import BootstrapSettings, bootstrap, clopper_pearson, delong, wilson
from leukoscope.stats.resampling import SubjectSample

NORMAL = NormalDist()
SEPARATION, SUBJECT_SD = 2.2, 0.7


def draw_cohort(
    rng: np.random.Generator, blasts: int, normals: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One simulated test part: each subject has its own shift, so that its cells agree with each other."""
    sizes = np.clip(rng.lognormal(3.3, 0.7, blasts + normals), 5, 150).astype(int)
    subjects = np.repeat(np.arange(blasts + normals), sizes)
    labels = (subjects < blasts).astype(int)
    shifts = rng.normal(size=blasts + normals) * SUBJECT_SD
    return labels, labels * SEPARATION + shifts[subjects] + rng.normal(size=len(subjects)), subjects


@pytest.mark.slow
@pytest.mark.parametrize(("blasts", "normals", "floor"), [(30, 12, 0.92), (19, 9, 0.91), (11, 3, 0.88)])
def test_expanded_bootstrap_covers_and_the_others_do_not(blasts: int, normals: int, floor: float) -> None:
    rng = np.random.default_rng(20)
    true_auc = NORMAL.cdf(SEPARATION / np.sqrt(2 * (1 + SUBJECT_SD**2)))
    hits = {"expanded": 0, "percentile": 0, "delong": 0}
    rounds = 250
    for seed in range(rounds):
        labels, scores, subjects = draw_cohort(rng, blasts, normals)
        sample = SubjectSample.of(labels, subjects)
        statistic = clusters.of_roc_auc(sample, scores)
        for kind in ("expanded", "percentile"):
            got = bootstrap(sample, statistic, BootstrapSettings(replicates=500, kind=kind, seed=seed))
            hits[kind] += got.low <= true_auc <= got.high
        by_cells = delong(labels, scores)
        hits["delong"] += by_cells.low <= true_auc <= by_cells.high
    coverage = {kind: count / rounds for kind, count in hits.items()}
    assert floor <= coverage["expanded"] <= 0.985, coverage
    assert coverage["percentile"] <= coverage["expanded"] - 0.02, coverage
    assert coverage["delong"] < 0.5, coverage


@pytest.mark.slow
@pytest.mark.parametrize("slope", [1.2, 1.8, 3.0])
@pytest.mark.parametrize(("blasts", "normals"), [(30, 12), (19, 9)])
def test_intervals_of_ece_contain_the_estimate_and_cover_the_truth(
    slope: float, blasts: int, normals: int
) -> None:
    rng = np.random.default_rng(3)

    def predict(scores: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-slope * (scores - SEPARATION / 2)) * (normals / blasts) ** 0.7)

    labels, scores, _ = draw_cohort(rng, blasts * 200, normals * 200)
    truth = reliability.ece(labels, predict(scores))
    shifted = plain = 0
    for seed in range(60):
        labels, scores, subjects = draw_cohort(rng, blasts, normals)
        sample = SubjectSample.of(labels, subjects)
        statistic = clusters.of_ece(sample, predict(scores))
        settings = BootstrapSettings(replicates=300, seed=seed)
        got = bootstrap(sample, statistic, settings)
        assert got.low <= got.value <= got.high
        shifted += got.low <= truth <= got.high
        unshifted = bootstrap(sample, dataclasses.replace(statistic, inflated=False), settings)
        plain += unshifted.low <= truth <= unshifted.high
    assert shifted >= max(0.7 * 60, plain - 2)


@pytest.mark.slow
def test_paired_difference_covers_no_difference() -> None:
    rng = np.random.default_rng(21)
    hits = rounds = 200
    for seed in range(rounds):
        labels, scores, subjects = draw_cohort(rng, 30, 12)
        sample = SubjectSample.of(labels, subjects)
        # Two equally good scores that share the subjects' shifts.
        first, second = (scores + rng.normal(size=len(scores)) * 0.8 for _ in range(2))
        got = bootstrap(
            sample,
            clusters.of_roc_auc(sample, first),
            BootstrapSettings(replicates=500, seed=seed),
            minus=clusters.of_roc_auc(sample, second),
        )
        hits -= not got.low <= 0 <= got.high
    assert 0.92 <= hits / rounds <= 0.99


@pytest.mark.slow
def test_sensitivity_over_subjects_covers() -> None:
    rng = np.random.default_rng(22)
    threshold = SEPARATION / 2
    true_sensitivity = NORMAL.cdf((SEPARATION - threshold) / np.sqrt(1 + SUBJECT_SD**2))
    rounds, hits = 200, 0
    for seed in range(rounds):
        labels, scores, subjects = draw_cohort(rng, 30, 12)
        sample = SubjectSample.of(labels, subjects)
        statistic = clusters.of_calls(sample, scores > threshold, discrimination.sensitivity)
        got = bootstrap(sample, statistic, BootstrapSettings(replicates=500, seed=seed))
        hits += got.low <= true_sensitivity <= got.high
    assert 0.89 <= hits / rounds <= 0.985


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("trials", [11, 28, 42])
def test_share_intervals_cover_exactly_computed(share: float, trials: int) -> None:
    """No simulation: the binomial probabilities of all outcomes whose interval holds the share are added."""
    logs = np.array([log_choose(trials, k) for k in range(trials + 1)])
    masses = np.exp(
        logs + np.arange(trials + 1) * np.log(share) + np.arange(trials, -1, -1) * np.log(1 - share)
    )
    assert masses.sum() == pytest.approx(1)

    def coverage(interval) -> float:
        ends = [interval(k, trials) for k in range(trials + 1)]
        return float(
            sum(mass for mass, (low, high) in zip(masses, ends, strict=True) if low <= share <= high)
        )

    assert coverage(wilson) >= 0.89  # Wilson's covers 95 % on average over shares, not at each.
    assert coverage(clopper_pearson) >= 0.95


def log_choose(n: int, k: int) -> float:
    return math.log(math.comb(n, k))
