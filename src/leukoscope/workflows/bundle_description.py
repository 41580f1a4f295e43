"""Texts of a bundle's manifest about the training cells and the network."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leukoscope.core.errors import UsageError
from leukoscope.core.text import read_text

if TYPE_CHECKING:
    from leukoscope.core.classes import ClassSchema
    from leukoscope.models.manifest import LicenseRecord
    from leukoscope.training.networks.network import CellNetwork

CNMC = "C-NMC 2019, The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r, AIIMS New Delhi"
CNMC_LICENSE = "CC-BY-3.0"
NO_DIAGNOSIS = "Not for diagnosis, screening or treatment decisions."
ONE_LABEL = (
    "Every training subject carries one label only, so that stain, session and person are confounded with the class; "
    "the effective sample is the number of subjects, not of cells."
)
HEAT_MAP = "A heat map shows what moved the logit, not what a hematologist would look at."


@dataclass(frozen=True)
class Words:
    """Texts of a bundle that depend on the training cells."""

    name: str
    title: str
    intended_use: str
    limitations: tuple[str, ...]


CNMC_TEXTS = Words(
    "leukoscope-cnmc",
    "B-ALL lymphoblasts against normal precursors",
    "Research and teaching on single cell images: telling B-ALL lymphoblasts from normal B-lymphoid precursors in "
    "images prepared as C-NMC 2019 (one cell, cut out on a black 450 x 450 canvas, Jenner-Giemsa stain). "
    f"{NO_DIAGNOSIS}",
    (
        "All training cells come from one center. Other microscopes, stains and ways of cutting cells out are "
        "untested.",
        "Cell size alone separates the classes to a large part; read every result beside the area-alone baseline.",
        "Normal cells here are B-lymphoid precursors. Mature cells and other lineages were not trained on and are "
        "meant to be refused as novel, which is not certain.",
    ),
)
OTHER_TEXTS = Words(
    "leukoscope-model",
    "Blasts against normal cells",
    "Research and teaching on single cell images: telling the blasts from the normal cells of the training table, in "
    f"images prepared alike (one cell, cut out on a black 450 x 450 canvas). {NO_DIAGNOSIS}",
    (
        "Microscopes, stains and ways of cutting cells out that the training cells do not show are untested.",
        "Cell size alone may separate the classes; compare every result with the area-alone baseline.",
        "Kinds of cells that were not trained on are meant to be refused as novel, which is not certain.",
    ),
)


@dataclass(frozen=True)
class TrainingData:
    """Description of the training cells of a model.

    Parameters
    ----------
    official
        Every one of them is a file of C-NMC 2019, by its digest.
    subjects, both_labels
        Number of subjects, and of those with cells of both classes.
    license_text
        Text of the data's license; None for that of C-NMC, or for none stated.
    attribution
        Attribution; empty for cells of C-NMC, or if none is given.
    """

    official: bool
    subjects: int
    both_labels: int
    license_text: str | None = None
    attribution: str = ""

    @property
    def words(self) -> Words:
        """Return the texts for such a model."""
        return CNMC_TEXTS if self.official else OTHER_TEXTS

    def words_for(self, classes: "ClassSchema") -> Words:
        """Return the same for a model of these classes."""
        from leukoscope.core.classes import BINARY

        if classes == BINARY:
            return self.words
        listed = ", ".join(entry.title.lower() for entry in classes.classes)
        return Words(
            OTHER_TEXTS.name,
            "Kinds of cells",
            f"Research and teaching on single cell images: classification of the training table's classes ({listed}), "
            f"in images prepared alike. {NO_DIAGNOSIS}",
            OTHER_TEXTS.limitations,
        )

    @property
    def limitations(self) -> tuple[str, ...]:
        """Return the limitations."""
        labels = ONE_LABEL
        if self.both_labels:
            labels = (
                f"{self.both_labels} of {self.subjects} training subjects have cells of both classes; "
                "the effective sample is the number of subjects, not of cells."
            )
        return (labels, *self.words.limitations, HEAT_MAP)


def read_training_data(run: Path, license_text: Path | None, attribution: str) -> TrainingData:
    """Describe the training cells from the table and the options."""
    import pandas as pd

    from leukoscope.data.official import official_by_sha256

    scores = pd.read_csv(run / "scores.csv", dtype={"subject": str, "group": str}, keep_default_na=False)
    trained = scores[scores["part"] == "train"]
    people = trained["subject"].where(trained["subject"] != "", trained["group"])
    labels = trained.groupby(people)["label"].nunique()
    return TrainingData(
        official=set(trained["sha256"]) <= official_by_sha256().keys(),
        subjects=len(labels),
        both_labels=int((labels > 1).sum()),
        license_text=None if license_text is None else read_license(license_text),
        attribution=attribution,
    )


def data_license_text(data: TrainingData) -> str:
    """Return the licenses of the training data and of the sample cells, which are always from C-NMC."""
    from leukoscope import assets

    sample = (assets.sample_cells_directory() / "ATTRIBUTION.md").read_text(encoding="utf-8")
    if data.official:
        return data.license_text or sample
    return f"{data.license_text or 'The license of the training data was not stated.'}\n\n{sample}"


def license_records(data: TrainingData, initial_weights: str) -> "tuple[LicenseRecord, ...]":
    """Return under what terms weights, training data and sample cells may be used."""
    from leukoscope.models.manifest import LicenseRecord

    weights = LicenseRecord(part="weights", license="Apache-2.0", attribution=initial_weights)
    if data.official:
        both = LicenseRecord(
            part="training data and sample cells", license=CNMC_LICENSE, attribution=data.attribution or CNMC
        )
        return (weights, both)
    # SPDX identifiers for a license given as text, and for none given.
    license_text = "NOASSERTION" if data.license_text is None else "LicenseRef-training-data"
    return (
        weights,
        LicenseRecord(part="training data", license=license_text, attribution=data.attribution),
        LicenseRecord(part="sample cells", license=CNMC_LICENSE, attribution=CNMC),
    )


def head_texts(network: "CellNetwork") -> str:
    """Describe the head and its inputs."""
    settings = network.settings
    stages = len(settings.pooled_stages)
    values = {
        "average": "global averages",
        "moments": "mean and mean square over the cell",
        "statistics": "mean and log standard deviation over the cell",
    }[settings.pooling]
    words = f"{settings.head}, on the {values} of {stages} stage{'s' if stages > 1 else ''}"
    return words + (" and nine size and color scalars" if settings.descriptor_head else "")


def explained_texts(network: "CellNetwork") -> str:
    """Return which map Grad-CAM explains."""
    settings = network.settings
    if settings.pools_cell:
        return f"the maps of all {len(settings.pooled_stages)} stages and their squares"
    return "the last features" if settings.pooled_stages == (-1,) else "the deepest pooled stage"


def tensor_texts(network: "CellNetwork", classes: "ClassSchema") -> dict[str, tuple[str, str]]:
    """Return meaning and range of every tensor of the graph by its name."""
    settings = network.settings
    last = settings.pooled_stages == (-1,)
    if settings.pools_cell:
        second = "mean square" if settings.pooling == "moments" else "log standard deviation"
        embedding = f"mean and {second}, over the cell, of every channel of the pooled stages"
        explained = "pooled stages together"
    else:
        embedding = "globally averaged " + (
            "convolutional features" if last else "features of the pooled stages"
        )
        explained = "last convolutional features" if last else "deepest pooled stage"
    one = network.outputs == 1
    of_what = "the logit" if one else "each logit"
    logits = (
        f"log-odds of {classes.names[1]} before calibration"
        if one
        else f"one per class before calibration and softmax: {', '.join(classes.names)}"
    )
    return {
        "cells": ("RGB on the canonical black canvas, resized as a whole", "0 to 255"),
        "logits": (logits, "unbounded"),
        "embedding": (embedding, "unbounded"),
        "activation_map": (f"Grad-CAM of {of_what} after ReLU, {explained}, not normalized", ">= 0"),
    }


def read_license(path: Path) -> str:
    """Return the text of a license.

    Raises
    ------
    UsageError
        The file cannot be read, or is no text.
    """
    try:
        return read_text(path)
    except OSError as error:
        raise UsageError(f"--data-license {path}: cannot be read: {error.strerror}") from None
