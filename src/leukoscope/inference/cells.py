"""Inputs and outputs of the predictor: a source, a prepared cell, a prediction."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError, UsageError
from leukoscope.core.terms import RESEARCH_USE, WarningCode
from leukoscope.core.text import escape_surrogates
from leukoscope.decision.input_checks import Finding
from leukoscope.decision.policy import Verdict
from leukoscope.imaging.descriptors import Descriptors
from leukoscope.inference.results import CellResult, ReasonDetail, WarningDetail

if TYPE_CHECKING:
    import pandas as pd

Rgb = NDArray[np.uint8]
Floats = NDArray[np.float32]
Content = bytes | Path | Rgb


@dataclass(frozen=True)
class PhotographCell:
    """Where a cell was found in a photograph.

    Attributes
    ----------
    cell, cells
        Its number, from 1 in reading order, of how many.
    box
        (y0, x0, y1, x1) in px of the upright photograph, half-open.
    height_px, width_px
        Of the photograph.
    microns_per_pixel
        Scale of the photograph.
    warnings
        What limits the results of its cells.
    """

    cell: int
    cells: int
    box: tuple[int, int, int, int]
    height_px: int
    width_px: int
    microns_per_pixel: float
    warnings: tuple[WarningDetail, ...] = ()


@dataclass(frozen=True)
class Source:
    """One image to classify.

    Attributes
    ----------
    name
        Name in the result. Bytes of a file name that are not UTF-8 are escaped.
    content
        The file's bytes, its path or uint8 RGB (H, W, 3); or the ``ImageError`` that kept it from being read.
    subject
        Its subject, if known.
    found
        Place of the content in a photograph, if it was cut out of one.
    duration_s
        Time that reading it has taken so far.
    first_cell
        Number of the first cell of a photograph that is classified; an earlier call has those before it.
    """

    name: str
    content: Content | ImageError
    subject: str | None = None
    found: PhotographCell | None = None
    duration_s: float = 0.0
    first_cell: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", escape_surrogates(self.name))


@dataclass(frozen=True)
class Prediction:
    """A result with the arrays behind it.

    Attributes
    ----------
    result
        The result, ready for JSON.
    verdict
        The decision of the policy, for pooling a subject; None if no image could be read.
    descriptors
        Measures of the image; None where no image could be read.
    canvas
        uint8 (canvas, canvas, 3), the input image of the network before resizing; None if no image could be read.
    activation_map
        float32 (h, w), >= 0, not normalized: Grad-CAM of the logit of ``result.explained_class``; None where there
        was no forward pass.
    embedding
        float32 (D,); None without a forward pass.
    class_maps
        float32 (K, h, w), the maps of all classes, or (1, h, w) of the second of two; None without a forward pass.
    """

    result: CellResult
    verdict: Verdict | None = None
    descriptors: Descriptors | None = None
    canvas: Rgb | None = field(default=None, repr=False)
    activation_map: Floats | None = field(default=None, repr=False)
    embedding: Floats | None = field(default=None, repr=False)
    class_maps: Floats | None = field(default=None, repr=False)

    @property
    def source(self) -> str:
        """Name of the image."""
        return self.result.source

    @property
    def subject(self) -> str | None:
        """Subject that the cell belongs to, if known."""
        return self.result.subject

    @property
    def cell(self) -> int | None:
        """Number of the cell in its photograph, from 1; None for a cut-out cell."""
        return self.result.cell

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(y0, x0, y1, x1) in px of the photograph, half-open; None for a cut-out cell."""
        return self.result.box

    @property
    def decision(self) -> str:
        """Name of the class that is called, ``uncertain`` or ``rejected``."""
        return self.result.decision

    @property
    def status(self) -> str:
        """``called``, ``uncertain`` or ``rejected``."""
        return str(self.result.status)

    @property
    def label(self) -> str | None:
        """The class that is called; None for uncertain and rejected images."""
        return self.result.label

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of each class, 0 to 1; empty for a rejected image."""
        return dict(self.result.probabilities)

    @property
    def probability(self) -> float | None:
        """Probability of blast, 0 to 1; None for a rejected image."""
        return self.result.probability

    @property
    def prediction_set(self) -> tuple[str, ...]:
        """Classes that conformal prediction cannot exclude."""
        return tuple(str(name) for name in self.result.prediction_set)

    @property
    def reasons(self) -> tuple[ReasonDetail, ...]:
        """Why the image is rejected or the cell uncertain; empty otherwise."""
        return self.result.reasons

    def heat_map(self, opacity: float = 0.6) -> Rgb:
        """Draw the Grad-CAM map over the cell.

        Parameters
        ----------
        opacity
            Share of the color where the map is strong, 0 to 1.

        Returns
        -------
        numpy.ndarray
            uint8 (canvas, canvas, 3).

        Raises
        ------
        UsageError
            The image was rejected before the network ran, so that there is no map.
        """
        from leukoscope.imaging.overlay import heat_map_overlay

        if self.canvas is None or self.activation_map is None:
            raise UsageError(f"{self.source}: no heat map, the network did not run; see .reasons")
        return heat_map_overlay(self.canvas, self.activation_map, opacity)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain Python values: the object that ``predict --json`` prints."""
        return self.result.model_dump(mode="json")

    def __repr__(self) -> str:
        parts = [repr(self.result.title), f"decision={str(self.decision)!r}"]
        if self.probability is not None:
            parts.append(f"probability={self.probability:.3f}")
        if self.reasons:
            parts.append(f"reasons={[str(reason.code) for reason in self.reasons]}")
        return f"Prediction({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """Show the cell, its heat map and the decision in a notebook."""
        pictures = ""
        if self.canvas is not None:
            shown = [self.canvas] if self.activation_map is None else [self.canvas, self.heat_map()]
            pictures = "".join(f'<img src="{_data_url(rgb)}" width="160" alt="">' for rgb in shown)
        number = "" if self.probability is None else f", probability of blast {self.probability:.2f}"
        why = "".join(f"<br>{escape(reason.message)}" for reason in self.reasons)
        return (
            f"<div>{pictures}<p><b>{escape(str(self.decision))}</b>{number}: {escape(self.result.title)}{why}"
            f"<br><small>{escape(RESEARCH_USE)}</small></p></div>"
        )


class Predictions(list[Prediction]):
    """Several predictions in the order of their images: a list with table output."""

    def __init__(self, items: Iterable[Prediction] = ()) -> None:
        super().__init__(items)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one dictionary per image."""
        return [item.to_dict() for item in self]

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per image, with the columns of ``predict --csv`` and ``reasons`` joined by a semicolon.

        Raises
        ------
        UsageError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UsageError("pandas is not installed; pip install pandas, or use .to_dicts()") from None
        rows = []
        for item in self.to_dicts():
            model = item.pop("model")
            item["reasons"] = ";".join(reason["code"] for reason in item["reasons"])
            item["warnings"] = ";".join(warning["code"] for warning in item["warnings"])
            item["prediction_set"] = ";".join(item["prediction_set"])
            rows.append({**item, "model": f"{model['name']} {model['version']}"})
        return pd.DataFrame(rows, columns=None if rows else list(CellResult.model_fields))

    def __repr__(self) -> str:
        counts = Counter(item.decision for item in self)
        summary = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        return f"Predictions({len(self)} images{': ' if summary else ''}{summary})"

    def _repr_html_(self) -> str:
        """Show a table of the first hundred in a notebook."""
        rows = "".join(
            f"<tr><td>{escape(item.result.title)}</td><td>{escape(str(item.decision))}</td><td>"
            f"{'' if item.probability is None else f'{item.probability:.3f}'}</td><td>"
            f"{escape('; '.join(str(reason.code) for reason in item.reasons))}</td></tr>"
            for item in self[:100]
        )
        more = f"<p>and {len(self) - 100} more</p>" if len(self) > 100 else ""
        head = "<tr><th>source</th><th>decision</th><th>probability of blast</th><th>reasons</th></tr>"
        return f"<table>{head}{rows}</table>{more}<small>{escape(RESEARCH_USE)}</small>"


