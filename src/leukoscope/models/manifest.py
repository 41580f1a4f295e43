"""``manifest.json``: what a bundle says of its model, and ``sample/expected.json``: what the model must answer."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leukoscope.core.errors import BundleError
from leukoscope.core.terms import RESEARCH_USE, Decision, Label

SCHEMA_VERSION = 1
INPUT_NAME = "cells"
OUTPUT_NAMES = ("logits", "embedding", "activation_map")
CLASSES = (Label.NORMAL.name.lower(), Label.BLAST.name.lower())

Count = Annotated[int, Field(ge=0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+-]{0,31}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Content = TypeVar("Content", bound=BaseModel)


class _Record(BaseModel):
    # Built when first used: a prediction reads the manifest, never the expected outputs.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class TensorSpec(_Record):
    """One input or output of the graph."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...] = Field(description="A number an axis; a name stands for a dynamic one.")
    meaning: str = Field(min_length=1)
    value_range: str = Field(min_length=1)


class TrainingRecord(_Record):
    """What the model was trained on, as counts and hashes, so that a test set can be shown to be disjoint."""

    protocol: str
    cells: Count
    subjects: Count
    groups: Count
    groups_sha256: Hash | None = Field(description="Of the sorted names of the training groups, one a line.")
    cells_sha256: Hash | None = Field(description="Of the cell table.")
    initial_weights: str = Field(description="Where training started: an origin with its licence, or random.")
    seed: int | None = None
    git_commit: str | None = None


class LicenceRecord(_Record):
    """Under what terms a part may be used."""

    part: str = Field(description="What it covers, for instance 'weights' or 'sample cells'.")
    licence: str = Field(description="SPDX identifier.")
    attribution: str = ""


class Manifest(_Record):
    """All of ``manifest.json``."""

    schema_version: Literal[1] = 1
    name: Identifier
    version: Version
    title: str = Field(min_length=1)
    created: str = Field(description="UTC, ISO 8601.")
    notice: str = RESEARCH_USE
    intended_use: str = Field(min_length=1)
    limitations: tuple[str, ...] = Field(min_length=1, description="What a reader must know before using it.")
    architecture: str
    head: str
    attribution: str = Field(description="The method of the activation map.")
    parameters: Count
    flops: float = Field(
        gt=0, description="Floating-point operations of one cell; a multiply-add counts as two."
    )
    canvas_px: int = Field(ge=32, le=4096)
    input_px: int = Field(ge=32, le=1024)
    classes: tuple[str, ...] = Field(default=CLASSES, description="In the order of their label's number.")
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    training: TrainingRecord
    libraries: dict[str, str] = Field(default_factory=dict, description="Versions the model was made with.")
    licences: tuple[LicenceRecord, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _known_graph(self) -> Self:
        if self.classes != CLASSES:
            raise ValueError(f"classes are {self.classes}, this version reads {CLASSES}")
        names = [spec.name for spec in self.inputs], [spec.name for spec in self.outputs]
        if names != ([INPUT_NAME], list(OUTPUT_NAMES)):
            raise ValueError(
                f"graph of {names}, this version reads {INPUT_NAME} -> {', '.join(OUTPUT_NAMES)}"
            )
        side = self.input_px
        cells, (logits, embedding, activation) = self.inputs[0], self.outputs
        if cells.dtype != "uint8" or len(cells.shape) != 4 or cells.shape[1:] != (side, side, 3):
            raise ValueError(f"input {cells.dtype} {cells.shape} does not fit input_px = {side}")
        shapes = (logits.shape, embedding.shape, activation.shape)
        fits = len(shapes[0]) == 2 and len(shapes[1]) == 2 and len(shapes[2]) == 4
        fits = fits and shapes[0][1] == 1 and shapes[2][1] == 1
        if not fits or not all(isinstance(size, int) for shape in shapes for size in shape[1:]):
            raise ValueError(f"outputs of {shapes}: expected (N, 1), (N, D), (N, 1, h, w) with fixed D, h, w")
        return self

    @property
    def embedding_width(self) -> int:
        """D of the output ``embedding``."""
        return int(self.outputs[1].shape[1])

    def to_json(self) -> str:
        """Return the text of ``manifest.json``: indented, with a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read ``manifest.json``; anything unknown or impossible is a ``BundleError``."""
        return _parse(cls, "manifest.json", text)


class ExpectedCell(_Record):
    """What the model answered for one sample cell when the bundle was made."""

    file: FileName
    label: Literal["blast", "normal"] | None = None
    subject: str | None = None
    logit: float
    probability: float | None = Field(ge=0, le=1)
    decision: Decision
    novelty: float | None = Field(default=None, ge=0)
    embedding_norm: float = Field(ge=0, description="Euclidean length of the embedding.")
    activation_map: tuple[tuple[float, ...], ...] = Field(description="(h, w), not normalised.")


class ExpectedOutputs(_Record):
    """All of ``sample/expected.json``."""

    schema_version: Literal[1] = 1
    engine: str = Field(description="Engine and version that gave these answers.")
    logit_tolerance: float = Field(gt=0, le=0.1, description="Largest absolute difference of a logit.")
    relative_tolerance: float = Field(
        gt=0, le=0.1, description="Largest difference of embedding and map, relative to their largest value."
    )
    cells: tuple[ExpectedCell, ...] = Field(min_length=1)

    def to_json(self) -> str:
        """Return the text of ``expected.json``."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read ``expected.json``; anything unknown or impossible is a ``BundleError``."""
        return _parse(cls, "sample/expected.json", text)


def _parse(schema: type[Content], name: str, text: str | bytes) -> Content:
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(
            f"{name}: {place + ': ' if place else ''}{first['msg']}; "
            "export the bundle again, or install the version of leukoscope that wrote it"
        ) from None
