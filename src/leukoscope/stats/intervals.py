"""Confidence intervals of metrics over subjects."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from leukoscope.stats import metrics as discrimination
from leukoscope.stats.metrics import Floats
from leukoscope.stats.resampling import Statistic, SubjectSample

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """One value with its interval and sample sizes; a value that is not estimable is None with a reason.

    Attributes
    ----------
    value
        The figure over all given cells, or None where it is not estimable.
    low, high
        Ends of the interval, or None if there is no interval (``reason`` states why).
    n_cells, n_subjects
        Cells and distinct subjects the figure rests on; the subject is the statistical unit.
    method
        How the interval was made: family, number of replicates, unit that was resampled.
        replicates"``.
    reason
        Why value or interval is missing; None if both are given.
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

    Unit of analysis: the counted trials; they must be independent for the coverage to hold.

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
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # At the ends the interval reaches 0 or 1 exactly; rounding must not leave 1e-17 there.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == trials else min(1.0, center + half)
    return low, high


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share: never covers less than ``level``, often more.

    Unit of analysis: the counted trials; they must be independent.

    Parameters
    ----------
    successes : 0..trials
    trials : >= 1
    level : 0..1

    Notes
    -----
    C. J. Clopper, E. S. Pearson, Biometrika 26 (1934) 404-413, doi 10.1093/biomet/26.4.404.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"successes = {successes}, trials = {trials}: expected 0 <= successes <= trials, trials > 0"
        )
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _beta_quantile(tail, successes, trials - successes + 1)
    high = 1.0 if successes == trials else _beta_quantile(1 - tail, successes + 1, trials - successes)
    return low, high


def student_t_quantile(probability: float, degrees: float) -> float:
    """Return the quantile of Student's t distribution.

    Parameters
    ----------
    probability : 0..1, ends excluded
    degrees : > 0, degrees of freedom
    """
    if not 0 < probability < 1 or not degrees > 0:
        raise ValueError(
            f"probability = {probability}, degrees = {degrees}: expected 0 < probability < 1, degrees > 0"
        )
    if probability == 0.5:
        return 0.0
    tail = min(probability, 1 - probability)
    # P(|T| > t) = I_x(degrees / 2, 1 / 2) with x = degrees / (degrees + t^2).
    x = _beta_quantile(2 * tail, degrees / 2, 0.5)
    size = math.sqrt(degrees * (1 - x) / x)
    return size if probability > 0.5 else -size


@dataclass(frozen=True)
class BootstrapSettings:
    """How intervals over subjects are made; ``expanded`` was chosen by simulated coverage (``tests/theory``)."""

    replicates: int = 2000
    level: float = 0.95
    kind: Literal["expanded", "percentile", "bca"] = "expanded"
    seed: int = 0

    @property
    def words(self) -> str:
        """The value of ``Estimate.method``."""
        name = {"expanded": "expanded percentile", "percentile": "percentile", "bca": "BCa"}[self.kind]
        return f"subject-clustered bootstrap, {name}, {self.replicates} replicates, {self.level:.0%}"


def bootstrap(
    sample: SubjectSample,
    statistic: Statistic,
    settings: BootstrapSettings = BootstrapSettings(),
    minus: Statistic | None = None,
) -> Estimate:
    """Estimate a figure with its interval over subjects.

    Unit of analysis: the subject. Subjects are drawn with replacement within their class (each has one
    label), with all their rows. The same seed draws the same subjects for every statistic of one sample.

    Parameters
    ----------
    statistic : made by one of the functions of ``clusters``
    minus : another statistic of the same sample or None
        With it the figure is the difference ``statistic - minus``, paired on the same resamples.

    Returns
    -------
    Estimate
        ``value`` is None where the figure is not defined on the sample. ``low`` and ``high`` are None where a
        class it depends on has fewer than two subjects, where all resamples agree (the interval would claim
        certainty), or where the figure is undefined in more than one resample in a hundred.

    Notes
    -----
    The percentile interval of few clusters is too short. The expanded one takes quantiles further out, at
    Phi(-sqrt(n / (n - 1)) t), n being the subjects of the smaller class that matters: T. C. Hesterberg, The
    American Statistician 69 (2015) 371-386, doi 10.1080/00031305.2015.1089789. BCa: B. Efron, Journal of the
    American Statistical Association 82 (1987) 171-185, doi 10.1080/01621459.1987.10478410.
    Resamples of an ``inflated`` figure (ECE) are shifted down by twice their median excess over the figure, and cut
    at 0: the noise of few subjects in every bin is in the value once and in a resample of it twice. In simulation
    (``tests/theory``) such intervals hold the true ECE in 0.7 to 0.99 of the cases, unshifted ones in 0.24 to 0.98.
    """
    figures = _figures(statistic, minus)
    value = float(figures(sample.whole())[0]) if sample.n_subjects else math.nan
    if not math.isfinite(value):
        return _estimate(sample, None, None, settings, _why_undefined(sample))
    classes = set(statistic.classes) | set(minus.classes if minus else ())
    smallest = min(sample.stratum_sizes(tuple(classes)))
    if smallest < 2:
        reason = "a class it depends on has one subject: nothing tells how much subjects differ"
        return _estimate(sample, value, None, settings, reason)
    draws = figures(sample.resample(settings.replicates, np.random.default_rng(settings.seed)))
    defined = draws[np.isfinite(draws)]
    if len(defined) < 0.99 * len(draws):
        reason = f"not defined in {1 - len(defined) / len(draws):.0%} of the resamples"
        return _estimate(sample, value, None, settings, reason)
    if np.ptp(defined) <= 1e-12 * max(1.0, abs(value)):
        return _estimate(sample, value, None, settings, "every resample gives the same value")
    if statistic.inflated and minus is None:
        defined = np.maximum(defined - 2 * (np.median(defined) - value), 0.0)
    if settings.kind == "bca":
        ends = _bca_levels(settings, value, defined, figures(sample.jackknife()))
    else:
        ends = _levels(settings, smallest)
    low, high = (float(end) for end in np.quantile(defined, ends))
    return _estimate(sample, value, (low, high), settings, None)