class PhotographReader(Protocol):
    """Finds the cells of photographs and crops them as the model needs them."""

    def expand(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Yield images of one cell unchanged, and for each photograph its cells or one reason why it has none."""


@dataclass(frozen=True)
class PreparedCell:
    """An image that was read and measured, ready for the network.

    Attributes
    ----------
    cell
        uint8 (S, S, 3), the network's input.
    refusals
        Failed input checks; if there are any, no forward pass is needed.
    duration_s
        Time that reading, measuring and preparing took.
    warnings
        What was corrected in the image.
    """

    source: Source
    cell: Rgb = field(repr=False)
    canvas: Rgb = field(repr=False)
    descriptors: Descriptors
    width_px: int
    height_px: int
    refusals: tuple[Finding, ...]
    duration_s: float
    warnings: tuple[WarningCode, ...] = ()


def with_heat_map(prediction: Prediction, path: str) -> Prediction:
    """Return the prediction with the path of its heat map in the result."""
    return replace(prediction, result=prediction.result.model_copy(update={"heat_map": path}))


def _data_url(rgb: Rgb) -> str:
    from base64 import b64encode

    from leukoscope.imaging.overlay import encode_png

    return f"data:image/png;base64,{b64encode(encode_png(rgb)).decode('ascii')}"
