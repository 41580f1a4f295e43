"""Photographs for ``predict``: white cells are found, cropped and brought to the scale of the model."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import WARNING_TEXTS, Reason, WarningCode
from leukoscope.imaging.canvas import CANVAS_PX, CANVAS_UM
from leukoscope.imaging.decode import DecodeLimits, decode_image
from leukoscope.imaging.ground import ground_of
from leukoscope.inference.cells import PhotographCell, Rgb, Source
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.results import WarningDetail

if TYPE_CHECKING:  # imported with the first photograph: cut-out cells need none of it
    from leukoscope.smear.finder import FoundCell
    from leukoscope.smear.search import RejectedField, SearchedField

_PERHAPS_A_FIELD = frozenset(
    {Reason.TOO_MANY_PIXELS, Reason.FILE_TOO_LARGE, Reason.UNSUPPORTED_MODE, Reason.UNKNOWN_FORMAT}
)
"""Reasons of the decoder of cells that do not hold for fields: they may be large, of 16 bits, or DICOM."""

_ONE_CELL_UM = 45.0
_ONE_CELL_PX = 512  # where no scale is known
"""Shorter side up to which a photograph without a found cell is classified as one cell by a model of uncut cells."""


@dataclass(frozen=True)
class CropSettings:
    """What a model takes of a photograph.

    Attributes
    ----------
    microns_per_pixel, canvas_px
        Scale and side of its canvas.
    cut_out
        Whether it takes the cell alone, on black; else with its surroundings.
    one_laboratory
        Whether it was trained on one laboratory only: results of photographs carry a warning.
    """

    microns_per_pixel: float = CANVAS_UM
    canvas_px: int = CANVAS_PX
    cut_out: bool = True
    one_laboratory: bool = True


class CellCutter:
    """Replaces photographs by their cells; see ``inference.cells.PhotographReader``.

    Parameters
    ----------
    settings
        Of the crops.
    limits
        Of images of one cell.
    given
        Micrometers per pixel of all photographs; None takes each file's metadata, else measures red cells.
    usual
        Micrometers per pixel of the laboratory, for photographs without a scale of their own.
    """

    def __init__(
        self,
        settings: CropSettings | None = None,
        limits: DecodeLimits | None = None,
        given: float | None = None,
        usual: float | None = None,
    ) -> None:
        self._settings = settings or CropSettings()
        self._limits = limits or DecodeLimits()
        self._given, self._usual = given, usual

    def expand(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Yield images of one cell unchanged, and for each photograph its cells or the one reason why there are none.

        Each photograph is read by itself, so that its cells do not depend on earlier ones.
        """
        for source in sources:
            began = time.perf_counter()
            rgb = self._decode(source)
            if rgb is None:
                yield source
            elif isinstance(rgb, ImageError) or self._is_photograph(rgb):
                yield from self._cells(source, None if isinstance(rgb, ImageError) else rgb, began)
            else:
                yield replace(source, content=rgb, duration_s=time.perf_counter() - began)

    def _decode(self, source: Source) -> Rgb | ImageError | None:
        """Return the pixels, an error that may not hold for a field, or None if the predictor states the reason."""
        if isinstance(source.content, ImageError) or source.found is not None:
            return None
        if isinstance(source.content, np.ndarray):
            array = source.content
            return array if array.dtype == np.uint8 and array.ndim == 3 and array.size else None
        try:
            return decode_image(source.content, self._limits)
        except ImageError as error:
            return error if error.reason in _PERHAPS_A_FIELD else None

    def _is_photograph(self, rgb: Rgb) -> bool:
        side = self._settings.canvas_px
        if not self._settings.cut_out and rgb.shape[:2] == (side, side):
            return False  # prepared: cropped at the scale of the model
        return ground_of(rgb) == "photograph"

    def _cells(self, source: Source, rgb: Rgb | None, began: float) -> Iterator[Source]:
        from leukoscope.smear.search import FieldSearch, RejectedField

        # One for each photograph: it holds the red cells of a smear, and threads may share the predictor.
        searched = FieldSearch(self._given, usual_microns_per_pixel=self._usual).search(source)
        error = _rejection(searched)
        if error is not None and rgb is not None and self._is_one_cell(rgb, searched):
            yield self._as_one_cell(source, rgb, searched, began)
        elif error is not None:
            yield replace(source, content=error, duration_s=time.perf_counter() - began)
        else:
            assert not isinstance(searched, RejectedField)  # noqa: S101 - that has a reason
            yield from self._found(source, searched, began)

    def _found(self, source: Source, searched: "SearchedField", began: float) -> Iterator[Source]:
        share = (time.perf_counter() - began) / len(searched.cells)
        scale = searched.calibration.scale.value
        warnings = [
            WarningDetail(code=WarningCode.PHOTOGRAPH, message=f"{text[:1].upper()}{text[1:]}.")
            for text in searched.calibration.warnings
        ]
        if self._settings.one_laboratory:
            code = WarningCode.OTHER_LABORATORY
            warnings.append(WarningDetail(code=code, message=WARNING_TEXTS[code]))
        picture, count = searched.picture, len(searched.cells)
        for number, cell in enumerate(searched.cells, 1):
            if number < source.first_cell:
                continue
            began = time.perf_counter()
            found = PhotographCell(
                number, count, cell.box, picture.height_px, picture.width_px, scale, tuple(warnings)
            )
            content: Rgb | ImageError = _unfit(searched, cell) or self._crop(searched, cell)
            yield replace(
                source, content=content, found=found, duration_s=share + time.perf_counter() - began
            )

    def _crop(self, searched: "SearchedField", cell: "FoundCell") -> Rgb:
        from leukoscope.smear.crops import crop_cell, crop_surroundings

        settings, calibration = self._settings, searched.calibration
        if settings.cut_out:
            return crop_cell(
                searched.picture,
                cell,
                calibration,
                settings.microns_per_pixel,
                settings.canvas_px,
                cut_out=True,
            )
        return crop_surroundings(
            searched.picture,
            cell,
            calibration.scale.value,
            settings.microns_per_pixel,
            settings.canvas_px,
        )

    def _is_one_cell(self, rgb: Rgb, searched: "SearchedField | RejectedField") -> bool:
        """Whether a photograph without a found cell is about as large as one cell with its surroundings.

        Objects that are no white cells, such as platelets, are among the classes of models of uncut cells.
        """
        if self._settings.cut_out:
            return False
        from leukoscope.smear.search import RejectedField

        if isinstance(searched, RejectedField):
            return searched.record.reason is Reason.NO_SCALE and min(rgb.shape[:2]) <= _ONE_CELL_PX
        return bool(min(rgb.shape[:2]) * searched.calibration.scale.value <= _ONE_CELL_UM)

    def _as_one_cell(
        self, source: Source, rgb: Rgb, searched: "SearchedField | RejectedField", began: float
    ) -> Source:
        from leukoscope.imaging.uncut import ASSUMED_SIDE_UM, place_uncut
        from leukoscope.smear.search import RejectedField

        height, width = rgb.shape[:2]
        warnings: tuple[WarningDetail, ...] = ()
        if isinstance(searched, RejectedField):
            scale = ASSUMED_SIDE_UM / min(height, width)
            code = WarningCode.ASSUMED_SCALE
            warnings = (WarningDetail(code=code, message=WARNING_TEXTS[code]),)
        else:
            scale = searched.calibration.scale.value
        crop = place_uncut(
            rgb,
            scale,
            target_microns_per_pixel=self._settings.microns_per_pixel,
            side_px=self._settings.canvas_px,
        )
        found = PhotographCell(1, 1, (0, 0, height, width), height, width, scale, warnings)
        return replace(source, content=crop, found=found, duration_s=time.perf_counter() - began)


