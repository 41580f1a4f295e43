"""The policy on one page: from what was measured on an image to what is said about it.

The gates stand in this order, and the first one that speaks decides:

1. Input checks: one whole, sharp cell on black, at the right scale?   no -> REJECTED, with each failed check
2. Novelty: have the training cells anything like it?                  no -> REJECTED, novel
3. Prediction set: does the evidence leave exactly one class?          no -> UNCERTAIN
4. Operating point: does the call at its threshold agree with that?    no -> UNCERTAIN, yes -> BLAST or NORMAL

A rejected image carries no probability: the number would be read. An uncertain cell carries it. All limits
are in ``DecisionParameters``, fitted on validation rows; nothing is fitted here.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from leukoscope.core.errors import EngineError
from leukoscope.core.terms import REASON_WORDS, Decision, Reason
from leukoscope.decision.calibration import sigmoid
from leukoscope.decision.conformal import prediction_set
from leukoscope.decision.input_checks import Finding, check_descriptors
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.imaging.descriptors import Descriptors
from leukoscope.stats.intervals import wilson


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about one image; ``novelty`` is score by limit, above 1 the image is novel."""

    decision: Decision
    probability: float | None
    reasons: tuple[Finding, ...]
    novelty: float | None
    prediction_set: tuple[Decision, ...]
    threshold: float
    calibrated_logit: float | None


@dataclass(frozen=True, slots=True)
class SubjectVerdict:
    """What is said about one subject over its judged cells; the interval is over cells."""

    decision: Decision
    probability: float | None
    cells: int
    judged: int
    rejected: int
    uncertain: int
    blasts: int
    blast_share: float | None
    blast_share_low: float | None
    blast_share_high: float | None


def decide(
    logit: float,
    embedding_novelty: float | None,
    descriptors: Descriptors,
    parameters: DecisionParameters,
    operating_point: str | None = None,
) -> Verdict:
    """Judge one image.

    Parameters
    ----------
    logit : the network's raw output for 'blast'
    embedding_novelty : >= 0, ``NoveltyModel.score`` of the embedding; None skips the novelty gate
    descriptors : measured on the canonical canvas
    parameters : the fitted numbers
    operating_point : name of one of the operating points; None takes the default

    Raises
    ------
    UsageError
        There is no such operating point.
    EngineError
        Logit or novelty is not a number: the engine gave no usable answer.
    """
    threshold = parameters.operating_point(operating_point).threshold
    if not math.isfinite(logit) or (embedding_novelty is not None and not math.isfinite(embedding_novelty)):
        raise EngineError(
            f"the engine answered logit = {logit}, novelty = {embedding_novelty}: expected finite numbers; "
            "run `leukoscope bundle verify` on the bundle"
        )
    novelty = None if embedding_novelty is None else embedding_novelty / parameters.novelty.limit

    refusals = check_descriptors(descriptors, parameters.input_limits)
    if not refusals and novelty is not None and novelty > 1:
        refusals = [
            Finding(Reason.NOVEL, f"{REASON_WORDS[Reason.NOVEL]} Novelty is {novelty:.2f} times its limit.")
        ]
    if refusals:
        return Verdict(Decision.REJECTED, None, tuple(refusals), novelty, (), threshold, None)

    calibrated = logit / parameters.temperature + parameters.bias
    probability = float(sigmoid(calibrated))
    plausible = prediction_set(calibrated, parameters.conformal)
    call = Decision.BLAST if probability >= threshold else Decision.NORMAL
    if plausible == (call,):
        return Verdict(call, probability, (), novelty, plausible, threshold, calibrated)
    doubt = _doubt(call, plausible, parameters.conformal.alpha)
    return Verdict(Decision.UNCERTAIN, probability, (doubt,), novelty, plausible, threshold, calibrated)


def pool_subject(
    verdicts: Iterable[Verdict], parameters: DecisionParameters, operating_point: str | None = None
) -> SubjectVerdict:
    """Pool the verdicts of one subject's images: the mean calibrated logit meets the threshold.

    Uncertain cells count in the mean and in the blast share (by their probability), rejected ones in neither.
    The call is 'rejected' without a judged cell and 'uncertain' where every judged cell is uncertain.
    """
    threshold = parameters.operating_point(operating_point).threshold
    everything = list(verdicts)
    logits = [verdict.calibrated_logit for verdict in everything if verdict.calibrated_logit is not None]
    cells, judged = len(everything), len(logits)
    uncertain = sum(verdict.decision is Decision.UNCERTAIN for verdict in everything)
    if not judged:
        return SubjectVerdict(Decision.REJECTED, None, cells, 0, cells, 0, 0, None, None, None)
    blasts = int((sigmoid(logits) >= threshold).sum())
    low, high = wilson(blasts, judged)
    probability = float(sigmoid(math.fsum(logits) / judged))
    decision = Decision.BLAST if probability >= threshold else Decision.NORMAL
    if uncertain == judged:
        decision = Decision.UNCERTAIN
    return SubjectVerdict(
        decision, probability, cells, judged, cells - judged, uncertain, blasts, blasts / judged, low, high
    )


def _doubt(call: Decision, plausible: tuple[Decision, ...], alpha: float) -> Finding:
    """Say why the evidence does not decide; a set of the other class alone contradicts the operating point."""
    if len(plausible) == 1:
        return Finding(
            Reason.CONTRADICTS_OPERATING_POINT,
            f"The operating point calls {call.value}, but at an error rate of {alpha:.0%} per class only "
            f"{plausible[0].value} remains plausible.",
        )
    reason = Reason.BOTH_PLAUSIBLE if plausible else Reason.NEITHER_PLAUSIBLE
    return Finding(reason, f"{REASON_WORDS[reason]} Error rate: {alpha:.0%} per class.")
