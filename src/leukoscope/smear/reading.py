"""Read smears: find the white cells of fields, one field at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import UsageError
from leukoscope.inference.cells import Source
from leukoscope.inference.inputs import iterate_images
from leukoscope.models.registry import FINDER_MODEL, KINDS_MODEL
from leukoscope.smear.calibrate import SHARP_UM, Calibration
from leukoscope.smear.files import FIELD_LIMITS, FIELD_SUFFIXES
from leukoscope.smear.finder import Finder, FoundCell
from leukoscope.smear.measure import measure_cell, touching_cells
from leukoscope.smear.picture import Picture, shrunk_shape
from leukoscope.smear.raster import trace_outlines
from leukoscope.smear.records import CellRecord, FieldRecord, ScaleRecord, StainRecord, State
from leukoscope.smear.scale import Scale
from leukoscope.smear.search import FieldSearch, RejectedField, SearchedField

OVERVIEW_PX = 1400
CROP_MARGIN_UM = 3.0

_TOUCHING_UM = 0.4  # outlines nearer than this touch


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
    search = FieldSearch(microns_per_pixel, finder, usual_microns_per_pixel)
    waiting = deque[Source]()
    stream = _sources(sources, subject_of)
    while (source := waiting.popleft() if waiting else next(stream, None)) is not None:
        yield _describe(search.search_next(source, waiting, stream), classifier)


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


def _describe(searched: SearchedField | RejectedField, classifier: CellClassifier | None) -> FieldReading:
    """Measure and name the cells of a field, and draw it."""
    model = None if classifier is None else classifier.model
    if isinstance(searched, RejectedField):
        overview = None if searched.picture is None else _overview(searched.picture)
        return FieldReading(searched.record.model_copy(update={"model": model}), overview)
    picture, calibration, whole = searched.picture, searched.calibration, searched.cells
    scale, light, smudges = calibration.scale, calibration.light, searched.smudges
    calls = classifier.classify(picture, calibration, whole) if classifier else None
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
            "model": model,
            "scale": _scale_record(scale),
            "stain": _stain_record(calibration),
            "edge_um": calibration.edge_um,
            "warnings": tuple(warnings),
            "cells": tuple(records),
            "smudge_cells": smudges,
        }
    )
    return FieldReading(record, overview, tuple(crops))


def _overview(picture: Picture) -> NDArray[np.uint8]:
    whole = (0, 0, picture.height_px, picture.width_px)
    return picture.read(whole, shrunk_shape(picture, OVERVIEW_PX))


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
