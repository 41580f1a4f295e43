"""What the pages and the API know of the model behind them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leukoscope.bundle.files import CARD
from leukoscope.bundle.folder import Bundle
from leukoscope.bundle.manifest import Manifest
from leukoscope.bundle.report import Report
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.runtime.results import ModelReference


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
