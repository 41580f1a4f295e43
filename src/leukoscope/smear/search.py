"""Search fields for white cells: calibrate each field, and find the cells at its scale."""

import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from leukoscope.core.errors import ImageError
from leukoscope.core.terms import Reason
from leukoscope.inference.cells import Source
from leukoscope.models.registry import FINDER_MODEL
from leukoscope.smear.calibrate import Calibration, Survey, calibrate_field, survey_field
from leukoscope.smear.files import FieldFile, open_field, take_array
from leukoscope.smear.finder import ClassicalFinder, Finder, Instance
from leukoscope.smear.finder_network import NetworkFinder, load_finder
from leukoscope.smear.picture import Picture, shrunk_shape
from leukoscope.smear.records import FieldRecord
from leukoscope.smear.red_cells import RED_CELL_UM
from leukoscope.smear.scale import RedCellSize, Scale, ScaleSource, pool_red_cells, scale_of
from leukoscope.smear.tiling import find_cells

CLASSICAL = "classical"
"""Name of the finder by thresholds and watershed, which needs no bundle."""
LEAST_SCORE = 0.5

_SIDE_PX = 1400  # of the picture in which the network looks for red cells
_LOOK_AHEAD = 12  # fields of a smear whose red cells are measured if one shows too few
_FEW_RED_CELLS, _SMEAR_RED_CELLS, _REMEMBERED = 5, 12, 24


@dataclass(frozen=True)
class SearchedField:
    """A field that was searched for white cells.

    Attributes
    ----------
    base
        Record of the field, without its cells.
    picture, calibration
        The field, and its light, scale and stain.
    cells
        White cells in reading order.
    smudges
        Smudge cells seen, which are not among ``cells``.
    """

    base: FieldRecord
    picture: Picture
    calibration: Calibration
    cells: list[Instance]
    smudges: int


@dataclass(frozen=True)
class RejectedField:
    """A field that was not searched.

    Attributes
    ----------
    record
        With the reason.
    picture
        The field; None if it could not be decoded.
    """

    record: FieldRecord
    picture: Picture | None = None


