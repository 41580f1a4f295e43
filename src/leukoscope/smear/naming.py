"""Naming the cells of a field with a bundle of kinds: one crop a cell, at the bundle's scale."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.classes import ClassSchema
from leukoscope.core.errors import UsageError
from leukoscope.core.terms import Status
from leukoscope.inference.cells import Prediction
from leukoscope.inference.predictor import Predictor
from leukoscope.models.registry import KINDS_MODEL
from leukoscope.smear.calibrate import Calibration
from leukoscope.smear.count import UNNAMED
from leukoscope.smear.crops import crop_surroundings
from leukoscope.smear.finder import FoundCell
from leukoscope.smear.picture import Picture
from leukoscope.smear.reading import CellCall

IMMATURE_GROUP = "immature_white_cell"


class BundleClassifier:
    """Names cells with a bundle of the task ``kinds``.

    Parameters
    ----------
    predictor
        Of such a bundle.

    Raises
    ------
    UsageError
        The bundle is for cut-out cells, or says no scale.
    """

    def __init__(self, predictor: Predictor) -> None:
        manifest = predictor.bundle.manifest
        scale = manifest.domain.microns_per_pixel
        if manifest.task != "kinds" or manifest.domain.form != "uncut" or scale is None:
            raise UsageError(
                f"bundle {manifest.name}: it is of task {manifest.task} for {manifest.domain.form} cells, and fields "
                f"need task kinds for uncut cells with a scale; name another with --bundle, such as {KINDS_MODEL}"
            )
        self.predictor = predictor
        self._scale, self._side = scale, manifest.canvas_px

    @classmethod
    def open(cls, bundle: str | Path | None = None, profile: Path | None = None) -> Self:
        """Open a bundle by name or folder, None takes the shipped one; and a laboratory profile."""
        name = KINDS_MODEL if bundle is None else bundle
        return cls(Predictor.open(name, streaming=True, profile=profile))

    @property
    def model(self) -> str:
        """Name, version and digest of the bundle, and of the profile."""
        model = self.predictor.model
        profile = f", profile {self.predictor.profile.reference}" if self.predictor.profile else ""
        return f"{model.name} {model.version} {model.sha256[:12]}{profile}"

    @property
    def classes(self) -> ClassSchema:
        """The classes that cells are called."""
        return self.predictor.classes

    def classify(
        self, picture: Picture, calibration: Calibration, cells: Sequence[FoundCell]
    ) -> Sequence[CellCall]:
        """Return one call a cell, in their order."""
        crops = self.crops(picture, calibration.scale.value, cells)
        return [call_of(prediction, self.classes) for prediction in self.predictor.stream(crops)]

    def crops(
        self, picture: Picture, microns_per_pixel: float, cells: Sequence[FoundCell]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield uint8 (S, S, 3) around each cell, at the scale of the bundle."""
        for cell in cells:
            yield crop_surroundings(picture, cell, microns_per_pixel, self._scale, self._side)


@lru_cache(maxsize=2)
def bundle_classifier(bundle: str | Path) -> BundleClassifier:
    """Return the classifier of a bundle, opened at the first call."""
    return BundleClassifier.open(bundle)


def call_of(prediction: Prediction, classes: ClassSchema) -> CellCall:
    """Return what a prediction says of a cell.

    The kind of an uncertain cell is its likeliest class; a rejected cell has none.
    """
    result = prediction.result
    if result.status is Status.REJECTED:
        return CellCall(
            UNNAMED, decision="rejected", reasons=tuple(str(reason.code) for reason in result.reasons)
        )
    shares = result.probabilities
    kind = result.label or max(shares, key=lambda name: shares[name])
    immature = None
    if IMMATURE_GROUP in {group.name for group in classes.groups}:
        immature = min(1.0, sum(shares[classes.names[member]] for member in classes.members(IMMATURE_GROUP)))
    return CellCall(
        kind,
        kind_probability=shares[kind],
        blast_probability=result.probability,
        immature_probability=immature,
        prediction_set=result.prediction_set,
        decision="called" if result.status is Status.CALLED else "uncertain",
        reasons=tuple(str(reason.code) for reason in result.reasons),
    )
