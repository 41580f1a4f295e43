"""A laboratory profile as data: the measurements of ``leukoscope adapt``, and the correction of a bundle."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leukoscope.core.errors import UsageError
from leukoscope.core.io import write_text
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.core.text import TextError, read_text
from leukoscope.core.validation import first_fault
from leukoscope.models.engines import ForwardResult

MARK = '"laboratory_profile":'
"""Beginning of a profile file, so that only a profile is overwritten."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Finite, Finite, Finite]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Surroundings(_Record):
    """Scale, light and stain of the laboratory's fields, medians over them; all null where single cells were given."""

    fields: int = Field(ge=0, description="Fields that were measured.")
    background_rgb: Triple | None = Field(default=None, description="Brightness of the glass, 0 to 255.")
    unevenness: float | None = Field(
        default=None, ge=1, description="Largest by smallest brightness of the glass."
    )
    red_cells_od: Triple | None = Field(default=None, description="Optical density of red cells in R, G, B.")
    nuclei_od: Triple | None = Field(default=None, description="The same of nuclei.")


class EmbeddingStatistics(_Record):
    """Statistics of the embeddings of the laboratory's cells, for the detection of drift."""

    cells: int = Field(ge=1)
    mean: tuple[Finite, ...] = Field(description="(D,), shrunk toward the training cells of the bundle.")
    shrinkage: float = Field(ge=0, le=1, description="Share of the training cells' mean in it.")
    novelty_median: float = Field(
        ge=0, description="Median novelty by its limit; training cells have about 0.7."
    )
    novel_share: float = Field(ge=0, le=1, description="Share of cells above the limit.")


class HeadCorrection(_Record):
    """A change of the logits that is linear in the embedding, fitted on corrected cells."""

    cells: int = Field(ge=1, description="Corrected cells it was fitted on.")
    counts: dict[str, int] = Field(description="The same by class.")
    strength: float = Field(
        gt=0, description="Weight of the penalty that holds it near the bundle's own head."
    )
    scale: float = Field(default=1.0, gt=0, le=1, description="The bundle's own logits are multiplied by it.")
    gain: float = Field(
        description="Fall of the log loss of corrected cells left out in turn, in nats a cell."
    )
    gain_error: float = Field(ge=0, description="Standard error of the gain.")
    weights: tuple[tuple[Finite, ...], ...] = Field(description="(K, D), added to the head's weights.")
    bias: tuple[Finite, ...] = Field(description="(K,), added to the logits.")


class LaboratoryProfile(_Record):
    """All of a profile file."""

    laboratory_profile: Literal[1] = 1
    name: str = Field(min_length=1, max_length=100)
    created: str = Field(description="UTC, ISO 8601.")
    notice: str = RESEARCH_USE
    model: str = Field(description="Name of the bundle it belongs to.")
    model_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the bundle's model.onnx.")
    microns_per_pixel: float | None = Field(
        default=None, gt=0, description="Median scale; null where unknown."
    )
    surroundings: Surroundings
    embedding: EmbeddingStatistics
    head: HeadCorrection | None = Field(
        default=None, description="Null without corrected cells, or where no correction proved to help."
    )
    remarks: tuple[str, ...] = Field(
        default=(), description="Remarks on checks and on parts that were not changed, with reasons."
    )

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        width = len(self.embedding.mean)
        head = self.head
        if head is not None and (
            len(head.bias) != len(head.weights) or any(len(row) != width for row in head.weights)
        ):
            raise ValueError(
                f"head of {len(head.weights)} rows and {len(head.bias)} biases, embedding of {width}"
            )
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of the content, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def reference(self) -> str:
        """Name and digest, as results record them."""
        return f"{self.name} {self.sha256[:12]}"

    def to_json(self) -> str:
        """Return the text of the file, with a newline at the end."""
        return self.model_dump_json(indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write the file in one step."""
        write_text(path, self.to_json())

    def corrected(self, forward: ForwardResult) -> ForwardResult:
        """Return outputs with corrected logits; embedding and maps stay as they are."""
        if self.head is None:
            return forward
        weights = np.asarray(self.head.weights, np.float32)
        bias = np.asarray(self.head.bias, np.float32)
        change: NDArray[np.float32] = forward.embedding @ weights.T + bias
        return forward._replace(logits=forward.logits * np.float32(self.head.scale) + change)

    def check_model(self, model_sha256: str, classes: int) -> None:
        """Refuse a profile of another model.

        Raises
        ------
        UsageError
            It was made with another model, or its correction has another number of classes.
        """
        if self.model_sha256 != model_sha256:
            raise UsageError(
                f"profile {self.name!r} was made with model.onnx {self.model_sha256[:12]} of {self.model}, this bundle "
                f"has {model_sha256[:12]}; make the profile again with leukoscope adapt"
            )
        if self.head is not None and len(self.head.bias) != classes:
            raise UsageError(
                f"profile {self.name!r} corrects {len(self.head.bias)} classes, the bundle has {classes}; "
                "make the profile again with leukoscope adapt"
            )


def read_profile(path: Path) -> LaboratoryProfile:
    """Read and check a profile.

    Raises
    ------
    UsageError
        The file is missing, is not JSON or no profile; the first wrong place is named.
    """
    try:
        return LaboratoryProfile.model_validate_json(read_text(path))
    except OSError as error:
        raise UsageError(f"{path}: the profile cannot be read: {error.strerror}") from None
    except TextError as error:
        raise UsageError(str(error)) from None
    except ValidationError as error:
        place, message = first_fault(error)
        raise UsageError(
            f"{path}: not a laboratory profile: {place or 'top level'}: {message}; write one with leukoscope adapt"
        ) from None
