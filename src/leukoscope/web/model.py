"""What the pages and the API know of the model behind them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leukoscope.bundle.files import CARD
from leukoscope.bundle.folder import Bundle
from leukoscope.bundle.manifest import Manifest
from leukoscope.bundle.report import Measurement, Report
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.runtime.results import ModelReference


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """What ``leukoscope explain-check`` measured about the heat maps.

    Attributes
    ----------
    gap
        Fall of the logit without the most relevant pixels, minus that without the least relevant ones.
    """

    gap: Measurement

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


@dataclass(frozen=True)
class KnownModel:
    """A bundle as the pages show it."""

    reference: ModelReference
    details: Manifest
    decision: DecisionParameters
    report: Report | None
    card: str

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> "KnownModel":
        """Read what is shown from an opened bundle."""
        manifest = bundle.manifest
        reference = ModelReference(name=manifest.name, version=manifest.version, sha256=bundle.model_sha256)
        return cls(reference, manifest, bundle.decision, bundle.report, bundle.read(CARD).decode("utf-8"))

    @cached_property
    def faithfulness(self) -> Faithfulness | None:
        """What was measured about the heat maps; None where nothing was."""
        supplements = self.report.supplements if self.report is not None else ()
        gaps = [part.measures["relevance_gap"] for part in supplements if "relevance_gap" in part.measures]
        return Faithfulness(gaps[0]) if gaps else None

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


def _signed(value: float) -> str:
    rounded = round(value, 2) + 0.0  # no minus before a zero
    return f"{rounded:.2f}".replace("-", "\N{MINUS SIGN}")
