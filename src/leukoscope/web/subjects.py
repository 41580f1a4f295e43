"""Pooling stored cells of one subject, by the same rule as the command line."""

import math
from collections.abc import Iterable, Sequence

from leukoscope.decision.policy import Verdict, pool_subject
from leukoscope.runtime.results import CellResult, SubjectResult
from leukoscope.runtime.subjects import subject_result as pooled_result
from leukoscope.terms import Decision
from leukoscope.web.model import KnownModel

_EDGE = 1e-12


def subject_result(subject: str, results: Iterable[CellResult], model: KnownModel) -> SubjectResult:
    """Pool the results of one subject.

    Only cells judged by the present model count: probabilities of two models are not averaged.
    """
    mine = [result for result in results if result.model.sha256 == model.reference.sha256]
    pooled = pool_subject((_verdict(result) for result in mine), model.decision)
    return pooled_result(subject, pooled, model.reference)


def by_subject(results: Sequence[CellResult], model: KnownModel) -> list[SubjectResult]:
    """Pool results for every subject named in them, in order of the names."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        if result.subject is not None:
            groups.setdefault(result.subject, []).append(result)
    return [subject_result(subject, cells, model) for subject, cells in sorted(groups.items())]


def _verdict(result: CellResult) -> Verdict:
    judged = result.decision is not Decision.REJECTED and result.probability is not None
    return Verdict(
        decision=result.decision,
        probability=result.probability,
        reasons=(),
        novelty=result.novelty,
        prediction_set=result.prediction_set,
        threshold=result.threshold if result.threshold is not None else 0.5,
        calibrated_logit=_log_odds(result.probability) if judged and result.probability is not None else None,
    )


def _log_odds(probability: float) -> float:
    inside = min(max(probability, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside))
