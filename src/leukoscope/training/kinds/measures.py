"""Accuracy for kinds and blasts in one laboratory; unit of analysis is the cell, for C-NMC the subject.

No set but C-NMC has subjects, so the measures of the other laboratories have no interval over people.
"""

import math

import numpy as np
from numpy.typing import NDArray

from leukoscope.stats.metrics import roc_auc
from leukoscope.training.kinds.classes import (
    GROUPS,
    MATURE_GROUPS,
    NAMES,
    blast_probability,
    group_probabilities,
    immature_probability,
    label_group,
)

Floats = NDArray[np.float64]
Measures = dict[str, float | int | dict[str, float]]


def recalls(probabilities: Floats, labels: NDArray[np.str_]) -> dict[str, float]:
    """Return for each group that is present the share of its cells whose most probable group it is.

    Cells whose label is no single group are left out.
    """
    groups = np.array([label_group(label) or "" for label in labels])
    called = np.array(GROUPS)[group_probabilities(probabilities).argmax(axis=1)]
    return {
        group: float((called[groups == group] == group).mean()) for group in GROUPS if (groups == group).any()
    }


def measure(probabilities: Floats, labels: NDArray[np.str_]) -> Measures:
    """Measure a laboratory's cells.

    Returns
    -------
    Measures
        ``cells``; ``recall`` of each group present, ``recall_mean`` over all and ``recall_mature`` over mature ones;
        ``auc_blast`` of blasts against mature cells by the blast probability, ``auc_immature`` of blasts and immature
        granulocytes against mature cells by the immature probability (NaN where a side has no cell);
        ``called_blast`` and ``called_mature``, shares of all cells.
    """
    recall = recalls(probabilities, labels)
    groups = np.array([label_group(label) or "" for label in labels])
    mature = np.isin(groups, MATURE_GROUPS)
    blasts = groups == "blast"
    immature = blasts | (groups == "immature_granulocyte")
    called = np.array(GROUPS)[group_probabilities(probabilities).argmax(axis=1)]
    return {
        "cells": len(labels),
        "recall": recall,
        "recall_mean": _mean(list(recall.values())),
        "recall_mature": _mean([recall[group] for group in MATURE_GROUPS if group in recall]),
        "auc_blast": _auc(blast_probability(probabilities), blasts, mature),
        "auc_immature": _auc(immature_probability(probabilities), immature, mature),
        "called_blast": float((called == "blast").mean()),
        "called_mature": float(np.isin(called, MATURE_GROUPS).mean()),
    }


def measure_people(probabilities: Floats, labels: NDArray[np.str_], subjects: NDArray[np.str_]) -> Measures:
    """Measure lymphoblasts against normal precursors with the same weight for every person of a class.

    ``auc`` is by the blast probability, ``auc_lymphoid`` by the lymphoblasts' share of lymphoid probability;
    ``sensitivity`` and ``specificity`` are of the blast probability at 0.5, means over people.
    """
    blasts = labels == "lymphoblast"
    weights = np.array([1.0 / np.sum(subjects == subject) for subject in subjects])
    score = blast_probability(probabilities)
    lymphoblast, precursor, lymphocyte = (
        probabilities[:, NAMES.index(name)] for name in ("lymphoblast", "lymphoid_precursor", "lymphocyte")
    )
    lymphoid = lymphoblast / np.maximum(lymphoblast + precursor + lymphocyte, 1e-12)
    above = {person: float((score[subjects == person] > 0.5).mean()) for person in np.unique(subjects)}
    sick = set(subjects[blasts])
    return {
        "cells": len(labels),
        "people": len(above),
        "auc": float(roc_auc(blasts, score, weights)),
        "auc_lymphoid": float(roc_auc(blasts, lymphoid, weights)),
        "sensitivity": _mean([share for person, share in above.items() if person in sick]),
        "specificity": _mean([1.0 - share for person, share in above.items() if person not in sick]),
    }


def _auc(scores: Floats, positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> float:
    if not positive.any() or not negative.any():
        return math.nan
    taken = positive | negative
    return float(roc_auc(positive[taken], scores[taken]))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
