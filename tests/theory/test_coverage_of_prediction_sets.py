"""Does the set of a random cell of a new subject hold its class, however alike the cells of a subject are?"""

import numpy as np
import pytest

from leukoscope.decision.conformal import fit_quantiles, prediction_sets, subject_quantile, subjects_needed


def draw_subject(rng: np.random.Generator, spread: float) -> np.ndarray:
    """Nonconformities of one subject's cells; unusual subjects give more cells, which misleads the cell quantile."""
    shift = rng.standard_t(4) * spread
    size = int(np.clip(rng.lognormal(3.0 - 0.8 * np.sign(shift), 0.6), 1, 200))
    return shift + rng.normal(size=size)


def coverage(groups: int, alpha: float, spread: float, rounds: int, seed: int) -> tuple[float, float]:
    """How often a random cell of a new subject stays below the subject quantile, and below the cells' quantile."""
    rng = np.random.default_rng(seed)
    by_subject = by_cell = 0
    for _ in range(rounds):
        cells = [draw_subject(rng, spread) for _ in range(groups)]
        values = np.concatenate(cells)
        names = np.repeat(np.arange(groups), [len(part) for part in cells])
        new = rng.choice(draw_subject(rng, spread))
        limit = subject_quantile(values, names, alpha).quantile
        by_subject += limit is None or new <= limit
        by_cell += new <= np.quantile(values, min(1, (1 - alpha) * (1 + 1 / len(values))))
    return by_subject / rounds, by_cell / rounds


@pytest.mark.slow
@pytest.mark.parametrize("groups", [4, 9, 12, 30])
@pytest.mark.parametrize("alpha", [0.1, 0.2])
@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_guarantee_holds_over_subjects(groups: int, alpha: float, spread: float) -> None:
    rounds = 800
    covered, _ = coverage(groups, alpha, spread, rounds, seed=groups)
    noise = 3 * np.sqrt(alpha * (1 - alpha) / rounds)
    assert covered >= 1 - alpha - noise
    # The theory's upper bound for continuous scores is 1 - alpha + 2 / (groups + 1).
    if groups >= subjects_needed(alpha):
        assert covered <= 1 - alpha + 2 / (groups + 1) + noise


@pytest.mark.slow
def test_quantile_over_cells_does_not_cover() -> None:
    """The control: taking cells as exchangeable covers less than promised, so the test above can fail."""
    by_subject, by_cell = coverage(12, 0.1, 5.0, 800, seed=3)
    assert by_subject >= 0.87
    assert by_cell < 0.85


@pytest.mark.slow
def test_both_classes_are_covered_by_sets() -> None:
    rng = np.random.default_rng(5)
    alpha, rounds, held = 0.1, 500, np.zeros(2)
    for _ in range(rounds):
        sizes = rng.integers(5, 80, size=42)
        subjects = np.repeat(np.arange(42), sizes)
        labels = (subjects < 30).astype(int)
        logits = 2.4 * labels - 1.2 + rng.normal(size=42)[subjects] + rng.normal(size=len(subjects))
        quantiles = fit_quantiles(logits, labels, subjects, alpha)
        new = np.array([1.2, -1.2]) + rng.normal(size=2) + rng.normal(size=2)
        sets = prediction_sets(new, quantiles)
        held += sets[0, 1], sets[1, 0]
    assert (held / rounds >= 1 - alpha - 3 * np.sqrt(alpha * (1 - alpha) / rounds)).all()
