"""How often each crop is drawn: balanced by kind, then by laboratory, then by person."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from leukoscope.training.kinds.classes import UNSEEN, label_group
from leukoscope.training.kinds.packing import Item

Floats = NDArray[np.float64]

_SHARES = {
    "blast": 3.0,
    "lymphoid_precursor": 1.5,
    "immature_granulocyte": 1.5,
    "smudge_cell": 0.3,
    "mature_white_cell": 0.7,
    "white_cell": 0.4,
}
"""Shares of the strata; each of the others has 1."""

_EVENNESS = 0.5
"""A laboratory is drawn in proportion to the number of its cells to this power: 0 all alike, 1 as many as there are."""


def stratum(label: str) -> str:
    """Return what is balanced: the group of a label, its own name for a label of several groups or a precursor."""
    if label == "lymphoid_precursor":
        return label
    return label_group(label) or label


def draw_weights(items: tuple[Item, ...], rows: NDArray[np.int64]) -> Floats:
    """Return the probability of each of ``rows``, summing to 1.

    Within a stratum laboratories are drawn by the square root of their number of cells; within a stratum and laboratory
    every subject is drawn alike where subjects are known (C-NMC), and every cell alike elsewhere.

    Parameters
    ----------
    items
        The table of the pack.
    rows
        The rows that may be drawn; unseen kinds get weight 0.
    """
    cells = [items[row] for row in rows]
    strata = [stratum(item.label) if item.label != UNSEEN else UNSEEN for item in cells]
    per_cell = Counter(zip(strata, (item.laboratory for item in cells), strict=True))
    laboratories: dict[str, float] = {}
    for (name, _), number in per_cell.items():
        laboratories[name] = laboratories.get(name, 0.0) + number**_EVENNESS
    subjects = Counter(
        (name, item.laboratory, item.subject) for name, item in zip(strata, cells, strict=True)
    )
    people = Counter((name, laboratory) for name, laboratory, _ in subjects)
    weights = np.zeros(len(cells))
    for index, (name, item) in enumerate(zip(strata, cells, strict=True)):
        if name == UNSEEN:
            continue
        number = per_cell[name, item.laboratory]
        share = _SHARES.get(name, 1.0) * number**_EVENNESS / laboratories[name]
        if item.laboratory == "cnmc":
            cells_of_person = subjects[name, item.laboratory, item.subject]
            weights[index] = share / people[name, item.laboratory] / cells_of_person
        else:
            weights[index] = share / number
    probabilities: Floats = weights / weights.sum()
    return probabilities
