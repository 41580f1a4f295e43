"""Make a training cohort from fields: one image per cell, with label and subject, as ``data import`` reads it."""

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import CohortError, ImageError
from leukoscope.core.io import OutputFile
from leukoscope.core.terms import Reason
from leukoscope.imaging.canvas import CANVAS_PX, CANVAS_UM
from leukoscope.inference.cells import Source
from leukoscope.smear.annotations import Annotation, Annotations
from leukoscope.smear.calibrate import Calibration, calibrate_field, survey_field
from leukoscope.smear.crops import crop_cell
from leukoscope.smear.exports import file_stem, write_picture
from leukoscope.smear.files import FieldFile, open_field
from leukoscope.smear.finder import Finder, Instance
from leukoscope.smear.finder_network import load_finder
from leukoscope.smear.tiling import find_cells

UNCUT_UM, UNCUT_PX = 0.1, 250
"""Scale and side of an uncut crop: 25 micrometers with the surroundings."""
TABLE = "cells.csv"
_LEAST_SIDE_UM = 3.0
_NO_WHITE_CELLS = frozenset({"rbc", "red blood cell", "red cell", "erythrocyte", "platelet", "platelets"})
"""Classes of annotation files that are no nucleated cells; they are left out."""


@dataclass(frozen=True)
class CutSettings:
    """What a crop is.

    Attributes
    ----------
    canonical
        The cell alone on the black canvas of ``CANVAS_PX``, at ``CANVAS_UM``; else uncut with its surroundings.
    unlabeled
        Cut found cells that no annotation names, too.
    border
        Cut cells that the edge of the field cuts, too.
    """

    canonical: bool = False
    unlabeled: bool = False
    border: bool = False


@dataclass
class CutReport:
    """Cut and skipped cells.

    Attributes
    ----------
    fields, cells
        Counts.
    labels
        Cells by label.
    odd
        File and reason of everything that was skipped.
    rejected
        Files that could not be read or searched.
    system_files, skipped
        Files and folders of an operating system, and others that are no images by their name; left out.
    """

    fields: int = 0
    rejected: int = 0
    system_files: int = 0
    skipped: int = 0
    cells: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    odd: list[tuple[str, str]] = field(default_factory=list)


def cut_cohort(
    images: Iterable[Source],
    out: Path,
    annotations: Annotations,
    *,
    settings: CutSettings | None = None,
    subject_of: Callable[[str], str | None] = lambda _: None,
    microns_per_pixel: float | None = None,
    finder: Finder | None = None,
) -> CutReport:
    """Cut the cells of fields and write them with a table (``file``, ``label``, ``subject``).

    Parameters
    ----------
    images
        Fields: files, or what kept them from being read. Members of archives are rejected, since annotations stand
        beside files.
    out
        Folder: one PNG a cell below ``LABEL/``, and ``cells.csv``.
    annotations
        Boxes and classes. A box takes the outline that the finder has in it; without one the box itself is cut (uncut
        crops only).
    settings, subject_of, microns_per_pixel, finder
        See ``CutSettings``; None measures the scale and takes the shipped network.
    """
    settings = settings or CutSettings()
    report = CutReport()
    out.mkdir(parents=True, exist_ok=True)
    with OutputFile(out / TABLE) as table:
        rows = csv.writer(table.stream, lineterminator="\n")
        rows.writerow(
            ("file", "label", "subject", "field", "y0_px", "x0_px", "y1_px", "x1_px", "microns_per_pixel")
        )
        for number, source in enumerate(images, 1):
            try:
                path = _path_of(source)
                file = open_field(path)
                survey = survey_field(file.picture)
                calibration = calibrate_field(
                    file.picture, survey, given=microns_per_pixel, metadata=file.scale
                )
                marked = annotations.of(path, file.picture.width_px, file.picture.height_px)
            except (ImageError, CohortError) as error:
                report.odd.append((source.name, str(error)))
                report.rejected += 1
                continue
            report.fields += 1
            found = find_cells(
                file.picture,
                calibration.light,
                finder or load_finder(),
                calibration.scale.value,
            )
            stem, subject = file_stem(number, path.name), subject_of(str(path)) or ""
            for index, (label, cell) in enumerate(
                _pair(found, marked, path, calibration, settings, report), 1
            ):
                name = Path(_folder(label)) / f"{stem}_{index:04d}.png"
                write_picture(out / name, _crop(file, cell, calibration, settings))
                row = (
                    name.as_posix(),
                    label,
                    subject,
                    str(path),
                    *cell.box,
                    f"{calibration.scale.value:.6f}",
                )
                rows.writerow(row)
                report.cells += 1
                report.labels[label] = report.labels.get(label, 0) + 1
    return report


def _path_of(source: Source) -> Path:
    if isinstance(source.content, ImageError):
        raise source.content
    if not isinstance(source.content, Path):
        raise ImageError(
            Reason.NOT_A_FILE,
            "this is no file of its own; unpack the archive, annotations are looked for beside the image",
        )
    return source.content


def _pair(  # noqa: PLR0917
    found: list[Instance],
    marked: list[Annotation] | None,
    path: Path,
    calibration: Calibration,
    settings: CutSettings,
    report: CutReport,
) -> list[tuple[str, Instance]]:
    """Give each annotation its outline; each outline goes to the box that it fills best."""
    height, width = calibration.light.size
    pairs: list[tuple[str, Instance]] = []
    taken: set[int] = set()
    for annotation in marked or ():
        if annotation.label.casefold() in _NO_WHITE_CELLS:
            continue
        box = _clipped(annotation.box, height, width)
        if box is None or min(box[2] - box[0], box[3] - box[1]) * calibration.scale.value < _LEAST_SIDE_UM:
            report.odd.append(
                (str(path), f"box {tuple(map(round, annotation.box))} is smaller than a cell or outside")
            )
            continue
        overlaps = [
            (_overlap(cell.box, box), index) for index, cell in enumerate(found) if index not in taken
        ]
        best, index = max(overlaps, default=(0.0, -1))
        if best >= 0.4:
            taken.add(index)
            cell = found[index]
        elif settings.canonical:
            report.odd.append((str(path), f"box {box}: no outline was found in it, so it cannot be cut out"))
            continue
        else:
            mask = np.ones((box[2] - box[0], box[3] - box[1]), np.bool_)
            edge = box[0] <= 0 or box[1] <= 0 or box[2] >= height or box[3] >= width
            cell = Instance(box, mask, mask, 1.0, edge)
        pairs.append((annotation.label, cell))
    if marked is None or settings.unlabeled:
        pairs += [("", cell) for index, cell in enumerate(found) if index not in taken and cell.score >= 0.5]
    return [(label, cell) for label, cell in pairs if settings.border or not cell.touches_border]


def _crop(
    file: FieldFile, cell: Instance, calibration: Calibration, settings: CutSettings
) -> NDArray[np.uint8]:
    """Return the crop of a cell at the fixed scale, background set to white, or cut out on black."""
    target, side = (CANVAS_UM, CANVAS_PX) if settings.canonical else (UNCUT_UM, UNCUT_PX)
    return crop_cell(file.picture, cell, calibration, target, side, cut_out=settings.canonical)


def _clipped(
    box: tuple[float, float, float, float], height: int, width: int
) -> tuple[int, int, int, int] | None:
    y0, x0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    y1, x1 = min(height, math.ceil(box[2])), min(width, math.ceil(box[3]))
    return (y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Return the intersection of two boxes by their union."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    if height <= 0 or width <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return height * width / (sum(areas) - height * width)


def _folder(label: str) -> str:
    safe = "".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in label).strip()
    return safe or "unlabeled"
