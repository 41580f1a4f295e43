"""Prediction sets: which classes a cell of a new subject may still belong to."""

from leukoscope.decision.parameters import ConformalQuantiles
from leukoscope.terms import Decision


def prediction_set(calibrated_logit: float, quantiles: ConformalQuantiles) -> tuple[Decision, ...]:
    """Return the classes that cannot be excluded at the error rate: blast, normal, both or none.

    The nonconformity of a cell with the class blast is its negative calibrated logit, with the class normal
    the logit.
    """
    nonconformity = ((Decision.BLAST, -calibrated_logit), (Decision.NORMAL, calibrated_logit))
    kept = []
    for decision, score in nonconformity:
        quantile = (quantiles.blast if decision is Decision.BLAST else quantiles.normal).quantile
        if quantile is None or score <= quantile:
            kept.append(decision)
    return tuple(kept)
