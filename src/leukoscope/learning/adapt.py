"""A laboratory profile: what images of one laboratory tell of its scale, light, stain and cells."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import UsageError
from leukoscope.core.text import TextError, read_table
from leukoscope.inference.cells import Prediction, Source
from leukoscope.inference.predictor import Predictor
from leukoscope.learning.refit import refit_head
from leukoscope.models.profile import EmbeddingStatistics, HeadCorrection, LaboratoryProfile, Surroundings
from leukoscope.smear.calibrate import Calibration
from leukoscope.smear.finder import FoundCell
from leukoscope.smear.naming import BundleClassifier
from leukoscope.smear.picture import Picture
from leukoscope.smear.reading import CellCall, FieldReading, read_smear
from leukoscope.smear.records import FieldRecord

LEAST_CELLS = 20
ENOUGH_CELLS = 100
PRIOR_CELLS = 50
"""How many cells of the laboratory weigh as much as the training cells in the mean of its embeddings."""
FAR_SHARE = 0.2
COLUMNS = ("image", "label")

UNSHIFTED = (
    "embedding statistics are for the detection of drift; they do not change predictions: no correction by unlabeled "
    "cells has proved to help in laboratories left out of training"
)

Key = tuple[str, int]
"""Image and number of the cell in it, as in ``cells.csv``; 0 for an image that was taken as one cell."""


@dataclass
class Gathered:
    """Cells of a laboratory with the outputs of the network.

    Attributes
    ----------
    keys
        N of them.
    embeddings, logits
        float32 (D,) and (K,) for each, logits of the bundle's own head.
    fields
        Fields that were searched.
    rejected
        Images from which nothing came, with the reason.
    """

    keys: list[Key] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    fields: list[FieldRecord] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)


class _Collector(BundleClassifier):
    """Keeps embedding and logits of each cell of the field that was read last."""

    found: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def classify(
        self, picture: Picture, calibration: Calibration, cells: Sequence[FoundCell]
    ) -> Sequence[CellCall]:
        """Return unnamed calls: a profile needs no names."""
        self.found = None
        crops = list(self.crops(picture, calibration.scale.value, cells))
        if crops:
            answer = self.predictor.session.run(np.stack(crops))
            self.found = answer.embedding, answer.logits
        return [CellCall("white cell") for _ in crops]


def adapt(
    sources: Any,
    predictor: Predictor,
    *,
    name: str,
    corrections: Mapping[Key, str] | None = None,
    microns_per_pixel: float | None = None,
    single_cells: bool = False,
) -> LaboratoryProfile:
    """Make the profile of a laboratory.

    Parameters
    ----------
    sources
        Fields, as ``read_smear`` takes them; with ``single_cells`` images of one uncut cell each.
    predictor
        Of the bundle that the profile is for.
    name
        Of the laboratory.
    corrections
        Label of corrected cells, see ``read_corrections``; the head is refitted where that proves to help.
    microns_per_pixel
        Scale of all images; None takes what each tells.
    single_cells
        Take each image as one cell.

    Raises
    ------
    UsageError
        Fewer than 20 cells, a label that is no class, a correction of a cell that was not found.
    """
    gathered = (
        gather_single_cells(sources, predictor, microns_per_pixel)
        if single_cells
        else gather_fields(sources, predictor, microns_per_pixel)
    )
    if len(gathered.keys) < LEAST_CELLS:
        rejected = (
            f", {len(gathered.rejected)} images rejected ({gathered.rejected[0][1]})"
            if gathered.rejected
            else ""
        )
        raise UsageError(
            f"{len(gathered.keys)} cells found{rejected}; a profile needs {LEAST_CELLS}, better {ENOUGH_CELLS}: "
            "give more images of the same laboratory"
        )
    embeddings = np.stack(gathered.embeddings).astype(np.float64)
    statistics, remarks = embedding_statistics(embeddings, predictor)
    head, remark = _refit(gathered, embeddings, corrections or {}, predictor)
    scales = [record.scale.value for record in gathered.fields if record.scale is not None]
    scale = microns_per_pixel or (float(np.median(scales)) if scales else None)
    if scales and max(scales) > 1.25 * min(scales):
        remarks.append(
            f"scales differ ({min(scales):.3g} to {max(scales):.3g} um a pixel): are all images of one microscope?"
        )
    return LaboratoryProfile(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=predictor.bundle.manifest.name,
        model_sha256=predictor.bundle.model_sha256,
        microns_per_pixel=scale,
        surroundings=surroundings_of(gathered.fields),
        embedding=statistics,
        head=head,
        remarks=(*remarks, remark),
    )


def gather_fields(sources: Any, predictor: Predictor, microns_per_pixel: float | None) -> Gathered:
    """Find the cells of fields and ask the network about each."""
    collector, gathered = _Collector(predictor), Gathered()
    for reading in read_smear(sources, microns_per_pixel=microns_per_pixel, classifier=collector):
        _add(gathered, reading, collector)
    return gathered


def _add(gathered: Gathered, reading: FieldReading, collector: _Collector) -> None:
    record = reading.record
    if record.rejected:
        gathered.rejected.append((record.image, record.message or str(record.reason)))
        return
    gathered.fields.append(record)
    if record.cells and collector.found is not None:
        embeddings, logits = collector.found
        for cell, embedding, row in zip(record.cells, embeddings, logits, strict=True):
            if not cell.touches_border:
                gathered.keys.append((record.image, cell.cell))
                gathered.embeddings.append(embedding)
                gathered.logits.append(row)


def gather_single_cells(
    sources: Iterable[Source], predictor: Predictor, microns_per_pixel: float | None
) -> Gathered:
    """Ask the network about images of one cell each."""
    opened = Predictor(predictor.bundle, predictor.session, microns_per_pixel=microns_per_pixel)
    gathered = Gathered()
    for source in sources:
        prepared = opened.prepare(source)
        if isinstance(prepared, Prediction):
            gathered.rejected.append((source.name, prepared.reasons[0].message))
            continue
        if prepared.refusals:
            gathered.rejected.append((source.name, prepared.refusals[0].message))
            continue
        answer = opened.session.run(prepared.cell[None])
        gathered.keys.append((source.name, 0))
        gathered.embeddings.append(answer.embedding[0])
        gathered.logits.append(answer.logits[0])
    return gathered


def embedding_statistics(
    embeddings: NDArray[np.float64], predictor: Predictor
) -> tuple[EmbeddingStatistics, list[str]]:
    """Return the statistics of embeddings (N, D), and remarks on them."""
    novelty = predictor.bundle.novelty
    scores = novelty.score(embeddings) / predictor.bundle.decision.novelty.limit
    shrinkage = PRIOR_CELLS / (PRIOR_CELLS + len(embeddings))
    mean = _training_mean(predictor, embeddings) * shrinkage + embeddings.mean(axis=0) * (1 - shrinkage)
    statistics = EmbeddingStatistics(
        cells=len(embeddings),
        mean=tuple(float(f"{value:.6g}") for value in mean),
        shrinkage=shrinkage,
        novelty_median=float(np.median(scores)),
        novel_share=float((scores > 1).mean()),
    )
    remarks = [UNSHIFTED]
    if len(embeddings) < ENOUGH_CELLS:
        remarks.append(f"{len(embeddings)} cells only; {ENOUGH_CELLS} make the statistics steady")
    if statistics.novel_share > FAR_SHARE:
        remarks.append(
            f"{statistics.novel_share:.0%} of the cells are unlike the training cells: this laboratory is far from "
            "those of the bundle; correct cells and make the profile again"
        )
    return statistics, remarks


def _training_mean(predictor: Predictor, embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of the training cells; of a model of directions at the length of these embeddings."""
    novelty = predictor.bundle.novelty
    mean = novelty.mean.astype(np.float64)
    return mean * float(np.linalg.norm(embeddings, axis=1).mean()) if novelty.normalized else mean


