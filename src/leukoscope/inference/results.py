"""The one result schema: what the command line prints, the web API returns and the documentation shows."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from leukoscope.core.terms import RESEARCH_USE, Decision, Reason

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class ModelReference(BaseModel):
    """Which bundle judged, so that a stored result can be traced to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the bundle, from its manifest.")
    version: str = Field(description="Version of the bundle.")
    sha256: str = Field(description="SHA-256 of the bundle's model.onnx, 64 hexadecimal digits.")


class ReasonDetail(BaseModel):
    """Why an image was rejected or a cell is uncertain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: Reason = Field(description="Stable code for programs.")
    message: str = Field(description="One sentence for people: the value, the limit and the remedy.")


class CellResult(BaseModel):
    """Everything that is said about one image; one JSON object a line in ``predict --json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        description="The image as it was named by the caller: a path, a member of an archive, an upload."
    )
    decision: Decision
    probability: Probability | None = Field(
        description="Calibrated probability of 'blast', 0 to 1; null when the image was rejected."
    )
    reasons: tuple[ReasonDetail, ...] = Field(
        default=(),
        description="Empty for 'blast' and 'normal'; at least one entry for 'uncertain' and 'rejected'.",
    )
    subject: str | None = Field(
        default=None, description="Subject the cell belongs to, where the caller or the name tells."
    )
    model: ModelReference
    logit: float | None = Field(
        default=None, description="Raw output for 'blast', before calibration; null when rejected."
    )
    threshold: Probability | None = Field(
        default=None, description="Operating point: blast is called at or above it."
    )
    prediction_set: tuple[Decision, ...] = Field(
        default=(),
        description="Classes that conformal prediction cannot exclude: blast, normal, both or none.",
    )
    novelty: float | None = Field(
        default=None,
        ge=0.0,
        description="Novelty divided by its limit: above 1 the image is rejected as novel.",
    )
    width_px: int | None = Field(default=None, ge=1, description="Width of the image as read.")
    height_px: int | None = Field(default=None, ge=1, description="Height of the image as read.")
    area_px: int | None = Field(default=None, ge=0, description="Foreground area on the canonical canvas.")
    heat_map: str | None = Field(
        default=None, description="Path of the heat-map overlay, where one was written."
    )
    duration_ms: float | None = Field(
        default=None, ge=0.0, description="Time this image took, decoding to decision."
    )
    case: str | None = Field(
        default=None, description="Pseudonymous id under which the web application keeps this result."
    )
    notice: str = RESEARCH_USE


class SubjectResult(BaseModel):
    """The pooled result over the judged cells of one subject."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    cells: int = Field(ge=0, description="Images given.")
    judged: int = Field(ge=0, description="Images not rejected.")
    rejected: int = Field(ge=0)
    uncertain: int = Field(ge=0)
    blasts: int = Field(
        ge=0, description="Judged cells at or above the operating point, uncertain ones included."
    )
    blast_share: Probability | None = Field(description="blasts / judged; null without a judged cell.")
    blast_share_low: Probability | None = Field(
        description="Lower end of the 95 % Wilson interval over cells."
    )
    blast_share_high: Probability | None = Field(
        description="Upper end of the 95 % Wilson interval over cells."
    )
    probability: Probability | None = Field(
        description="Sigmoid of the mean calibrated logit over judged cells."
    )
    decision: Decision = Field(description="The pooled call; 'rejected' without a judged cell.")
    model: ModelReference
    notice: str = RESEARCH_USE
