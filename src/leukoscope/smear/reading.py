"""Read smears: find the white cells of fields, one field at a time."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import ImageError, UsageError
from leukoscope.core.terms import Reason
from leukoscope.imaging.overlay import encode_png
from leukoscope.inference.cells import Source
from leukoscope.inference.inputs import iterate_images
from leukoscope.models.registry import KINDS_MODEL
from leukoscope.smear.calibrate import SHARP_UM, Calibration, Survey, calibrate_field, survey_field
from leukoscope.smear.files import FIELD_LIMITS, FIELD_SUFFIXES, FieldFile, open_field
from leukoscope.smear.finder import ClassicalFinder, Finder, FoundCell
from leukoscope.smear.finder_network import RED_CELL_UM, NetworkFinder, default_finder
from leukoscope.smear.measure import measure_cell
from leukoscope.smear.picture import Picture, shrunk_shape
from leukoscope.smear.raster import trace_outlines
from leukoscope.smear.records import CellRecord, FieldRecord, ScaleRecord, StainRecord, State
from leukoscope.smear.scale import RedCellSize, Scale, ScaleSource, pool_red_cells, scale_of
from leukoscope.smear.tiling import find_cells

LEAST_SCORE = 0.5
OVERVIEW_PX = 1400
CROP_MARGIN_UM = 3.0

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
    finder: "Finder | Literal['network', 'classical']" = "network",
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
        Finds the cells: the shipped network, the classical finder, or one of your own.
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
        ``microns_per_pixel`` is not positive, no image is named, or a bundle names no cells of fields.
    """
    if microns_per_pixel is not None and not 0 < microns_per_pixel < 1000:
        raise UsageError(f"microns_per_pixel is {microns_per_pixel}; expected a positive number, such as 0.1")
    if isinstance(classifier, str | Path):
        from leukoscope.smear.naming import bundle_classifier

        classifier = bundle_classifier(classifier)
    reader = _Reader(microns_per_pixel, finder, classifier, usual_microns_per_pixel)
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


class _Reader:
    """Reads one field after the other and remembers the red cells of the current smear."""

    def __init__(
        self,
        microns_per_pixel: float | None,
        finder: "Finder | str",
        classifier: CellClassifier | None,
        usual: float | None = None,
    ) -> None:
        self._given = microns_per_pixel
        self._usual = usual
        if isinstance(finder, str) and finder not in ("network", "classical"):
            raise UsageError(f"finder {finder!r}: expected 'network' or 'classical'")
        self._finder: Any = default_finder() if finder == "network" else finder
        self._classifier = classifier
        self._smear: tuple[str, int, int] | None = None
        self._sizes: dict[str, RedCellSize] = {}

    def read(self, source: Source, waiting: "deque[Source]", stream: Iterator[Source]) -> FieldReading:
        name = source.name
        model = None if self._classifier is None else self._classifier.model
        base = FieldRecord(
            image=name, smear=smear_of(name), subject=source.subject, finder=self._name, model=model
        )
        try:
            if isinstance(source.content, ImageError):
                raise source.content
            file = open_field(_content(source))
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
            return self._search(base, picture, calibration)
        except ImageError as error:
            whole = (0, 0, picture.height_px, picture.width_px)
            return FieldReading(
                _rejected(base, error), picture.read(whole, shrunk_shape(picture, OVERVIEW_PX))
            )

    @property
    def _name(self) -> str:
        return "classical" if self._finder == "classical" else str(getattr(self._finder, "name", "finder"))

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

    def _search(self, base: FieldRecord, picture: Picture, calibration: Calibration) -> FieldReading:
        scale, stain, light = calibration.scale, calibration.stain, calibration.light
        finder = ClassicalFinder(stain) if self._finder == "classical" else self._finder
        found = find_cells(picture, light, finder, scale.value)
        found = [cell for cell in found if cell.score >= LEAST_SCORE]
        if found and not stain.n_pixels and stain.nuclei is None:
            raise ImageError(
                Reason.NOT_A_SMEAR,
                "nothing on the background has the colors of red cells or of nuclei; "
                "give a photograph of a stained blood smear",
            )
        whole = [cell for cell in found if cell.smudge < 0.5]
        smudges = len(found) - len(whole)
        calls = self._classifier.classify(picture, calibration, whole) if self._classifier else None
        records, crops = [], []
        for index, cell in enumerate(whole):
            rgb = picture.read(cell.box)
            measured = measure_cell(cell, light.optical_density(rgb, cell.box), scale.value)
            records.append(
                _cell_record(index + 1, cell, measured, calls[index] if calls is not None else None)
            )
            around = _around(cell.box, picture, CROP_MARGIN_UM / scale.value)
            crops.append(light.normalize(picture.read(around), around))
        warnings = list(calibration.warnings)
        if smudges:
            warnings.append(f"{smudges} smudge cell{'s' if smudges > 1 else ''} seen and not counted")
        box = (0, 0, picture.height_px, picture.width_px)
        overview = light.normalize(picture.read(box, shrunk_shape(picture, OVERVIEW_PX)), box)
        record = base.model_copy(
            update={
                "scale": _scale_record(scale),
                "stain": _stain_record(calibration),
                "edge_um": calibration.edge_um,
                "warnings": tuple(warnings),
                "cells": tuple(records),
            }
        )
        return FieldReading(record, overview, tuple(crops))


def _content(source: Source) -> bytes | Path:
    """Return the file of a source; an array is a field without metadata, as a PNG file."""
    if isinstance(source.content, np.ndarray):
        return encode_png(source.content, compress_level=0)
    assert not isinstance(source.content, ImageError)  # noqa: S101 - the caller has looked
    return source.content


def smear_of(name: str) -> str:
    """Return the folder of an image: fields of one smear lie in one folder."""
    return name.replace("\\", "/").rpartition("/")[0]


def _size_ahead(source: Source, key: tuple[str, int, int]) -> RedCellSize | None:
    """Measure the red cells of a field of the same smear and size; None for other images."""
    if isinstance(source.content, ImageError) or smear_of(source.name) != key[0]:
        return None
    try:
        picture = open_field(_content(source)).picture
        if (picture.width_px, picture.height_px) != key[1:]:
            return None
        return survey_field(picture).red_cells
    except ImageError:
        return None


def _rejected(base: FieldRecord, error: ImageError) -> FieldRecord:
    return base.model_copy(update={"reason": error.reason, "message": str(error)})


def _cell_record(
    number: int, cell: FoundCell, measured: dict[str, float | None], call: CellCall | None
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
