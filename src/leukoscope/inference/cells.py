"""What goes into the predictor and what comes out: a source, a prepared cell, a prediction."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError
from leukoscope.decision.input_checks import Finding
from leukoscope.decision.policy import Verdict
from leukoscope.imaging.descriptors import Descriptors
from leukoscope.inference.results import CellResult

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]
Content = bytes | Path | Rgb


@dataclass(frozen=True)
class Source:
    """One image to judge.

    Attributes
    ----------
    name
        What the result calls it. Bytes of a file name that are no UTF-8 are escaped.
    content
        The file's bytes, its path or uint8 RGB (H, W, 3); or the ``ImageError`` that kept it from being read.
    subject
        The person it belongs to, where known.
    """

    name: str
    content: Content | ImageError
    subject: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", escape_surrogates(self.name))


@dataclass(frozen=True)
class Prediction:
    """A result with the arrays behind it.

    Attributes
    ----------
    result
        What is said, ready for JSON.
    verdict
        What the policy said, for pooling a subject; None where no image could be read.
    descriptors
        Measures of the image; None where no image could be read.
    canvas
        uint8 (canvas, canvas, 3), the image as the network saw it before resizing; None likewise.
    activation_map
        float32 (h, w), >= 0, not normalised: Grad-CAM of the logit of ``result.explained_class``; None where there
        was no forward pass.
    embedding
        float32 (D,); None likewise.
    class_maps
        float32 (K, h, w), the maps of all classes, or (1, h, w) of the second of two; None likewise.
    """

    result: CellResult
    verdict: Verdict | None = None
    descriptors: Descriptors | None = None
    canvas: Rgb | None = field(default=None, repr=False)
    activation_map: Floats | None = field(default=None, repr=False)
    embedding: Floats | None = field(default=None, repr=False)
    class_maps: Floats | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PreparedCell:
    """An image that was read and measured, ready for the network.

    Attributes
    ----------
    cell
        uint8 (S, S, 3), the network's input.
    refusals
        What the input checks found; with any, no forward pass is needed.
    duration_s
        Time that reading, measuring and preparing took.
    """

    source: Source
    cell: Rgb = field(repr=False)
    canvas: Rgb = field(repr=False)
    descriptors: Descriptors
    width_px: int
    height_px: int
    refusals: tuple[Finding, ...]
    duration_s: float


def escape_surrogates(text: str) -> str:
    """Return a name that can be written as UTF-8: bytes that the file system gave and that are none are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def with_heat_map(prediction: Prediction, path: str) -> Prediction:
    """Return the prediction with the path of its heat map in the result."""
    return replace(prediction, result=prediction.result.model_copy(update={"heat_map": path}))
