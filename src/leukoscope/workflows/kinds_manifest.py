"""The manifest of the bundle of kinds: description, limitations and attribution."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import pandas as pd

from leukoscope.core.classes import ClassSchema
from leukoscope.models.manifest import (
    Domain,
    LicenseRecord,
    Manifest,
    TensorSpec,
    TrainingRecord,
    hash_groups,
)
from leukoscope.training.kinds.sources import MICRONS_PER_PIXEL

NAME = "leukoscope-kinds"
_CREDITS = (
    ("Acevedo et al. 2020, doi 10.17632/snkd93bnjr.1", "CC-BY-4.0"),
    ("Matek, Schwarz, Marr, Spiekermann 2019, doi 10.7937/tcia.2019.36f5o9ld", "CC-BY-3.0"),
    ("Mourya, Kant, Kumar, Gupta, Gupta 2019 (C-NMC 2019), doi 10.7937/tcia.2019.dc64i46r", "CC-BY-3.0"),
    ("Chulalongkorn University WBC samples", "MIT"),
    ("BCCD data set", "MIT"),
    ("draaslan blood-cell detection data set", "MIT"),
)


class Cost(NamedTuple):
    """Numbers of the network, and floating-point operations of one cell."""

    parameters: int
    flops: float


def kinds_manifest(
    table: pd.DataFrame,
    graph: dict[str, list[dict[str, Any]]],
    record: Mapping[str, Any],
    classes: ClassSchema,
    *,
    name_version: str,
    created: str,
    cost: Cost,
    notes: tuple[str, ...],
    weights_sha256: str,
) -> Manifest:
    """Describe the model, its training data and its limitations."""
    trained = table[~table["held_out"]]
    groups = sorted(set(trained["subject"]))
    side = int(record["input_px"])
    height = int(graph["outputs"][2]["shape"][2])
    return Manifest(
        name=NAME,
        version=name_version,
        task="kinds",
        domain=Domain(
            form="uncut", microns_per_pixel=MICRONS_PER_PIXEL, stain="Romanowsky (six laboratories)"
        ),
        title="Kinds of white cells in their surroundings",
        created=created,
        intended_use="Research and teaching: naming the white cells of stained blood smears, photographed with their "
        "surroundings under oil or at 40x, for counts that a qualified reader confirms. Not for diagnosis, screening "
        "or treatment decisions.",
        limitations=(*_limitations(trained), *notes),
        architecture=f"{record['recipe']['arch']}, frozen batch-norm statistics",
        head="one linear layer over 17 kinds, summed into 10 classes",
        attribution="Grad-CAM of each class's logit on the last maps, closed form (doi 10.1109/ICCV.2017.74)",
        parameters=cost.parameters,
        flops=cost.flops,
        canvas_px=side,
        input_px=side,
        classes=classes,
        inputs=_specs(graph["inputs"], classes, side, height),
        outputs=_specs(graph["outputs"], classes, side, height),
        training=TrainingRecord(
            protocol="kinds, all laboratories; one in five images, fields and 12 people of C-NMC held out",
            cells=len(trained),
            subjects=len(groups),
            groups=len(groups),
            groups_sha256=hash_groups(groups),
            cells_sha256=hashlib.sha256("".join(trained["sha256"]).encode()).hexdigest(),
            initial_weights="EfficientNet-Lite0, ImageNet (Google, Apache-2.0); trained weights SHA-256 "
            f"{weights_sha256}, {record['steps']} steps",
            seed=1,
        ),
        libraries={name: version(name) for name in ("leukoscope", "torch", "timm", "onnx")},
        licenses=(
            LicenseRecord(
                part="weights", license="Apache-2.0", attribution="EfficientNet-Lite0, Google, Apache-2.0"
            ),
            *(
                LicenseRecord(part="training data", license=license_, attribution=who)
                for who, license_ in _CREDITS
            ),
            LicenseRecord(part="sample cells", license="CC-BY-4.0", attribution=_CREDITS[0][0]),
        ),
    )


def _limitations(trained: pd.DataFrame) -> tuple[str, ...]:
    counts = trained["label"].value_counts()
    myeloid = int(counts.get("myeloblast", 0) + counts.get("monoblast", 0))
    people = trained.loc[trained["label"] == "lymphoblast", "subject"].nunique()
    return (
        f"Few blasts stand behind it: {int(counts.get('lymphoblast', 0))} lymphoblasts of {people} people of one "
        f"laboratory, pasted into other surroundings, and {myeloid} myeloid blasts of one other laboratory.",
        "In a laboratory that it was not trained in, kinds are confused far more often than the figures for cells of "
        "its own laboratories say; see the laboratories left out. Correct some cells and make a laboratory profile.",
        "Prediction sets and thresholds were fitted on cells of the training laboratories; elsewhere they promise "
        "nothing. Their unit is the cell, not the person.",
        "Plasma cells, hairy cells, atypical lymphocytes, micromegakaryocytes and parasites are not among its classes.",
        "Normal B-lymphoid precursors are called lymphocytes; smudge cells are called not a white cell.",
        "A heat map shows what moved the logit, not what a hematologist would look at.",
    )


def _specs(
    entries: list[dict[str, Any]], classes: ClassSchema, side: int, height: int
) -> tuple[TensorSpec, ...]:
    names = ", ".join(classes.names)
    words = {
        "cells": (f"RGB with surroundings, {side} px at {MICRONS_PER_PIXEL} um a pixel", "0 to 255"),
        "logits": (f"one per class before calibration and softmax: {names}", "unbounded"),
        "embedding": ("globally averaged convolutional features", "unbounded"),
        "activation_map": (f"Grad-CAM of each logit after ReLU, {height} x {height}, not normalized", ">= 0"),
    }
    return tuple(
        TensorSpec(**entry, meaning=words[entry["name"]][0], value_range=words[entry["name"]][1])
        for entry in entries
    )


def data_license_text() -> str:
    """Return the licenses of the training data and of the sample cells."""
    lines = ["Training data, each under its own license:", ""]
    lines += [f"- {who}: {license_}" for who, license_ in _CREDITS]
    lines += ["", "Sample cells: Acevedo et al. 2020, crops of their images at another scale.", ""]
    lines += ["CC BY 4.0: https://creativecommons.org/licenses/by/4.0/"]
    lines += ["CC BY 3.0: https://creativecommons.org/licenses/by/3.0/", ""]
    return "\n".join(lines)
