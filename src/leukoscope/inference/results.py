"""The result schema of the command line, the REST API and the documentation."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field, model_validator

from leukoscope.core.terms import RESEARCH_USE, Reason, Status, WarningCode

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class ModelReference(BaseModel):
    """Which bundle classified, so that a stored result can be traced to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the bundle, from its manifest.")
    version: str = Field(description="Version of the bundle.")
    sha256: str = Field(description="SHA-256 of the bundle's model.onnx, 64 hexadecimal digits.")


class ReasonDetail(BaseModel):
    """Why an image was rejected or a cell is uncertain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: Reason = Field(description="Stable code for programs.")
    message: str = Field(description="One sentence that states the value, the limit and the remedy.")


class WarningDetail(BaseModel):
    """What a user should know of an image that was looked at all the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: WarningCode = Field(description="Stable code for programs.")
    message: str = Field(description="One sentence for people: what was done and the remedy.")


class CellResult(BaseModel):
    """The result of one image; one JSON object per line in ``predict --json``.

    Records of schema 1, which knew the classes normal and blast only, are read as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    source: str = Field(
        description="The image as it was named by the caller: a path, a member of an archive, an upload."
    )
    status: Status = Field(description="Whether the image got a class.")
    label: str | None = Field(
        default=None, description="Name of the class called; null when uncertain or rejected."
    )
    probability: Probability | None = Field(
        description="Calibrated probability of the positive group ('blast'), 0 to 1; null when the image was rejected, "
        "or where the model has no positive group."
    )
    probabilities: dict[str, Probability] = Field(
        default_factory=dict, description="Calibrated probability of each class; empty when rejected."
    )
    reasons: tuple[ReasonDetail, ...] = Field(
        default=(),
        description="Empty for a called class; at least one entry for 'uncertain' and 'rejected'.",
    )
    warnings: tuple[WarningDetail, ...] = Field(
        default=(), description="What was corrected in the image, and what limits the result; mostly empty."
    )
    subject: str | None = Field(
        default=None, description="Subject the cell belongs to, where the caller or the name tells."
    )
    model: ModelReference
    logit: float | None = Field(
        default=None,
        description="Log-odds of the positive group before calibration; null when rejected, or where the model has no "
        "positive group.",
    )
    logits: dict[str, float] = Field(
        default_factory=dict,
        description="Raw output for each class, before calibration; empty when rejected.",
    )
    threshold: Probability | None = Field(
        default=None,
        description="Operating point: the positive group is called at or above it; null where the likeliest class is "
        "called.",
    )
    prediction_set: tuple[str, ...] = Field(
        default=(),
        description="Classes that conformal prediction cannot exclude, the likeliest first; may be empty.",
    )
    novelty: float | None = Field(
        default=None,
        ge=0.0,
        description="Novelty divided by its limit: above 1 the image is rejected as novel.",
    )
    width_px: int | None = Field(default=None, ge=1, description="Width of the image as read.")
    height_px: int | None = Field(default=None, ge=1, description="Height of the image as read.")
    area_px: int | None = Field(default=None, ge=0, description="Foreground area on the canonical canvas.")
    cell: int | None = Field(
        default=None, ge=1, description="Number of the cell in an uncut photograph; null for a cut-out cell."
    )
    cells: int | None = Field(default=None, ge=1, description="White cells found in the photograph.")
    box: tuple[int, int, int, int] | None = Field(
        default=None, description="y0, x0, y1, x1 of the cell in px of the photograph, half-open."
    )
    microns_per_pixel: float | None = Field(default=None, gt=0, description="Scale of the photograph.")
    explained_class: str | None = Field(
        default=None, description="Class whose evidence the heat map shows; null without a forward pass."
    )
    heat_map: str | None = Field(
        default=None, description="Path of the heat-map overlay, where one was written."
    )
    duration_ms: float | None = Field(
        default=None, ge=0.0, description="Time this image took, decoding to decision."
    )
    case: str | None = Field(
        default=None, description="Pseudonymous id under which the web application keeps this result."
    )
    profile: str | None = Field(
        default=None, description="Laboratory profile in use, by name and digest; null without one."
    )
    notice: str = RESEARCH_USE

    @model_validator(mode="before")
    @classmethod
    def _read_any_schema(cls, value: Any) -> Any:
        return _without_decision(value, _cell_of_schema_1)

    @model_validator(mode="after")
    def _label_fits_status(self) -> "CellResult":
        _check_label(self.status, self.label)
        return self

    @property
    def title(self) -> str:
        """Name of the image, and in a photograph the number of the cell."""
        return self.source if self.cell is None else f"{self.source}, cell {self.cell}"

    @property
    def ends_image(self) -> bool:
        """Whether no further result of the same image follows."""
        return self.cell is None or self.cell == self.cells

    @computed_field(  # type: ignore[prop-decorator]
        description="The class called, 'uncertain' or 'rejected'."
    )
    @property
    def decision(self) -> str:
        """The class called, ``uncertain`` or ``rejected``."""
        return self.label if self.label is not None else self.status.value


class SubjectResult(BaseModel):
    """The pooled result over the classified cells of one subject."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    subject: str
    status: Status = Field(description="Whether the subject's cells together got a class.")
    label: str | None = Field(default=None, description="The pooled call; null when uncertain or rejected.")
    cells: int = Field(ge=0, description="Images given.")
    classified: int = Field(ge=0, description="Images not rejected.")
    rejected: int = Field(ge=0)
    uncertain: int = Field(ge=0)
    cells_needed: int = Field(
        default=1, ge=1, description="Classified cells below which the model does not decide a subject."
    )
    counts: dict[str, int] = Field(default_factory=dict, description="Cells called, by class.")
    blasts: int = Field(
        ge=0,
        description="Predicted cells that the operating point calls as of the positive group ('blast'), uncertain ones "
        "included.",
    )
    blast_share: Probability | None = Field(
        description="blasts / classified; null without a classified cell, or where the model has no positive group."
    )
    blast_share_low: Probability | None = Field(
        description="Lower end of the 95 % Wilson interval over cells."
    )
    blast_share_high: Probability | None = Field(
        description="Upper end of the 95 % Wilson interval over cells."
    )
    probability: Probability | None = Field(
        description="Probability of the positive group from the mean calibrated logits over classified cells."
    )
    probabilities: dict[str, Probability] = Field(
        default_factory=dict, description="The same for each class; empty without a classified cell."
    )
    model: ModelReference
    notice: str = RESEARCH_USE

    @model_validator(mode="before")
    @classmethod
    def _read_any_schema(cls, value: Any) -> Any:
        return _without_decision(value, _binary_call)

    @model_validator(mode="after")
    def _label_fits_status(self) -> "SubjectResult":
        _check_label(self.status, self.label)
        return self

    @computed_field(  # type: ignore[prop-decorator]
        description="The pooled call: a class, 'uncertain', or 'rejected' without a classified cell."
    )
    @property
    def decision(self) -> str:
        """The pooled call: a class, ``uncertain``, or ``rejected`` without a classified cell."""
        return self.label if self.label is not None else self.status.value


