"""The kinds of cells, their hierarchy and their LOINC codes, and the kinds of coarse labels.

The network has one output per kind (a leaf). Kinds form groups, which are what is reported and counted; groups form
families. A label need not name one kind: "neutrophil" stands for segmented and band neutrophils, and a cell that is
only known to be a mature white cell for every mature kind. A label is therefore a set of kinds, and its loss is the
negative logarithm of their summed probability.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.classes import PALETTE, POSITIVE_PALETTE, CellClass, ClassGroup, ClassSchema, Code
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


_LOINC = "LOINC, share of the leukocytes in blood"
_ONTOLOGY = "Cell Ontology, term of this name"
_CLASSES: tuple[tuple[str, str, str, str, str, str | None, str | None, str | None], ...] = (
    # name, title, short, color and shape of the palette, group, LOINC, Cell Ontology
    ("neutrophil", "Neutrophil", "Neutrophil", "0", "ring", "mature_white_cell", "26511-6", "CL:0000775"),
    ("eosinophil", "Eosinophil", "Eosinophil", "1", "square", "mature_white_cell", "26450-7", "CL:0000771"),
    ("basophil", "Basophil", "Basophil", "2", "disc", "mature_white_cell", "30180-4", "CL:0000767"),
    ("lymphocyte", "Lymphocyte", "Lymphocyte", "3", "hexagon", "mature_white_cell", "26478-8", "CL:0000542"),
    ("monocyte", "Monocyte", "Monocyte", "4", "triangle_down", "mature_white_cell", "26485-3", "CL:0000576"),
    (
        "immature_granulocyte", "Immature granulocyte", "Immature granulocyte", "5", "star", "immature_white_cell",
        "38518-7", None,
    ),
    ("blast", "Blast", "Blast", "positive", "triangle", "immature_white_cell", "26446-5", None),
    (
        "erythroblast", "Nucleated red cell", "Nucleated red cell", "positive2", "pentagon", "red_cell", None,
        "CL:0000765",
    ),
    ("platelet", "Platelet", "Platelet", "6", "square_open", None, None, "CL:0000233"),
    ("not_a_white_cell", "Not a white cell", "Not a white cell", "7", "triangle_open", None, None, None),
)  # fmt: skip
_GROUPS = (
    ("white_cell", "White cell", None),
    ("mature_white_cell", "Mature white cell", "white_cell"),
    ("immature_white_cell", "Blast or immature granulocyte", "white_cell"),
    ("red_cell", "Nucleated red cell", None),
)
_MERGED = {"smudge_cell": "not_a_white_cell"}
"""Groups without a class of their own: no smudge cell was held out, so no limit can be set for one."""


def class_schema() -> ClassSchema:
    """Return the classes of a bundle of kinds: the groups of ``KINDS``, with smudge cells among what is no white cell.

    The finer kinds (bands, promyelocytes, lymphoblasts, myeloblasts) are trained and not reported: too few of them were
    held out to calibrate each.
    """
    colors = {str(number): pair for number, pair in enumerate(PALETTE)}
    colors |= {"positive": POSITIVE_PALETTE[0], "positive2": POSITIVE_PALETTE[1]}
    classes = []
    for name, title, short, color, symbol, parent, loinc, ontology in _CLASSES:
        codes = [Code(system="LOINC", code=loinc, source=_LOINC)] if loinc else []
        codes += [Code(system="Cell Ontology", code=ontology, source=_ONTOLOGY)] if ontology else []
        light, dark = colors[color]
        fields = {"name": name, "title": title, "short": short, "color": light, "color_dark": dark}
        classes.append(CellClass(**fields, symbol=symbol, parent=parent, codes=tuple(codes)))
    groups = tuple(ClassGroup(name=name, title=title, parent=parent) for name, title, parent in _GROUPS)
    return ClassSchema(classes=tuple(classes), groups=groups, positive=("blast",))


def label_class(label: str) -> str | None:
    """Return the class of ``class_schema`` that a label lies in, or None for a label of several or of none."""
    group = label_group(label)
    return None if group is None else _MERGED.get(group, group)


def class_members() -> tuple[tuple[int, ...], ...]:
    """Return the positions of the kinds of each class, in the order of ``class_schema``."""
    names = [entry[0] for entry in _CLASSES]
    owners = [_MERGED.get(kind.group, kind.group) for kind in KINDS]
    return tuple(tuple(index for index, owner in enumerate(owners) if owner == name) for name in names)
