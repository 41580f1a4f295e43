"""Pool the results of one subject: store eight bytes per cell and class, then apply the rule of the policy."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.decision.policy import pool_logits
from leukoscope.inference.results import CellResult, ModelReference, SubjectResult


@dataclass
class _Tally:
    """Calibrated logits of classified cells, one class after the other, and the counts of all decisions."""

    logits: "array[float]" = field(default_factory=lambda: array("d"))
    decisions: Counter[str] = field(default_factory=Counter)


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
    classes
        Of the bundle.
    """

    def __init__(
        self,
        parameters: DecisionParameters,
        model: ModelReference,
        operating_point: str | None = None,
        classes: ClassSchema = BINARY,
    ) -> None:
        self._classes = classes
        self._bias = np.array(parameters.bias_of(classes))
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
        tally.decisions[result.decision] += 1
        if result.logits:
            raw = np.array([result.logits[name] for name in self._classes.names])
            tally.logits.extend((raw / self._parameters.temperature + self._bias).tolist())

    def results(self) -> Iterator[SubjectResult]:
        """Yield one result a subject, in the order in which the subjects came."""
        return map(self.result, self._tallies)

    def result(self, subject: str) -> SubjectResult:
        """Return the result of one subject; one without a cell is rejected."""
        tally = self._tallies.get(subject, _Tally())
        pooled = pool_logits(
            tally.logits, tally.decisions, self._parameters, self._operating_point, self._classes
        )
        values = asdict(pooled)
        values["probabilities"] = dict(zip(self._classes.names, pooled.probabilities, strict=False))
        return SubjectResult(subject=subject, model=self._model, **values)
