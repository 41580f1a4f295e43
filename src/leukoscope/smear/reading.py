"""Read smears: find the white cells of fields, one field at a time."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError, UsageError
from leukoscope.core.terms import Reason
from leukoscope.inference.cells import Source
from leukoscope.inference.inputs import iterate_images
from leukoscope.models.registry import FINDER_MODEL, KINDS_MODEL
from leukoscope.smear.calibrate import SHARP_UM, Calibration, Survey, calibrate_field, survey_field
from leukoscope.smear.files import FIELD_LIMITS, FIELD_SUFFIXES, FieldFile, open_field, take_array
from leukoscope.smear.finder import ClassicalFinder, Finder, FoundCell, Instance
from leukoscope.smear.finder_network import NetworkFinder, load_finder
from leukoscope.smear.measure import measure_cell, touching_cells
from leukoscope.smear.picture import Picture, shrunk_shape
from leukoscope.smear.raster import trace_outlines
from leukoscope.smear.records import CellRecord, FieldRecord, ScaleRecord, StainRecord, State
from leukoscope.smear.red_cells import RED_CELL_UM
from leukoscope.smear.scale import RedCellSize, Scale, ScaleSource, pool_red_cells, scale_of
from leukoscope.smear.tiling import find_cells

CLASSICAL = "classical"
"""Name of the finder by thresholds and watershed, which needs no bundle."""
LEAST_SCORE = 0.5
OVERVIEW_PX = 1400
CROP_MARGIN_UM = 3.0

_TOUCHING_UM = 0.4  # outlines nearer than this touch
_LOOK_AHEAD = 12  # fields of a smear whose red cells are measured if one shows too few
_FEW_RED_CELLS, _SMEAR_RED_CELLS, _REMEMBERED = 5, 12, 24


@dataclass(frozen=True)
class CellCall:
    """Output of a classifier for one cell; see ``CellRecord``."""

    kind: str
    kind_probability: float | None = None
    blast_probability: float | None = None
    immature_probability: float | None = None
    prediction_set: tuple[str, ...] = ()
    decision: State = "called"
    reasons: tuple[str, ...] = ()


class CellClassifier(Protocol):
    """Names the cells of a field."""

    @property
    def model(self) -> str:
        """What it is called in the results."""

    def classify(
        self, picture: Picture, calibration: Calibration, cells: Sequence[FoundCell]
    ) -> Sequence[CellCall]:
        """Return one call per cell, in their order."""


@dataclass(frozen=True)
class FieldReading:
    """One field as it was read.

    Attributes
    ----------
    record
        The record of the field.
    overview
        uint8 (h, w, 3): the field with its background set to white, at most ``OVERVIEW_PX`` long; None where the file
        could not be decoded.
    crops
        uint8 (h, w, 3) for each cell: its box and ``CROP_MARGIN_UM`` around it, background white.
    """

    record: FieldRecord
    overview: NDArray[np.uint8] | None = None
    crops: tuple[NDArray[np.uint8], ...] = ()


def read_smear(
    sources: Any,
    *,
    microns_per_pixel: float | None = None,
    finder: "Finder | str | os.PathLike[str]" = FINDER_MODEL,
    classifier: "CellClassifier | str | Path | None" = KINDS_MODEL,
    subject_of: Callable[[str], str | None] = lambda _: None,
    usual_microns_per_pixel: float | None = None,
) -> Iterator[FieldReading]:
    """Find, measure and name the white cells of fields.

    Parameters
    ----------
    sources
        Paths, folders, ZIP archives, patterns, bytes, Pillow images, uint8 arrays (H, W, 3), or an iterable of these.
    microns_per_pixel
        Scale of all of them; None takes each file's metadata, else measures red cells.
    finder
        Finds the cells: the name or folder of a bundle of the task ``finder``, ``classical`` for thresholds and
        watershed, or one of your own.
    classifier
        Names them: the name or folder of a bundle, or one of your own; None leaves ``white cell``.
    subject_of
        Returns the subject of an image by its name.
    usual_microns_per_pixel
        Scale of the laboratory, for fields without a scale of their own.

    Yields
    ------
    FieldReading
        One per image, in their order. An image that cannot be read or searched has a reason; the others are still read.

    Raises
    ------
    UsageError
        ``microns_per_pixel`` is not positive, there is no such finder, no image is named, or a bundle names no cells of
        fields.
    BundleError
        A bundle is of another task, damaged or altered.
    """
    if microns_per_pixel is not None and not 0 < microns_per_pixel < 1000:
        raise UsageError(f"microns_per_pixel is {microns_per_pixel}; expected a positive number, such as 0.1")
    if isinstance(classifier, str | Path):
        from leukoscope.smear.naming import bundle_classifier

        classifier = bundle_classifier(classifier)
    reader = FieldSearch(microns_per_pixel, finder, classifier, usual_microns_per_pixel)
    waiting = deque[Source]()
    stream = _sources(sources, subject_of)
    while (source := waiting.popleft() if waiting else next(stream, None)) is not None:
        yield reader.read(source, waiting, stream)


def _sources(sources: Any, subject_of: Callable[[str], str | None]) -> Iterator[Source]:
    from leukoscope.inference.sources import iterate_sources

    several = isinstance(sources, Iterable) and not isinstance(sources, str | bytes | np.ndarray)
    for source in sources if several else [sources]:
        if isinstance(source, str | Path):
            yield from iterate_sources(
                [str(source)], subject_of=subject_of, limits=FIELD_LIMITS, suffixes=FIELD_SUFFIXES
            )
        else:
            yield from iterate_images(source)


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


class FieldSearch:
    """Searches one field after the other and remembers the red cells of the current smear.

    Parameters
    ----------
    microns_per_pixel, finder, classifier
        See ``read_smear``.
    """

    def __init__(
        self,
        microns_per_pixel: float | None = None,
        finder: "Finder | str | os.PathLike[str]" = FINDER_MODEL,
        classifier: CellClassifier | None = None,
        usual_microns_per_pixel: float | None = None,
    ) -> None:
        self._given, self._usual = microns_per_pixel, usual_microns_per_pixel
        named = isinstance(finder, str | os.PathLike) and finder != CLASSICAL
        self._finder: Any = load_finder(finder) if named else finder  # type: ignore[arg-type]
        self._classifier = classifier
        self._smear: tuple[str, int, int] | None = None
        self._sizes: dict[str, RedCellSize] = {}

    def read(self, source: Source, waiting: "deque[Source]", stream: Iterator[Source]) -> FieldReading:
        """Read one field; if it shows few red cells, those of the following fields of its smear are measured, too."""
        searched = self._search(source, waiting, stream)
        return searched if isinstance(searched, FieldReading) else self._describe(searched)

    def search(self, source: Source) -> SearchedField | FieldReading:
        """Search one field, independent of earlier ones; return a ``FieldReading`` with the reason if that failed."""
        self._smear, self._sizes = None, {}
        return self._search(source, deque(), iter(()))

    def _search(
        self, source: Source, waiting: "deque[Source]", stream: Iterator[Source]
    ) -> SearchedField | FieldReading:
        name = source.name
        model = None if self._classifier is None else self._classifier.model
        base = FieldRecord(
            image=name, smear=smear_of(name), subject=source.subject, finder=self._name, model=model
        )
        try:
            if isinstance(source.content, ImageError):
                raise source.content
            file = _open(source)
        except ImageError as error:
            return FieldReading(_rejected(base, error))
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
            whole = (0, 0, picture.height_px, picture.width_px)
            return FieldReading(
                _rejected(base, error), picture.read(whole, shrunk_shape(picture, OVERVIEW_PX))
            )

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
        shape = shrunk_shape(picture, OVERVIEW_PX)
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

    def _describe(self, searched: SearchedField) -> FieldReading:
        """Measure and name the cells of a field, and draw it."""
        picture, calibration, whole = searched.picture, searched.calibration, searched.cells
        scale, light, smudges = calibration.scale, calibration.light, searched.smudges
        calls = self._classifier.classify(picture, calibration, whole) if self._classifier else None
        records, crops = [], []
        touching = touching_cells(whole, _TOUCHING_UM / scale.value)
        for index, cell in enumerate(whole):
            rgb = picture.read(cell.box)
            measured = measure_cell(cell, light.optical_density(rgb, cell.box), scale.value)
            records.append(
                _cell_record(
                    index + 1,
                    cell,
                    measured,
                    calls[index] if calls is not None else None,
                    touches_cell=index in touching,
                )
            )
            around = _around(cell.box, picture, CROP_MARGIN_UM / scale.value)
            crops.append(light.normalize(picture.read(around), around))
        warnings = list(calibration.warnings)
        if smudges:
            warnings.append(f"{smudges} smudge cell{'s' if smudges > 1 else ''} seen and not counted")
        box = (0, 0, picture.height_px, picture.width_px)
        overview = light.normalize(picture.read(box, shrunk_shape(picture, OVERVIEW_PX)), box)
        record = searched.base.model_copy(
            update={
                "scale": _scale_record(scale),
                "stain": _stain_record(calibration),
                "edge_um": calibration.edge_um,
                "warnings": tuple(warnings),
                "cells": tuple(records),
                "smudge_cells": smudges,
            }
        )
        return FieldReading(record, overview, tuple(crops))


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


def _cell_record(
    number: int,
    cell: FoundCell,
    measured: dict[str, float | None],
    call: CellCall | None,
    *,
    touches_cell: bool,
) -> CellRecord:
    call = call or CellCall("white cell")
    edge = measured.get("edge_width_um")
    sharp = edge is None or edge <= SHARP_UM
    reasons = [*call.reasons]
    if cell.touches_border:
        reasons.append("cut_off")
    if not sharp:
        reasons.append("blurred")
    offset = np.array(cell.box[:2])
    return CellRecord(
        cell=number,
        box=cell.box,
        outline=_rings(cell.cell, offset),
        nucleus_outline=_rings(cell.nucleus, offset),
        score=round(cell.score, 4),
        kind=call.kind,
        kind_probability=call.kind_probability,
        blast_probability=call.blast_probability,
        immature_probability=call.immature_probability,
        prediction_set=call.prediction_set,
        decision=call.decision,
        reasons=tuple(reasons),
        touches_border=cell.touches_border,
        touches_cell=touches_cell,
        in_focus=sharp,
        measurements={name: None if value is None else round(value, 5) for name, value in measured.items()},
    )


def _rings(mask: NDArray[np.bool_], offset: NDArray[np.intp]) -> tuple[tuple[tuple[int, int], ...], ...]:
    return tuple(tuple((int(y), int(x)) for y, x in ring + offset) for ring in trace_outlines(mask))


def _around(box: tuple[int, int, int, int], picture: Picture, margin_px: float) -> tuple[int, int, int, int]:
    margin = round(margin_px)
    return (
        max(0, box[0] - margin), max(0, box[1] - margin),
        min(picture.height_px, box[2] + margin), min(picture.width_px, box[3] + margin),
    )  # fmt: skip


def _scale_record(scale: Scale) -> ScaleRecord:
    return ScaleRecord(
        value=scale.value,
        source=scale.source.value,
        n_red_cells=scale.n_red_cells,
        interval=scale.interval,
        measured=scale.measured,
        by_patch=scale.by_patch,
        detail=scale.detail,
    )


def _stain_record(calibration: Calibration) -> StainRecord:
    stain, light = calibration.stain, calibration.light
    return StainRecord(
        background_rgb=stain.background_rgb,
        unevenness=max(1.0, light.unevenness),
        background_share=light.background_share,
        red_cells_od=stain.red_cells,
        nuclei_od=stain.nuclei,
        n_pixels=stain.n_pixels,
        distances=stain.distances(),
    )
