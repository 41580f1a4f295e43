"""The model description that pages and API show."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leukoscope.core.classes import ClassSchema
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.inference.results import ModelReference
from leukoscope.models.bundle import Bundle
from leukoscope.models.files import CARD
from leukoscope.models.manifest import Manifest
from leukoscope.models.report import Measurement, Report, format_measurement


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """What ``leukoscope explain-check`` measured about the heat maps.

    Attributes
    ----------
    gap
        Fall of the logit without the most relevant pixels, minus that without the least relevant ones.
    most_relevant_drop, least_relevant_drop
        The two falls themselves, where they were measured; below zero the logit rises.
    """

    gap: Measurement
    most_relevant_drop: Measurement | None = None
    least_relevant_drop: Measurement | None = None

    @classmethod
    def from_measures(cls, measures: Mapping[str, Measurement]) -> "Faithfulness":
        """Take the measures of ``report.json``."""
        return cls(
            measures["relevance_gap"], measures.get("most_relevant_drop"), measures.get("least_relevant_drop")
        )

    @property
    def holds(self) -> bool:
        """True where the whole interval is above zero."""
        return self.gap.low is not None and self.gap.low > 0

    @property
    def words(self) -> str:
        """The gap with its interval."""
        value = "not estimable" if self.gap.value is None else _signed(self.gap.value)
        if self.gap.low is None or self.gap.high is None:
            return value
        return f"{value}, {_signed(self.gap.low)} to {_signed(self.gap.high)}"

    @property
    def removals(self) -> str:
        """Effect of the two removals on the logit if their signs are certain; else empty."""
        effects = [_effect(self.most_relevant_drop), _effect(self.least_relevant_drop)]
        if None in effects:
            return ""
        if effects[0] == effects[1]:
            return f"; for this model both removals {effects[0]} it"
        return f"; for this model the first removal {effects[0]}s it, the second {effects[1]}s it"


@dataclass(frozen=True)
class ServedModel:
    """A bundle as the pages show it."""

    reference: ModelReference
    details: Manifest
    decision: DecisionParameters
    report: Report | None
    card: str

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "ServedModel":
        """Read the description from an opened bundle."""
        manifest = bundle.manifest
        reference = ModelReference(name=manifest.name, version=manifest.version, sha256=bundle.model_sha256)
        return cls(reference, manifest, bundle.decision, bundle.report, bundle.read(CARD).decode("utf-8"))

    @property
    def classes(self) -> ClassSchema:
        """The classes that the model can name."""
        return self.details.classes

    @cached_property
    def faithfulness(self) -> Faithfulness | None:
        """Measured faithfulness of the heat maps; None if it was not measured."""
        supplements = self.report.supplements if self.report is not None else ()
        measured = [part.measures for part in supplements if "relevance_gap" in part.measures]
        return Faithfulness.from_measures(measured[0]) if measured else None

    @cached_property
    def subject_accuracy(self) -> str | None:
        """Accuracy of pooled calls of subjects as text; None if it was not measured."""
        split = self.report.headline if self.report is not None else None
        if split is None or split.leaks:
            return None
        measures = split.subject_mean.measures
        if not {"sensitivity", "specificity"} <= measures.keys():
            return None
        found = [
            f"{name} {format_measurement(measures[name], percent=True)}"
            for name in ("sensitivity", "specificity")
        ]
        subjects = measures["sensitivity"].n_subjects
        return f"{' and '.join(found)} over {subjects} unseen subjects"

    @cached_property
    def published_report(self) -> Report | None:
        """The report without library versions."""
        if self.report is None:
            return None
        runs = tuple(run.model_copy(update={"versions": {}}) for run in self.report.runs)
        return self.report.model_copy(update={"runs": runs})

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest as plain data. Library versions are of use to developers, who have the bundle itself."""
        return self.details.model_dump(mode="json", exclude={"libraries"})


def _effect(drop: Measurement | None) -> str | None:
    """Return the effect of a removal on the logit; None if the interval contains zero."""
    if drop is None or drop.low is None or drop.high is None:
        return None
    return "lower" if drop.low > 0 else "raise" if drop.high < 0 else None


def _signed(value: float) -> str:
    rounded = round(value, 2) + 0.0  # no minus before a zero
    return f"{rounded:.2f}".replace("-", "\N{MINUS SIGN}")
