"""The kinds of cells, their hierarchy and their LOINC codes, and the kinds of coarse labels.

The network has one output per kind (a leaf). Kinds form groups, which are what is reported and counted; groups form
families. A label need not name one kind: "neutrophil" stands for segmented and band neutrophils, and a cell that is
only known to be a mature white cell for every mature kind. A label is therefore a set of kinds, and its loss is the
negative logarithm of their summed probability.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import CohortError

Floats = NDArray[np.float64]


class Kind(NamedTuple):
    """One output of the network.

    Attributes
    ----------
    name
        Lower case with underscores.
    group
        The kind that is reported and counted.
    loinc
        Code of its share of the leukocytes; None where LOINC has none or the cell is no leukocyte.
    """

    name: str
    group: str
    loinc: str | None = None


KINDS: tuple[Kind, ...] = (
    Kind("neutrophil_segmented", "neutrophil", "26511-6"),
    Kind("neutrophil_band", "neutrophil", "26508-2"),
    Kind("eosinophil", "eosinophil", "26450-7"),
    Kind("basophil", "basophil", "30180-4"),
    Kind("lymphocyte", "lymphocyte", "26478-8"),
    Kind("lymphoid_precursor", "lymphocyte"),
    Kind("monocyte", "monocyte", "26485-3"),
    Kind("promyelocyte", "immature_granulocyte", "26524-9"),
    Kind("myelocyte", "immature_granulocyte", "26498-6"),
    Kind("metamyelocyte", "immature_granulocyte", "28541-1"),
    Kind("lymphoblast", "blast", "26446-5"),
    Kind("myeloblast", "blast", "26446-5"),
    Kind("monoblast", "blast", "26446-5"),
    Kind("erythroblast", "erythroblast"),
    Kind("platelet", "platelet"),
    Kind("smudge_cell", "smudge_cell", "34992-8"),
    Kind("not_a_white_cell", "not_a_white_cell"),
)
"""The order of the network's outputs.

``lymphoid_precursor`` is the normal B-lymphoid precursor of C-NMC's healthy people. It is reported with the
lymphocytes and is never part of the blast probability; as a kind of its own it does not pull the mature lymphocytes
of other laboratories toward the one laboratory that has precursors.
"""

NAMES: tuple[str, ...] = tuple(kind.name for kind in KINDS)
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(kind.group for kind in KINDS))
MATURE_GROUPS = ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte")
UNSEEN = "unseen"
"""Label of cells whose kind is not trained; they are only measured."""

_COARSE: dict[str, tuple[str, ...]] = {
    "mature_white_cell": MATURE_GROUPS,
    "white_cell": (*MATURE_GROUPS, "immature_granulocyte", "blast"),
}


def label_kinds(label: str) -> NDArray[np.bool_]:
    """Return which kinds a label leaves possible.

    Parameters
    ----------
    label
        A kind, a group, ``mature_white_cell`` or ``white_cell``; ``unseen`` leaves none.

    Returns
    -------
    kinds
        bool (K,), in the order of ``KINDS``.

    Raises
    ------
    CohortError
        The label is none of these.
    """
    if label == UNSEEN:
        return np.zeros(len(KINDS), np.bool_)
    if label in NAMES:
        return np.array([name == label for name in NAMES])
    groups = _COARSE.get(label, (label,))
    if not set(groups) <= set(GROUPS):
        raise CohortError(f"label {label!r} is unknown; known are {', '.join((*NAMES, *GROUPS, *_COARSE))}")
    return np.array([kind.group in groups for kind in KINDS])


def label_group(label: str) -> str | None:
    """Return the one group that a label lies in, or None for a label of several groups or of none."""
    kinds = label_kinds(label)
    groups = {kind.group for kind, possible in zip(KINDS, kinds, strict=True) if possible}
    return groups.pop() if len(groups) == 1 else None


def group_matrix() -> Floats:
    """Return (K, G), 1 where a kind belongs to a group: ``probabilities @ group_matrix()`` sums over each group."""
    return np.array([[float(kind.group == group) for group in GROUPS] for kind in KINDS])


def group_probabilities(probabilities: Floats) -> Floats:
    """Sum (N, K) probabilities over each group: (N, G)."""
    sums: Floats = probabilities @ group_matrix()
    return sums


def blast_probability(probabilities: Floats) -> Floats:
    """Sum (N, K) probabilities over the blast family: (N,)."""
    column: Floats = group_probabilities(probabilities)[:, GROUPS.index("blast")]
    return column


def immature_probability(probabilities: Floats) -> Floats:
    """Sum (N, K) probabilities over blasts and immature granulocytes: (N,)."""
    return (
        blast_probability(probabilities)
        + (group_probabilities(probabilities)[:, GROUPS.index("immature_granulocyte")])
    )