class FieldSearch:
    """Searches one field after the other and remembers the red cells of the current smear.

    Parameters
    ----------
    microns_per_pixel, finder, usual_microns_per_pixel
        See ``leukoscope.read_smear``.
    """

    def __init__(
        self,
        microns_per_pixel: float | None = None,
        finder: "Finder | str | os.PathLike[str]" = FINDER_MODEL,
        usual_microns_per_pixel: float | None = None,
    ) -> None:
        self._given, self._usual = microns_per_pixel, usual_microns_per_pixel
        named = isinstance(finder, str | os.PathLike) and finder != CLASSICAL
        self._finder: Any = load_finder(finder) if named else finder  # type: ignore[arg-type]
        self._smear: tuple[str, int, int] | None = None
        self._sizes: dict[str, RedCellSize] = {}

    def search(self, source: Source) -> SearchedField | RejectedField:
        """Search one field, independent of earlier ones."""
        self._smear, self._sizes = None, {}
        return self.search_next(source, deque(), iter(()))

    def search_next(
        self, source: Source, waiting: "deque[Source]", stream: Iterator[Source]
    ) -> SearchedField | RejectedField:
        """Search the next field of a smear.

        Parameters
        ----------
        source
            The field.
        waiting, stream
            The following fields: those read from the stream, and the stream. If this field shows few red cells, those
            of the following fields of its smear are measured, too.
        """
        name = source.name
        base = FieldRecord(image=name, smear=smear_of(name), subject=source.subject, finder=self._name)
        try:
            if isinstance(source.content, ImageError):
                raise source.content
            file = _open(source)
        except ImageError as error:
            return RejectedField(_rejected(base, error))
        picture = file.picture
        base = base.model_copy(
            update={"sha256": file.sha256, "width_px": picture.width_px, "height_px": picture.height_px}
        )
        try:
            survey = survey_field(picture)
            smear = self._scale_of_smear(base, file, survey, waiting, stream)
            if smear is None and scale_of(self._given, file.scale, survey.red_cells) is None:
                smear = self._scale_by_network(picture) or self._scale_of_laboratory()
            calibration = calibrate_field(
                picture, survey, given=self._given, metadata=file.scale, smear=smear
            )
            return self._find(base, picture, calibration)
        except ImageError as error:
            return RejectedField(_rejected(base, error), picture)

    @property
    def _name(self) -> str:
        return CLASSICAL if self._finder == CLASSICAL else str(getattr(self._finder, "name", "finder"))

    def _scale_of_laboratory(self) -> Scale | None:
        return None if self._usual is None else Scale(self._usual, ScaleSource.PROFILE, 0, None, None)

    def _scale_by_network(self, picture: Picture) -> Scale | None:
        """Ask the finder's network for red cells where the circles of the field are too few."""
        if not isinstance(self._finder, NetworkFinder):
            return None
        whole = (0, 0, picture.height_px, picture.width_px)
        shape = shrunk_shape(picture, _SIDE_PX)
        diameters = self._finder.measure_red_cells(picture.read(whole, shape))
        if diameters is None:
            return None
        full = diameters * (picture.width_px / shape[1])
        middle = RED_CELL_UM / float(np.median(full))
        spread = 1.96 * 1.2533 * float(np.std(full)) / math.sqrt(len(full)) / float(np.median(full))
        interval = (middle / (1 + spread), middle / max(0.1, 1 - spread))
        return Scale(middle, ScaleSource.NETWORK, len(full), interval, middle)

    def _scale_of_smear(
        self,
        base: FieldRecord,
        file: FieldFile,
        survey: Survey,
        waiting: "deque[Source]",
        stream: Iterator[Source],
    ) -> Scale | None:
        """Remember the red cells of this field, and where they are few ask the other fields of the smear."""
        key = (base.smear, base.width_px or 0, base.height_px or 0)
        if key != self._smear:
            self._smear, self._sizes = key, {}
        self._sizes[base.image] = survey.red_cells
        own = survey.red_cells.count
        if self._given is not None or file.scale is not None or own >= _FEW_RED_CELLS:
            return None
        for ahead in range(_LOOK_AHEAD):
            if ahead >= len(waiting):
                following = next(stream, None)
                if following is None:
                    break
                waiting.append(following)
            if pool_red_cells(list(self._sizes.values())).count >= _SMEAR_RED_CELLS:
                break
            if waiting[ahead].name not in self._sizes:
                size = _size_ahead(waiting[ahead], key)
                if size is not None:
                    self._sizes[waiting[ahead].name] = size
        pooled = pool_red_cells(list(self._sizes.values())[-_REMEMBERED:])
        scale = scale_of(None, None, pooled)
        if scale is None or pooled.count < max(_FEW_RED_CELLS, 2 * own):
            return None
        return Scale(scale.value, ScaleSource.SMEAR, scale.n_red_cells, scale.interval, scale.measured)

    def _find(self, base: FieldRecord, picture: Picture, calibration: Calibration) -> SearchedField:
        finder = ClassicalFinder(calibration.stain) if self._finder == CLASSICAL else self._finder
        found = find_cells(picture, calibration.light, finder, calibration.scale.value)
        found = [cell for cell in found if cell.score >= LEAST_SCORE]
        stain = calibration.stain
        if found and not stain.n_pixels and stain.nuclei is None:
            raise ImageError(
                Reason.NOT_A_SMEAR,
                "nothing on the background has the colors of red cells or of nuclei; "
                "give a photograph of a stained blood smear",
            )
        whole = [cell for cell in found if cell.smudge < 0.5]
        return SearchedField(base, picture, calibration, whole, len(found) - len(whole))


def _open(source: Source) -> FieldFile:
    if isinstance(source.content, np.ndarray):
        return take_array(source.content)
    assert not isinstance(source.content, ImageError)  # noqa: S101 - the caller has looked
    return open_field(source.content)


def smear_of(name: str) -> str:
    """Return the folder of an image: fields of one smear lie in one folder."""
    return name.replace("\\", "/").rpartition("/")[0]


def _size_ahead(source: Source, key: tuple[str, int, int]) -> RedCellSize | None:
    """Measure the red cells of a field of the same smear and size; None for other images."""
    if isinstance(source.content, ImageError) or smear_of(source.name) != key[0]:
        return None
    try:
        picture = _open(source).picture
        if (picture.width_px, picture.height_px) != key[1:]:
            return None
        return survey_field(picture).red_cells
    except ImageError:
        return None


def _rejected(base: FieldRecord, error: ImageError) -> FieldRecord:
    return base.model_copy(update={"reason": error.reason, "message": str(error)})
