"""Leave one laboratory out: the recipes that are compared, the folds, and the rule by which a recipe is chosen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import TrainingError
from leukoscope.training.kinds.bank import Bank
from leukoscope.training.kinds.classes import UNSEEN
from leukoscope.training.kinds.measures import Measures, measure, measure_people
from leukoscope.training.kinds.network import KindsNetwork, Norm
from leukoscope.training.kinds.prediction import Predicted, predict_pasted, predict_plain

Rows = NDArray[np.int64]

FOLDS: dict[str, tuple[str, ...]] = {
    "munich": ("munich",),
    "pbc": ("pbc",),
    "fields": ("chula", "bccd", "draaslan"),
    "cnmc": ("cnmc",),
}
"""The laboratories that each fold leaves out."""


@dataclass(frozen=True)
class Recipe:
    """What is compared.

    Attributes
    ----------
    name
        Of the recipe.
    arch, norm
        As ``network.create_network`` takes them.
    style
        Mix styles: stains of images and statistics of feature maps.
    cut_out_share
        Share of cut-out views.
    margin
        By how much its score has to exceed that of the recipes before it to be chosen instead.
    """

    name: str
    arch: str = "tf_efficientnet_lite0"
    norm: Norm = "train"
    style: bool = True
    cut_out_share: float = 0.5
    margin: float = 0.005


RECIPES: tuple[Recipe, ...] = (
    Recipe("lite0"),
    Recipe("lite2", arch="tf_efficientnet_lite2"),
    Recipe("lite0-no-style", style=False),
    Recipe("lite0-frozen-norm", norm="frozen"),
    # Two networks instead of one are justified only by a clear gain.
    Recipe("lite0-context-only", cut_out_share=0.0, margin=0.02),
    Recipe("lite0-group-norm", norm="group"),
)

SCORE: tuple[tuple[str, str, str, float], ...] = (
    ("munich", "left_out_context", "auc_blast", 0.30),
    ("munich", "left_out_context", "auc_immature", 0.15),
    ("munich", "left_out_context", "recall_mature", 0.15),
    ("pbc", "left_out_context", "recall_mean", 0.20),
    ("munich", "cnmc_held_out_pasted", "auc", 0.20),
)
"""Fold, part and measure with its weight: what ``score`` adds up."""

Results = Mapping[str, Mapping[str, Any]]  # by fold, by part


def training_rows(bank: Bank, left_out: tuple[str, ...] = ()) -> Rows:
    """Return the rows of training: not held out, a kind that is trained, and no laboratory that is left out."""
    return np.array(
        [
            row
            for row, item in enumerate(bank.items)
            if not item.held_out and item.laboratory not in left_out and item.label != UNSEEN
        ],
        np.int64,
    )


def score(results: Results) -> float:
    """Return the weighted mean of the measures of ``SCORE``; NaN while one is missing."""
    values = []
    for fold, part, name, weight in SCORE:
        value = results.get(fold, {}).get(part, {}).get(name)
        values.append(weight * (math.nan if value is None else float(value)))
    return sum(values) / sum(weight for *_, weight in SCORE)


def choose(scores: Mapping[str, float], recipes: tuple[Recipe, ...] = RECIPES) -> Recipe:
    """Choose in the order of ``recipes``: a later one must exceed the best before it by its margin.

    Raises
    ------
    TrainingError
        No recipe has a score.
    """
    best: Recipe | None = None
    for recipe in recipes:
        value = scores.get(recipe.name, math.nan)
        if math.isnan(value):
            continue
        if best is None or value > scores[best.name] + recipe.margin:
            best = recipe
    if best is None:
        raise TrainingError("no recipe has a score: no fold was finished; give the run more time")
    return best


@dataclass(frozen=True)
class Examined:
    """Measures by part, and what each part predicted for which rows."""

    measures: dict[str, Measures]
    predictions: dict[str, tuple[Rows, Predicted]]


def examine(network: KindsNetwork, bank: Bank, left_out: tuple[str, ...], input_px: int) -> Examined:
    """Measure a network on what it was not trained on.

    The parts are ``left_out`` (every crop of the laboratories left out), ``LABORATORY_held_out`` (the crops of the
    others that are never trained on) and ``unseen`` (kinds never trained on), each ``_context`` and ``_cut_out``;
    ``cnmc`` instead as ``_cut_out`` and ``_pasted`` into held-out surroundings with their stain.
    """
    parts: dict[str, Rows] = {}
    for laboratory in bank.laboratory_names:
        if laboratory not in left_out and laboratory != "cnmc":
            rows = bank.rows(laboratory=laboratory, held_out=True)
            parts[f"{laboratory}_held_out"] = _without_unseen(bank, rows)
    for laboratory in left_out:
        if laboratory != "cnmc":
            name = "left_out" if len(left_out) == 1 else f"left_out_{laboratory}"
            parts[name] = _without_unseen(bank, bank.rows(laboratory=laboratory))
    parts["unseen"] = bank.rows(label=UNSEEN)
    result = Examined({}, {})
    for name, rows in parts.items():
        for form in ("context", "cut_out"):
            if len(rows):
                predicted = predict_plain(network, bank, rows, cut_out=form == "cut_out", input_px=input_px)
                labels = np.array([bank.items[row].label for row in rows])
                result.measures[f"{name}_{form}"] = measure(predicted.probabilities, labels)
                result.predictions[f"{name}_{form}"] = (rows, predicted)
    _examine_cnmc(network, bank, "cnmc" in left_out, input_px, result)
    return result


def _examine_cnmc(network: KindsNetwork, bank: Bank, left_out: bool, input_px: int, result: Examined) -> None:
    rows = bank.rows(laboratory="cnmc") if left_out else bank.rows(laboratory="cnmc", held_out=True)
    surroundings = bank.rows(laboratory="pbc", held_out=True)
    if not len(rows) or not len(surroundings):
        return
    labels = np.array([bank.items[row].label for row in rows])
    subjects = np.array([bank.items[row].subject for row in rows])
    name = "cnmc_left_out" if left_out else "cnmc_held_out"
    for form, predicted in (
        ("cut_out", predict_plain(network, bank, rows, cut_out=True, input_px=input_px)),
        ("pasted", predict_pasted(network, bank, rows, surroundings=surroundings, input_px=input_px)),
    ):
        result.measures[f"{name}_{form}"] = measure_people(predicted.probabilities, labels, subjects)
        result.predictions[f"{name}_{form}"] = (rows, predicted)


def _without_unseen(bank: Bank, rows: Rows) -> Rows:
    return np.array([row for row in rows if bank.items[row].label != UNSEEN], np.int64)
