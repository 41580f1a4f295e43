"""The policy: from the measurements of an image to its decision.

The checks run in this order, and the first one that fails decides:

1. Input checks: one whole, sharp cell on black, at the right scale?   no -> rejected, with each failed check
2. Novelty: is it similar to the training cells?                  no -> rejected, novel
3. Prediction set: does the evidence leave exactly one class?          no -> uncertain, yes -> called

The called class is always in a set that is not empty, so that probability, threshold, set and decision agree. The
operating point is a threshold on the probability of the positive group: at or above it the likeliest class of the
group is called, below it the likeliest of the others. Without a threshold the likeliest class of all is called.

A rejected image carries no probability: the number would be read. An uncertain cell carries it. All limits
are in ``DecisionParameters``, fitted on validation rows; nothing is fitted here. Two classes are K = 2.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import EngineError
from leukoscope.core.terms import REASON_TEXTS, Reason, Status
from leukoscope.decision.calibration import softmax
from leukoscope.decision.conformal import prediction_set
from leukoscope.decision.input_checks import Finding, check_descriptors
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.imaging.descriptors import Descriptors
from leukoscope.stats.intervals import wilson


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one image.

    Attributes
    ----------
    label
        The class called; None where the image is uncertain or rejected.
    probability
        Of the positive group; None for a rejected image and where no group is positive.
    probabilities : (K,)
        Empty for a rejected image.
    novelty
        Score by limit: above 1 the image is novel.
    prediction_set
        Names of the classes that remain plausible, the likeliest first.
    threshold
        Of the operating point; None where it has none.
    calibrated_logits : (K,)
        Empty for a rejected image.
    """

    status: Status
    label: str | None = None
    probability: float | None = None
    probabilities: tuple[float, ...] = ()
    reasons: tuple[Finding, ...] = ()
    novelty: float | None = None
    prediction_set: tuple[str, ...] = ()
    threshold: float | None = None
    calibrated_logits: tuple[float, ...] = ()

    @property
    def decision(self) -> str:
        """The class called, ``uncertain`` or ``rejected``."""
        return self.label if self.label is not None else self.status.value


@dataclass(frozen=True, slots=True)
class SubjectVerdict:
    """The decision on one subject over its classified cells; the interval is over cells.

    ``blasts`` counts cells of the positive group by the operating point, ``counts`` the cells called, by class.
    ``cells_needed`` is the number of classified cells below which a subject is not decided.
    """

    status: Status
    label: str | None
    probability: float | None
    probabilities: tuple[float, ...]
    cells: int
    classified: int
    rejected: int
    uncertain: int
    blasts: int
    blast_share: float | None
    blast_share_low: float | None
    blast_share_high: float | None
    counts: dict[str, int]
    cells_needed: int = 1

    @property
    def decision(self) -> str:
        """The class called, ``uncertain`` or ``rejected``."""
        return self.label if self.label is not None else self.status.value


def decide(
    logits: npt.ArrayLike,
    embedding_novelty: float | None,
    descriptors: Descriptors,
    parameters: DecisionParameters,
    operating_point: str | None = None,
    *,
    classes: ClassSchema = BINARY,
) -> Verdict:
    """Decide on one image.

    Parameters
    ----------
    logits : (K,), the network's raw outputs, or one log-odds of the second of two classes
    embedding_novelty : >= 0, ``NoveltyModel.score`` of the embedding; None skips the novelty check
    descriptors : measured on the canonical canvas
    parameters : the fitted numbers
    operating_point : name of one of the operating points; None takes the default
    classes : of the bundle, K of them

    Raises
    ------
    UsageError
        There is no such operating point.
    EngineError
        A logit or the novelty is not a number: the engine gave no usable answer.
    """
    threshold = parameters.operating_point(operating_point).threshold
    raw = np.asarray(logits, dtype=np.float64)
    raw = np.array([0.0, float(raw)]) if raw.ndim == 0 else raw
    if not np.isfinite(raw).all() or (embedding_novelty is not None and not math.isfinite(embedding_novelty)):
        raise EngineError(
            f"the engine answered logits = {raw.tolist()}, novelty = {embedding_novelty}: expected finite numbers; "
            "run `leukoscope bundle verify` on the bundle"
        )
    novelty = None if embedding_novelty is None else embedding_novelty / parameters.novelty.limit

    refusals = check_descriptors(descriptors, parameters.input_limits)
    if not refusals and novelty is not None and novelty > 1:
        refusals = [
            Finding(Reason.NOVEL, f"{REASON_TEXTS[Reason.NOVEL]} Novelty is {novelty:.2f} times its limit.")
        ]
    if refusals:
        return Verdict(Status.REJECTED, reasons=tuple(refusals), novelty=novelty, threshold=threshold)

    calibrated = raw / parameters.temperature + np.array(parameters.bias_of(classes))
    probabilities = softmax(calibrated)
    probability = positive_probability(probabilities, classes)
    call = called_class(probabilities, classes, threshold)
    plausible = prediction_set(calibrated, parameters.conformal, classes, call)
    settled = plausible == (call,)
    return Verdict(
        Status.CALLED if settled else Status.UNCERTAIN,
        call if settled else None,
        probability,
        tuple(probabilities.tolist()),
        () if settled else (_doubt(plausible, parameters.conformal.alpha, classes.size),),
        novelty,
        plausible,
        threshold,
        tuple(calibrated.tolist()),
    )