def take_photographs(predictor: Predictor, microns_per_pixel: float | None = None) -> Predictor:
    """Make a predictor find the cells of photographs, and return it.

    Parameters
    ----------
    predictor
        Changed in place; one whose bundle names no scale for uncut cells is left unchanged.
    microns_per_pixel
        Scale of all photographs; None takes each file's metadata, else measures red cells.
    """
    manifest = predictor.bundle.manifest
    cut_out, scale = manifest.domain.form == "cut_out", manifest.domain.microns_per_pixel
    if cut_out or scale is not None:
        settings = CropSettings(
            scale or CANVAS_UM, manifest.canvas_px, cut_out=cut_out, one_laboratory=cut_out
        )
        usual = None if microns_per_pixel else predictor.microns_per_pixel
        predictor.photographs = CellCutter(settings, predictor.limits, microns_per_pixel, usual)
    return predictor


def _rejection(searched: "SearchedField | RejectedField") -> ImageError | None:
    """Return why a photograph has no cells to classify; None if it has."""
    from leukoscope.smear.search import RejectedField

    if isinstance(searched, RejectedField):
        record = searched.record
        return ImageError(record.reason or Reason.UNREADABLE, record.message or "the image cannot be read")
    if searched.cells:
        return None
    smudges = f", only {searched.smudges} smudge cells" if searched.smudges else ""
    return ImageError(
        Reason.NO_CELLS,
        f"no white cell was found in this photograph{smudges}; photograph a field with white cells, or give the cell "
        "cut out on black",
    )


def _unfit(searched: "SearchedField", cell: "FoundCell") -> ImageError | None:
    """Return why a found cell is not classified; None if it can be."""
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
