"""``manifest.json`` and ``report.json`` of a finder: maps, scale, thresholds and measured results."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from leukoscope.core.terms import RESEARCH_USE
from leukoscope.imaging.instances import CANONICAL_UM_PER_PX, MAPS
from leukoscope.models.manifest import BundleRecord, Count, ModelManifest, parse_record

INPUT_NAME = "rgb"
OUTPUT_NAME = "maps"

Unit = Literal["cell", "field", "image"]
Threshold = Annotated[float, Field(gt=0, lt=1)]


class FinderTraining(BundleRecord):
    """Training data of a finder."""

    data: tuple[str, ...] = Field(min_length=1, description="Data sets of the training fields and cells.")
    held_out: str = Field(description="Fields left out of training, for the report.")
    initial_weights: str = Field(description="Initial weights with their license, or random.")


class FinderManifest(ModelManifest):
    """``manifest.json`` of the task ``finder``."""

    task: Literal["finder"]
    microns_per_pixel: float = Field(gt=0, le=2, description="Scale that fields are resized to.")
    divisor_px: Annotated[int, Field(ge=1, le=256)] = Field(
        description="Sides of the input are multiples of it."
    )
    maps: tuple[str, ...] = Field(description="Channels of the output, at half the side of the input.")
    center_threshold: Threshold = Field(description="Least height of a center of a cell.")
    cell_threshold: Threshold = Field(description="Pixels above it belong to the cell.")
    nucleus_threshold: Threshold = Field(description="Pixels above it belong to the nucleus.")
    training: FinderTraining

    @model_validator(mode="after")
    def _known_graph(self) -> Self:
        if self.maps != MAPS:
            raise ValueError(f"maps {', '.join(self.maps)}; this version reads {', '.join(MAPS)}")
        if self.microns_per_pixel != CANONICAL_UM_PER_PX:
            raise ValueError(
                f"microns_per_pixel {self.microns_per_pixel}; this version reads {CANONICAL_UM_PER_PX}"
            )
        names = [spec.name for spec in self.inputs], [spec.name for spec in self.outputs]
        if names != ([INPUT_NAME], [OUTPUT_NAME]):
            raise ValueError(f"graph of {names}, a finder has {INPUT_NAME} -> {OUTPUT_NAME}")
        rgb, maps = self.inputs[0], self.outputs[0]
        if rgb.dtype != "uint8" or len(rgb.shape) != 4 or rgb.shape[3] != 3:
            raise ValueError(f"input {rgb.dtype} {rgb.shape}, expected uint8 (N, H, W, 3)")
        if maps.dtype != "float32" or len(maps.shape) != 4 or maps.shape[1] != len(MAPS):
            raise ValueError(f"output {maps.dtype} {maps.shape}, expected float32 (N, {len(MAPS)}, h, w)")
        return self


class FinderMeasure(BundleRecord):
    """One number with its 95 % interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: Count = Field(description="Number of cells, fields or images.")
    unit: Unit
    method: str = Field(description="Method of the interval.")


class FinderRow(BundleRecord):
    """One finder on one set of fields."""

    fields: str
    finder: str = Field(description="network, classical, or the compared library.")
    split: str
    n_fields: Count
    n_cells: Count = Field(description="Annotated white cells, without those at the border.")
    found: Count
    rejected: Count = Field(description="Fields that were not searched.")
    measures: dict[str, FinderMeasure]
    seconds_per_megapixel: float | None = None


class ScaleRow(BundleRecord):
    """Measured scale of images that were resized."""

    fields: str
    factor: float = Field(gt=0, description="Factor of the enlargement.")
    n_images: Count
    rejected: Count = Field(description="Images without a scale, at this factor or at 1.")
    ratio: FinderMeasure = Field(description="Measured by expected scale, median over images.")
    within_5_percent: FinderMeasure = Field(description="Share of images whose ratio is 0.95 to 1.05.")


class FinderReport(BundleRecord):
    """``report.json`` of a finder: every measured number once."""

    schema_version: Literal[1] = 1
    task: Literal["finder"] = "finder"
    title: str
    created: str = Field(description="UTC, ISO 8601.")
    command: str = Field(description="What measured it.")
    rows: tuple[FinderRow, ...]
    scale: tuple[ScaleRow, ...] = ()
    caveats: tuple[str, ...] = ()
    notice: str = RESEARCH_USE

    def to_json(self) -> str:
        """Return the text of ``report.json``."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read ``report.json``; anything unknown or impossible is a ``BundleError``."""
        return parse_record(cls, "report.json", text)
