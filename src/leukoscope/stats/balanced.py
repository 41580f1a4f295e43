"""Statistics in which each subject has the same weight, however many cells it has; see ``resampling``."""

import numpy as np
import numpy.typing as npt

from leukoscope.stats import metrics as discrimination
from leukoscope.stats.metrics import Floats
from leukoscope.stats.resampling import Statistic, SubjectSample


def of_mean_of_subjects(sample: SubjectSample, values: npt.ArrayLike) -> Statistic:
    """Make a statistic of the mean over subjects of the mean of each subject's ``values`` (N,).

    Without labels in the sample it depends on all subjects, which are drawn as one stratum.
    """
    means = sample.sums(np.asarray(values, dtype=np.float64)) / sample.sums(np.ones(sample.n_cells))
    classes = tuple(range(sample.size))
    return Statistic(lambda counts: discrimination.ratio(counts @ means, counts.sum(axis=1)), classes)


def of_balanced_roc_auc(sample: SubjectSample, scores: npt.ArrayLike) -> Statistic:
    """Make a statistic of the ROC AUC in which each subject has the same weight within its class.

    It is the mean, over pairs of a subject with blasts and a subject with normal cells, of the share of concordant
    pairs of their cells; ties count half.

    Parameters
    ----------
    sample
        Of two classes.
    scores : (N,), larger for the second class
    """
    values, size = np.asarray(scores, dtype=np.float64), sample.n_subjects
    concordant, pairs = np.zeros((size, size)), np.zeros((size, size))
    blasts = [values[(sample.index == one) & sample.labels] for one in range(size)]
    normals = [np.sort(values[(sample.index == one) & ~sample.labels]) for one in range(size)]
    for row, above in enumerate(blasts):
        for column, below in enumerate(normals):
            if above.size and below.size:
                won = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
                concordant[row, column] = float(won.mean()) / (2 * below.size)
                pairs[row, column] = 1.0

    def figure(counts: Floats) -> Floats:
        total = ((counts @ concordant) * counts).sum(axis=1)
        return np.asarray(discrimination.ratio(total, ((counts @ pairs) * counts).sum(axis=1)))

    return Statistic(figure)