def delong(labels: npt.ArrayLike, scores: npt.ArrayLike, level: float = 0.95) -> Estimate:
    """Estimate the ROC AUC with DeLong's interval, which takes the rows as independent.

    Unit of analysis: the row. Over cells the interval is too short, because cells of one subject are alike;
    it is given in addition to the clustered one for comparison with the literature. Over subjects it is valid for many
    subjects.

    Returns
    -------
    Estimate
        ``n_subjects`` is the number of rows: each counts as its own subject. The ends are cut to 0..1.

    Notes
    -----
    E. R. DeLong et al., Biometrics 44 (1988) 837-845, doi 10.2307/2531595; with midranks after X. Sun, W. Xu,
    IEEE Signal Processing Letters 21 (2014) 1389-1393, doi 10.1109/LSP.2014.2337313.
    """
    truth, values, _ = discrimination.checked(labels, scores)
    blasts, normals, rows = int(truth.sum()), int((~truth).sum()), len(truth)
    method = f"DeLong, rows as independent, {level:.0%}"
    if not blasts or not normals:
        return Estimate(None, None, None, rows, rows, method, "only one class is present")
    auc, placements = _placements(truth, values)
    if blasts < 2 or normals < 2:
        return Estimate(
            auc, None, None, rows, rows, method, "a class has one row: the variance is not defined"
        )
    variance = float(placements[0].var(ddof=1)) / blasts + float(placements[1].var(ddof=1)) / normals
    if variance <= 0:
        return Estimate(auc, None, None, rows, rows, method, "the estimated variance is 0")
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    return Estimate(auc, max(0.0, auc - half), min(1.0, auc + half), rows, rows, method)


def _placements(truth: npt.NDArray[np.bool_], values: Floats) -> tuple[float, tuple[Floats, Floats]]:
    """The AUC, and for each row the share of the other class it is ranked right against."""
    blasts, normals = np.sort(values[truth]), np.sort(values[~truth])
    of_blasts = _share_below(normals, values[truth])
    of_normals = 1 - _share_below(blasts, values[~truth])
    return float(of_blasts.mean()), (of_blasts, of_normals)


def _share_below(ordered: Floats, values: Floats) -> Floats:
    below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    return np.asarray(below / (2 * len(ordered)), dtype=np.float64)


def _figures(statistic: Statistic, minus: Statistic | None) -> Callable[[Floats], Floats]:
    return statistic if minus is None else lambda counts: statistic(counts) - minus(counts)


def _levels(settings: BootstrapSettings, smallest: int) -> tuple[float, float]:
    """The two quantiles of the resampled figures that become the interval's ends."""
    tail = (1 - settings.level) / 2
    if settings.kind == "expanded":
        far = student_t_quantile(tail, smallest - 1) * math.sqrt(smallest / (smallest - 1))
        tail = NormalDist().cdf(far)
    return tail, 1 - tail


def _bca_levels(
    settings: BootstrapSettings, value: float, draws: Floats, left_out: Floats
) -> tuple[float, float]:
    """The same, corrected for bias and for a spread that changes with the figure."""
    normal = NormalDist()
    below = float(np.sum(draws < value) + 0.5 * np.sum(draws == value)) / len(draws)
    bias = normal.inv_cdf(min(max(below, 1 / len(draws)), 1 - 1 / len(draws)))
    defined = left_out[np.isfinite(left_out)]
    pull = defined.mean() - defined
    spread = float((pull**2).sum()) ** 1.5
    acceleration = float((pull**3).sum()) / (6 * spread) if spread > 0 else 0.0
    far = normal.inv_cdf((1 - settings.level) / 2)
    low, high = (normal.cdf(bias + z / (1 - acceleration * z)) for z in (bias + far, bias - far))
    return low, high


def _estimate(
    sample: SubjectSample,
    value: float | None,
    ends: tuple[float, float] | None,
    settings: BootstrapSettings,
    reason: str | None,
) -> Estimate:
    low, high = ends if ends is not None else (None, None)
    return Estimate(value, low, high, sample.n_cells, sample.n_subjects, settings.words, reason)


def _why_undefined(sample: SubjectSample) -> str:
    if not sample.n_cells:
        return "there are no rows"
    present = np.unique(sample.classes)
    if sample.size == 2 and len(present) == 1:
        return "only blasts are present" if present[0] == 1 else "only normal rows are present"
    if sample.size > 2 and len(present) < sample.size:
        return f"only {len(present)} of {sample.size} classes are present"
    return "the measure is not defined for these calls (0 / 0)"


def _beta_quantile(probability: float, a: float, b: float) -> float:
    """Quantile of the beta distribution by bisection; to full precision in double numbers."""
    low, high = 0.0, 1.0
    for _ in range(1100):  # Small quantiles lie far below machine epsilon: halve until the ends meet.
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularized incomplete beta function by Lentz' continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d, fraction = 1.0, 0.0, 1.0
    for step in range(10_000):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        else:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(log_front) * (fraction - 1) / a