def _refit(
    gathered: Gathered, embeddings: NDArray[np.float64], corrections: Mapping[Key, str], predictor: Predictor
) -> tuple[HeadCorrection | None, str]:
    if not corrections:
        return None, "no corrected cells were given: the head is the bundle's own"
    places = {key: row for row, key in enumerate(gathered.keys)}
    missing = [key for key in corrections if key not in places]
    if missing:
        image, number = missing[0]
        raise UsageError(
            f"{len(missing)} corrected cells were not found, the first is {image}"
            + (f", cell {number}" if number else "")
            + "; name images and cells as in cells.csv of leukoscope smear, and give the same images and scale"
        )
    classes: ClassSchema = predictor.classes
    rows = [places[key] for key in corrections]
    labels = np.array([_class_index(classes, label) for label in corrections.values()], np.int64)
    return refit_head(
        embeddings[rows],
        np.stack([gathered.logits[row] for row in rows]),
        labels,
        classes,
        center=_training_mean(predictor, embeddings),
    )


def _class_index(classes: ClassSchema, label: str) -> int:
    try:
        return classes.index(label)
    except ValueError:
        raise UsageError(f"label {label!r}: expected one of {', '.join(classes.names)}") from None


def surroundings_of(records: Sequence[FieldRecord]) -> Surroundings:
    """Return medians over fields."""
    stains = [record.stain for record in records if record.stain is not None]
    if not stains:
        return Surroundings(fields=len(records))
    nuclei = [stain.nuclei_od for stain in stains if stain.nuclei_od is not None]
    return Surroundings(
        fields=len(records),
        background_rgb=_median([stain.background_rgb for stain in stains]),
        unevenness=float(np.median([stain.unevenness for stain in stains])),
        red_cells_od=_median([stain.red_cells_od for stain in stains]),
        nuclei_od=_median(nuclei) if nuclei else None,
    )


def _median(values: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    red, green, blue = np.median(np.array(values, np.float64), axis=0).tolist()
    return red, green, blue


def read_corrections(path: Path) -> dict[Key, str]:
    """Read corrected cells: columns ``image``, ``label`` and, for fields, ``cell`` (its number in ``cells.csv``).

    A table of ``leukoscope smear`` with a column ``label`` added will do; rows without a label are left out.

    Raises
    ------
    UsageError
        The file cannot be read, lacks a column, or names a cell twice with different labels.
    """
    try:
        table = read_table(path)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); name a CSV file of corrected cells"
        ) from None
    except TextError as error:
        raise UsageError(str(error)) from None
    missing = [name for name in COLUMNS if table.find([name]) is None]
    if missing:
        raise UsageError(f"{path}: column {', '.join(missing)} missing; give columns image, cell and label")
    found: dict[Key, str] = {}
    for row in table.rows:
        if not row.fields["label"]:
            continue
        number = row.fields.get("cell", "") or "0"
        if not number.isdecimal():
            raise UsageError(
                f"{path}, line {row.line}: cell {number!r}; expected its number in cells.csv, or nothing"
            )
        key, label = (row.fields["image"], int(number)), row.fields["label"]
        if found.setdefault(key, label) != label:
            raise UsageError(f"{path}, line {row.line}: {key[0]}, cell {key[1]} has two labels; keep one")
    return found
