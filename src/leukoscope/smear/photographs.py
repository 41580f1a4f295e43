"""Uncut photographs for a model of cut-out cells: white cells are found, cut out and brought to the model's scale."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.canvas import CANVAS_PX, CANVAS_UM
from leukoscope.imaging.decode import DecodeLimits, decode_image
from leukoscope.imaging.ground import ground_of, white_to_black
from leukoscope.inference.cells import PhotographCell, Rgb, Source
from leukoscope.inference.predictor import Predictor

if TYPE_CHECKING:  # imported with the first photograph: cut-out cells need none of it
    from leukoscope.smear.finder import Instance
    from leukoscope.smear.reading import FieldSearch, SearchedField

FOREIGN = (
    "the laboratory of this photograph is unknown to the model, whose training cells come from one laboratory: "
    "its probability may be off"
)
_PERHAPS_A_FIELD = frozenset(
    {Reason.TOO_MANY_PIXELS, Reason.FILE_TOO_LARGE, Reason.UNSUPPORTED_MODE, Reason.UNKNOWN_FORMAT}
)
"""Reasons of the decoder of cells that do not hold for fields: they may be large, of 16 bits, or DICOM."""


class CellCutter:
    """Turns photographs into cut-out cells; see ``inference.cells.PhotographReader``.

    Parameters
    ----------
    microns_per_pixel
        Scale of the model's canvas.
    canvas_px
        Its side.
    limits
        Of images of one cell.
    given
        Micrometers per pixel of all photographs; None takes each file's metadata, else measures red cells.
    """

    def __init__(
        self,
        microns_per_pixel: float,
        canvas_px: int = CANVAS_PX,
        limits: DecodeLimits | None = None,
        given: float | None = None,
    ) -> None:
        self._scale, self._side, self._given = microns_per_pixel, canvas_px, given
        self._limits = limits or DecodeLimits()
        self._search: FieldSearch | None = None

    def expand(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Yield cut-out cells as they are, and for each photograph its cells or the one reason why there are none.

        Each photograph is read by itself, so that its cells do not depend on what came before.
        """
        for source in sources:
            began = time.perf_counter()
            rgb = self._decode(source)
            if rgb is None:
                yield source
                continue
            ground = "photograph" if isinstance(rgb, ImageError) else ground_of(rgb)
            if ground == "photograph":
                yield from self._cells(source, began)
                continue
            assert not isinstance(rgb, ImageError)  # noqa: S101 - that is a photograph
            content = white_to_black(rgb) if ground == "white" else rgb
            yield replace(source, content=content, duration_s=time.perf_counter() - began)

    def _decode(self, source: Source) -> Rgb | ImageError | None:
        """Return the pixels, an error that may not hold for a field, or None where the predictor shall say why."""
        if isinstance(source.content, ImageError) or source.found is not None:
            return None
        if isinstance(source.content, np.ndarray):
            array = source.content
            return array if array.dtype == np.uint8 and array.ndim == 3 and array.size else None
        try:
            return decode_image(source.content, self._limits)
        except ImageError as error:
            return error if error.reason in _PERHAPS_A_FIELD else None

    def _cells(self, source: Source, began: float) -> Iterator[Source]:
        from leukoscope.smear.cutting import crop_cell
        from leukoscope.smear.reading import FieldReading, FieldSearch

        if self._search is None:
            self._search = FieldSearch(self._given)
        searched = self._search.search(source)
        if isinstance(searched, FieldReading):
            record = searched.record
            error = ImageError(
                record.reason or Reason.UNREADABLE, record.message or "the image cannot be read"
            )
            yield replace(source, content=error, duration_s=time.perf_counter() - began)
            return
        if not searched.cells:
            yield replace(source, content=_without_cells(searched), duration_s=time.perf_counter() - began)
            return
        share = (time.perf_counter() - began) / len(searched.cells)
        warnings = (*searched.calibration.warnings, FOREIGN)
        for number, cell in enumerate(searched.cells, 1):
            if number < source.first_cell:
                continue
            began = time.perf_counter()
            picture = searched.picture
            found = PhotographCell(
                number, len(searched.cells), cell.box, picture.height_px, picture.width_px,
                searched.calibration.scale.value, warnings,
            )  # fmt: skip
            content: Rgb | ImageError | None = _unfit(searched, cell)
            if content is None:
                content = crop_cell(
                    picture, cell, searched.calibration, self._scale, self._side, cut_out=True
                )
            yield replace(
                source, content=content, found=found, duration_s=share + time.perf_counter() - began
            )


def take_photographs(predictor: Predictor, microns_per_pixel: float | None = None) -> Predictor:
    """Let a predictor of cut-out cells take uncut photographs too, and return it.

    Parameters
    ----------
    predictor
        Changed in place; one whose bundle wants uncut cells is left as it is.
    microns_per_pixel
        Scale of all photographs; None takes each file's metadata, else measures red cells.
    """
    domain = predictor.bundle.manifest.domain
    if domain.form == "cut_out":
        predictor.photographs = CellCutter(
            domain.microns_per_pixel or CANVAS_UM,
            predictor.bundle.manifest.canvas_px,
            predictor.limits,
            microns_per_pixel,
        )
    return predictor


def _unfit(searched: "SearchedField", cell: "Instance") -> ImageError | None:
    """Return why a cell that was found is not classified; None where it can be."""
    from leukoscope.smear.calibrate import SHARP_UM
    from leukoscope.smear.measure import edge_width_of

    if cell.touches_border:
        return ImageError(
            Reason.CUT_OFF, "the cell is cut by the border of the photograph; photograph it whole"
        )
    edge = edge_width_of(searched.picture, searched.calibration, cell.box)
    if edge > SHARP_UM:
        return ImageError(
            Reason.BLURRED,
            f"the edges of the cell are {edge:.1f} um wide, the limit is {SHARP_UM}; focus and photograph it again",
        )
    return None


def _without_cells(searched: "SearchedField") -> ImageError:
    smudges = f", only {searched.smudges} smudge cells" if searched.smudges else ""
    return ImageError(
        Reason.NO_CELLS,
        f"no white cell was found in this photograph{smudges}; photograph a field with white cells, or give the cell "
        "cut out on black",
    )
