"""Records of fields and cells that reading a smear returns and writes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from leukoscope.core.terms import RESEARCH_USE, Reason
from leukoscope.smear.count import UNNAMED, CountedCell

Ring = tuple[tuple[int, int], ...]
State = Literal["called", "uncertain", "rejected"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScaleRecord(_Record):
    """Scale of a field."""

    value: float = Field(gt=0, description="Micrometers per pixel.")
    source: str = Field(
        description="given, metadata, red_cells, red_cells_of_smear, red_cells_by_network or profile."
    )
    n_red_cells: int = Field(
        ge=0, description="Red cells measured, also where the scale comes from elsewhere."
    )
    interval: tuple[float, float] | None = Field(
        default=None, description="95 % interval, where red cells gave it."
    )
    measured: float | None = Field(default=None, description="Micrometers per pixel by the red cells alone.")
    by_patch: tuple[float, ...] = Field(default=(), description="The same by patch of a large field.")
    detail: str = Field(default="", description="Name of the metadata.")


class StainRecord(_Record):
    """Stain and light of a field."""

    background_rgb: tuple[float, float, float] = Field(description="Brightness in the middle, 0 to 255.")
    unevenness: float = Field(ge=1, description="Largest by smallest brightness of the background.")
    background_share: float = Field(ge=0, le=1)
    red_cells_od: tuple[float, float, float] = Field(description="Optical density of red cells in R, G, B.")
    nuclei_od: tuple[float, float, float] | None = Field(
        description="The same of nuclei, where there are some."
    )
    n_pixels: int = Field(ge=0, description="Measured red-cell pixels; 0: defaults are used.")
    distances: dict[str, float] = Field(description="To reference laboratories, in standard deviations.")


class CellRecord(_Record):
    """One white cell."""

    cell: int = Field(ge=1, description="Number within the field, in reading order.")
    box: tuple[int, int, int, int] = Field(
        description="y0, x0, y1, x1 in px of the upright image, half-open."
    )
    outline: tuple[Ring, ...] = Field(
        description="Outlines of the cell, (y, x) corners of pixels; holes included."
    )
    nucleus_outline: tuple[Ring, ...] = Field(description="Outlines of the nucleus.")
    score: float = Field(ge=0, le=1, description="How sure the finder is.")
    kind: str = Field(
        default=UNNAMED,
        description="Class called; of an uncertain cell the likeliest, of a rejected one none.",
    )
    kind_probability: float | None = Field(default=None, description="Calibrated probability of ``kind``.")
    blast_probability: float | None = Field(default=None, description="Of the blast classes together.")
    immature_probability: float | None = Field(
        default=None, description="Of blasts and immature granulocytes together."
    )
    prediction_set: tuple[str, ...] = Field(
        default=(), description="Classes that conformal prediction cannot exclude, the likeliest first."
    )
    decision: State = "called"
    reasons: tuple[str, ...] = ()
    touches_border: bool = Field(default=False, description="Cut by the edge of the field.")
    touches_cell: bool = Field(default=False, description="Its outline touches that of another white cell.")
    in_focus: bool = Field(default=True, description="Whether its edges are sharp.")
    measurements: dict[str, float | None] = Field(default_factory=dict)

    def counted(self) -> CountedCell:
        """Return what counting needs."""
        return CountedCell(self.kind, self.decision)


class FieldRecord(_Record):
    """One field, with its cells or the reason why there are none."""

    image: str = Field(description="As named by the caller.")
    smear: str = Field(default="", description="Fields of one smear have the same: the folder.")
    subject: str | None = None
    sha256: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    scale: ScaleRecord | None = None
    stain: StainRecord | None = None
    edge_um: float | None = Field(
        default=None, description="Width of the sharpest edges; large is out of focus."
    )
    warnings: tuple[str, ...] = ()
    reason: Reason | None = Field(default=None, description="Why the field was rejected.")
    message: str | None = Field(default=None, description="Sentence with value, limit and remedy.")
    cells: tuple[CellRecord, ...] = ()
    smudge_cells: int = Field(default=0, ge=0, description="Smudge cells, which are not among the cells.")
    finder: str = ""
    model: str | None = Field(
        default=None, description="Bundle that named the cells, with version and digest."
    )
    notice: str = RESEARCH_USE

    @property
    def rejected(self) -> bool:
        """Whether the field was not searched."""
        return self.reason is not None
