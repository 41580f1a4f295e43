"""Intervals: what a figure is worth, given how few people stand behind it."""

import math
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """One figure with its interval and what it rests on; not estimable is None with a reason.

    Attributes
    ----------
    value
        The figure over all given cells, or None where it is not estimable.
    low, high
        Ends of the interval, or None where no interval can be given (then ``reason`` says why).
    n_cells, n_subjects
        Cells and distinct subjects the figure rests on; the subject is the statistical unit.
    method
        How the interval was made: family, number of replicates, unit that was resampled.
        replicates"``.
    reason
        Why value or interval is missing; None where both stand.
    """

    value: float | None
    low: float | None
    high: float | None
    n_cells: int
    n_subjects: int
    method: str
    reason: str | None = None


def wilson(successes: float, trials: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Unit of analysis: whatever is counted; the trials must be independent for the coverage to hold.

    Parameters
    ----------
    successes : 0..trials
    trials : > 0
    z : normal quantile; 1.96 for 95 %

    Returns
    -------
    tuple of float
        Lower and upper end, within 0..1.

    Raises
    ------
    ValueError
        No trials, or successes outside 0..trials.

    Notes
    -----
    E. B. Wilson, Journal of the American Statistical Association 22 (1927) 209-212,
    doi
    10.1080/01621459.1927.10502953.
    """
    if not trials > 0 or not 0 <= successes <= trials:
        raise ValueError(
            f"successes = {successes}, trials = {trials}: expected 0 <= successes <= trials and trials > 0"
        )
    share = successes / trials
    spread = z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # At the ends the interval reaches 0 or 1 exactly; rounding must not leave 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high
