"""``manifest.json``: the description of the model, and ``sample/expected.json``: expected outputs."""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import BundleError
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.core.validation import first_fault

SCHEMA_VERSION = 2
INPUT_NAME = "cells"
OUTPUT_NAMES = ("logits", "embedding", "activation_map")

Count = Annotated[int, Field(ge=0)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Version = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+-]{0,31}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Task = Literal["cell", "kinds", "finder"]
TASKS: tuple[Task, ...] = get_args(Task)
Content = TypeVar("Content", bound=BaseModel)


class BundleRecord(BaseModel):
    """Frozen and closed: an unknown field is an error."""

    # Built when first used: a prediction reads the manifest, never the expected outputs.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class TensorSpec(BundleRecord):
    """One input or output of the graph."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...] = Field(description="One number per axis; a name means a dynamic axis.")
    meaning: str = Field(min_length=1)
    value_range: str = Field(min_length=1)


def hash_groups(groups: Iterable[str]) -> str:
    """Return the SHA-256 of training groups, sorted, one per line: ``TrainingRecord.groups_sha256``."""
    return hashlib.sha256("".join(f"{group}\n" for group in sorted(groups)).encode()).hexdigest()


class TrainingRecord(BundleRecord):
    """The training set as counts and hashes, so that a test set can be shown to be disjoint."""

    protocol: str
    cells: Count
    subjects: Count
    groups: Count
    groups_sha256: Hash | None = Field(
        description="Of the sorted names of the training groups, one per line."
    )
    cells_sha256: Hash | None = Field(description="Of the cell table.")
    initial_weights: str = Field(description="Initial weights with their license, or random.")
    seed: int | None = None
    git_commit: str | None = None


class LicenseRecord(BundleRecord):
    """Under what terms a part may be used."""

    part: str = Field(description="Part that it covers, for instance 'weights' or 'sample cells'.")
    license: str = Field(validation_alias=AliasChoices("license", "licence"), description="SPDX identifier.")
    attribution: str = ""


class Domain(BundleRecord):
    """Which images a model answers for."""

    form: Literal["cut_out", "uncut"] = Field(
        default="cut_out", description="Cells cut out on a black canvas, or with their surroundings."
    )
    microns_per_pixel: float | None = Field(
        default=None, gt=0, description="Scale of the canvas; null where it is not known."
    )
    stain: str | None = Field(default=None, min_length=1, description="Stain of the training images.")


class ModelManifest(BundleRecord):
    """Fields of the manifests of all tasks."""

    schema_version: Literal[1, 2] = 2
    name: Identifier
    version: Version
    task: Task = Field(
        default="cell",
        description="cell: blast or normal; kinds: the kind of a cell; "
        "finder: finds the white cells of a field.",
    )
    title: str = Field(min_length=1)
    created: str = Field(description="UTC, ISO 8601.")
    notice: str = RESEARCH_USE
    intended_use: str = Field(min_length=1)
    limitations: tuple[str, ...] = Field(min_length=1, description="Limitations of the model.")
    architecture: str
    parameters: Count
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    libraries: dict[str, str] = Field(default_factory=dict, description="Versions the model was made with.")
    licenses: tuple[LicenseRecord, ...] = Field(
        min_length=1,
        validation_alias=AliasChoices("licenses", "licences"),  # as bundles before 0.4 spell it
    )

    def to_json(self) -> str:
        """Return the text of ``manifest.json``: indented, with a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read ``manifest.json``; anything unknown or impossible is a ``BundleError``."""
        return parse_record(cls, "manifest.json", text)


class Manifest(ModelManifest):
    """``manifest.json`` of the tasks ``cell`` and ``kinds``; version 1, of one logit, has the classes of C-NMC."""

    task: Literal["cell", "kinds"] = Field(
        default="cell", description="cell: blast or normal; kinds: the kind of a cell."
    )
    domain: Domain = Field(default_factory=Domain)
    head: str
    attribution: str = Field(description="The method of the activation map.")
    flops: float = Field(
        gt=0, description="Floating-point operations of one cell; a multiply-add counts as two."
    )
    canvas_px: int = Field(ge=32, le=4096)
    input_px: int = Field(ge=32, le=1024)
    classes: ClassSchema = Field(default=BINARY, description="In the order of the logits.")
    training: TrainingRecord

    @field_validator("classes", mode="before")
    @classmethod
    def _names_of_version_1(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        if tuple(value) != BINARY.names:
            raise ValueError(f"classes are {value}, manifests of version 1 name {', '.join(BINARY.names)}")
        return BINARY

    @model_validator(mode="after")
    def _known_graph(self) -> Self:
        if self.schema_version == 1 and self.classes != BINARY:
            raise ValueError(
                f"schema_version 1 with classes {', '.join(self.classes.names)}: expected {', '.join(BINARY.names)}"
            )
        names = [spec.name for spec in self.inputs], [spec.name for spec in self.outputs]
        if names != ([INPUT_NAME], list(OUTPUT_NAMES)):
            raise ValueError(
                f"graph of {names}, this version reads {INPUT_NAME} -> {', '.join(OUTPUT_NAMES)}"
            )
        side = self.input_px
        cells, (logits, embedding, activation) = self.inputs[0], self.outputs
        if not re.fullmatch(r"0(\.0)?\s*(to|\.\.|-)\s*255(\.0)?", cells.value_range.strip()):
            raise ValueError(
                f"input of the range {cells.value_range!r}: cells are given as pixels of 0 to 255; "
                "scale them inside the graph"
            )
        if cells.dtype != "uint8" or len(cells.shape) != 4 or cells.shape[1:] != (side, side, 3):
            raise ValueError(f"input {cells.dtype} {cells.shape} does not fit input_px = {side}")
        shapes = (logits.shape, embedding.shape, activation.shape)
        fits = len(shapes[0]) == 2 and len(shapes[1]) == 2 and len(shapes[2]) == 4
        allowed = {self.classes.size} | ({1} if self.classes.size == 2 else set())
        fits = fits and shapes[0][1] == shapes[2][1] and shapes[0][1] in allowed
        if not fits or not all(isinstance(size, int) for shape in shapes for size in shape[1:]):
            raise ValueError(
                f"outputs of {shapes}: expected (N, K), (N, D), (N, K, h, w) with fixed D, h, w and K = "
                f"{' or '.join(str(size) for size in sorted(allowed))} for {self.classes.size} classes"
            )
        return self

    @property
    def embedding_width(self) -> int:
        """D of the output ``embedding``."""
        return int(self.outputs[1].shape[1])


class ExpectedCell(BundleRecord):
    """Outputs of the model for one sample cell when the bundle was made."""

    file: FileName
    label: str | None = Field(default=None, description="Name of its true class, where known.")
    subject: str | None = None
    logit: float = Field(
        description="Log-odds of the positive group before calibration, or of the class called."
    )
    logits: tuple[float, ...] | None = Field(
        default=None, description="One per class; null in files of version 1."
    )
    probability: float | None = Field(ge=0, le=1)
    decision: str = Field(description="A class, 'uncertain' or 'rejected'.")
    novelty: float | None = Field(default=None, ge=0)
    embedding_norm: float = Field(ge=0, description="Euclidean length of the embedding.")
    activation_map: tuple[tuple[float, ...], ...] = Field(
        description="(h, w), not normalized: of the class called, else of the likeliest; of the second class where the "
        "graph has one logit."
    )


class ExpectedOutputs(BundleRecord):
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
        return parse_record(cls, "sample/expected.json", text)


def task_of(text: str | bytes) -> str:
    """Return the ``task`` that a ``manifest.json`` states; ``cell`` if it states none or cannot be read."""
    try:
        task = json.loads(text).get("task", "cell")
    except (ValueError, AttributeError, RecursionError):
        return "cell"
    return task if isinstance(task, str) else "cell"


def parse_record(schema: type[Content], name: str, text: str | bytes) -> Content:
    """Read one JSON file of a bundle; a ``BundleError`` names the first thing that is unknown or impossible."""
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        place, message = first_fault(error)
        raise BundleError(
            f"{name}: {place + ': ' if place else ''}{message}; "
            "export the bundle again, or install the version of leukoscope that wrote it"
        ) from None