def positive_probability(probabilities: npt.ArrayLike, classes: ClassSchema) -> float | None:
    """Return the joint probability of the positive group of one row (K,); None where no group is positive."""
    members = list(classes.positive_members)
    if not members:
        return None
    return min(1.0, float(np.asarray(probabilities, dtype=np.float64)[members].sum()))


def called_members(
    probabilities: npt.ArrayLike, classes: ClassSchema, threshold: float | None
) -> npt.NDArray[np.intp]:
    """Return the numbers (N,) of the classes that an operating point calls for probabilities (N, K)."""
    shares = np.asarray(probabilities, dtype=np.float64)
    members = list(classes.positive_members)
    if threshold is not None and members:
        above = np.minimum(shares[:, members].sum(axis=1), 1.0) >= threshold
        inside = np.isin(np.arange(classes.size), members) == above[:, None]
        shares = np.where(inside, shares, -1.0)
    return np.asarray(shares.argmax(axis=1), dtype=np.intp)


def called_class(probabilities: npt.ArrayLike, classes: ClassSchema, threshold: float | None) -> str:
    """Return the class that an operating point calls for probabilities (K,)."""
    member = int(called_members(np.asarray(probabilities)[None], classes, threshold)[0])
    return classes.names[member]


def pool_subject(
    verdicts: Iterable[Verdict],
    parameters: DecisionParameters,
    operating_point: str | None = None,
    classes: ClassSchema = BINARY,
) -> SubjectVerdict:
    """Pool the verdicts of one subject's images: the mean calibrated logits meet the operating point.

    Uncertain cells count in the mean and in the blast share (by their probability), rejected ones in neither.
    The call is 'rejected' without a classified cell. It is 'uncertain' with fewer classified cells than the rule for
    subjects needs, and where no cell is called of the class that the subject would be called.
    """
    everything = list(verdicts)
    return pool_logits(
        [verdict.calibrated_logits for verdict in everything if verdict.calibrated_logits],
        Counter(verdict.decision for verdict in everything),
        parameters,
        operating_point,
        classes,
    )


def pool_logits(
    calibrated_logits: npt.ArrayLike,
    decisions: Counter[str],
    parameters: DecisionParameters,
    operating_point: str | None = None,
    classes: ClassSchema = BINARY,
) -> SubjectVerdict:
    """Pool one subject from the calibrated logits (n, K) of classified cells and the counts of all decisions."""
    threshold = parameters.operating_point(operating_point).threshold
    needed = 1 if parameters.subject is None else parameters.subject.cells_needed
    logits = np.asarray(calibrated_logits, dtype=np.float64).reshape(-1, classes.size)
    cells, classified = decisions.total(), len(logits)
    uncertain = decisions[Status.UNCERTAIN.value]
    counts = {name: decisions[name] for name in classes.names}
    if not classified:
        return SubjectVerdict(
            Status.REJECTED, None, None, (), cells, 0, cells, 0, 0, None, None, None, counts, needed
        )
    called = called_members(softmax(logits), classes, threshold)
    blasts = int(np.isin(called, classes.positive_members).sum())
    share = low = high = None
    if classes.positive:
        share, (low, high) = blasts / classified, wilson(blasts, classified)
    probabilities = softmax([math.fsum(column) / classified for column in logits.T])
    call = called_class(probabilities, classes, parameters.subject_threshold(operating_point))
    settled = classified >= needed and _has_cells(call, counts, classes)
    return SubjectVerdict(
        Status.CALLED if settled else Status.UNCERTAIN,
        call if settled else None,
        positive_probability(probabilities, classes),
        tuple(probabilities.tolist()),
        cells,
        classified,
        cells - classified,
        uncertain,
        blasts,
        share,
        low,
        high,
        counts,
        needed,
    )


def _has_cells(call: str, counts: dict[str, int], classes: ClassSchema) -> bool:
    """Tell whether a cell on the side of the subject's call (positive group or not) was called."""
    side = classes.is_positive(call)
    return any(count for name, count in counts.items() if classes.is_positive(name) == side)


def _doubt(plausible: tuple[str, ...], alpha: float, size: int) -> Finding:
    """Return the reason for an uncertain cell."""
    if size == 2:
        reason = Reason.BOTH_PLAUSIBLE if plausible else Reason.NEITHER_PLAUSIBLE
    else:
        reason = Reason.SEVERAL_PLAUSIBLE if plausible else Reason.NONE_PLAUSIBLE
    named = f" Plausible: {', '.join(plausible)}." if size > 2 and plausible else ""
    return Finding(reason, f"{REASON_TEXTS[reason]} Error rate: {alpha:.0%} per class.{named}")