def _check_label(status: Status, label: str | None) -> None:
    if (label is not None) != (status is Status.CALLED):
        raise ValueError(f"status {status} with label {label!r}: only a called result has a label")


def _without_decision(value: Any, upgrade: Callable[[dict[str, Any], str], None]) -> Any:
    """Drop the derived field ``decision`` of a record, after filling in the fields that schema 1 lacks."""
    if not isinstance(value, dict) or "decision" not in value:
        return value
    record = dict(value)
    decision = record.pop("decision")
    if "status" not in record:
        upgrade(record, decision)
    elif decision != (record.get("label") or record["status"]):
        raise ValueError(f"decision {decision!r} contradicts status and label")
    return record


def _binary_call(record: dict[str, Any], decision: str) -> None:
    record["status"] = Status.CALLED if decision in ("normal", "blast") else decision
    record["label"] = decision if decision in ("normal", "blast") else None


def _cell_of_schema_1(record: dict[str, Any], decision: str) -> None:
    """A cell of a binary model: its one logit was the log-odds of blast, its map that of blast."""
    _binary_call(record, decision)
    if (probability := record.get("probability")) is not None:
        record["probabilities"] = {"normal": 1 - probability, "blast": probability}
        record["explained_class"] = "blast"
    if (logit := record.get("logit")) is not None:
        record["logits"] = {"normal": 0.0, "blast": logit}
