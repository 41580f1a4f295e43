"""Results of one person's cells pooled: eight bytes a cell until the end, then the policy's own rule."""

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from leukoscope.core.terms import Decision
from leukoscope.decision.calibration import sigmoid
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.decision.policy import Verdict, pool_subject
from leukoscope.inference.results import CellResult, ModelReference, SubjectResult


@dataclass
class _Tally:
    decided: "array[float]" = field(default_factory=lambda: array("d"))
    uncertain: "array[float]" = field(default_factory=lambda: array("d"))
    rejected: int = 0


class SubjectPool:
    """Gathers results by subject; those without a subject, or of another model, are left out.

    Parameters
    ----------
    parameters
        The bundle's decision parameters.
    model
        The bundle: logits of two models are not averaged.
    operating_point
        Name of the operating point; None takes the default.
    """

    def __init__(
        self, parameters: DecisionParameters, model: ModelReference, operating_point: str | None = None
    ) -> None:
        self._parameters = parameters
        self._model = model
        self._operating_point = operating_point
        self._tallies: dict[str, _Tally] = {}

    def __len__(self) -> int:
        return len(self._tallies)

    def add(self, result: CellResult) -> None:
        """Count one result."""
        if result.subject is None or result.model.sha256 != self._model.sha256:
            return
        tally = self._tallies.setdefault(result.subject, _Tally())
        if result.logit is None:
            tally.rejected += 1
            return
        calibrated = result.logit / self._parameters.temperature + self._parameters.bias
        (tally.uncertain if result.decision is Decision.UNCERTAIN else tally.decided).append(calibrated)

    def results(self) -> Iterator[SubjectResult]:
        """Yield one result a subject, in the order in which the subjects came."""
        return map(self.result, self._tallies)

    def result(self, subject: str) -> SubjectResult:
        """Return the result of one subject; one without a cell is rejected."""
        tally = self._tallies.get(subject, _Tally())
        pooled = pool_subject(self._verdicts(tally), self._parameters, self._operating_point)
        return SubjectResult(subject=subject, model=self._model, **asdict(pooled))

    def _verdicts(self, tally: _Tally) -> Iterator[Verdict]:
        threshold = self._parameters.operating_point(self._operating_point).threshold
        for _ in range(tally.rejected):
            yield Verdict(Decision.REJECTED, None, (), None, (), threshold, None)
        for logit in tally.uncertain:
            yield Verdict(Decision.UNCERTAIN, float(sigmoid(logit)), (), None, (), threshold, logit)
        for logit in tally.decided:
            probability = float(sigmoid(logit))
            decision = Decision.BLAST if probability >= threshold else Decision.NORMAL
            yield Verdict(decision, probability, (), None, (), threshold, logit)
