"""Counts of white cells: shares with exact intervals, blasts, nucleated red cells, how many cells are missing.

Nothing here is a diagnosis. Nucleated red cells are given per 100 white cells and are never in the denominator.
Sources: CLSI H20-A2; C. L. Rümke, Triangle 4 (1960) 154 (exact intervals of differential counts).
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from leukoscope.stats.intervals import clopper_pearson

WARN_BELOW = 100
STANDARD_COUNT = 200
"""White cells of the laboratory standard; fewer than ``WARN_BELOW`` are warned of."""

UNNAMED = "white cell"
NUCLEATED_RED = frozenset({"erythroblast", "nucleated red cell", "normoblast"})
NOT_WHITE = frozenset(
    {"smudge cell", "smudge", "platelet", "artifact", "not a white cell", "not_a_white_cell"}
)
BLASTS = frozenset({"blast", "lymphoblast", "myeloblast", "monoblast"})

_MARGIN = 0.05  # half-width of the interval that a statement about blasts should have


@dataclass(frozen=True)
class CountedCell:
    """What counting needs of one cell.

    Attributes
    ----------
    kind
        Name of its kind; ``UNNAMED`` where no classifier named it.
    state
        ``called``, ``uncertain`` or ``rejected``.
    """

    kind: str = UNNAMED
    state: str = "called"


@dataclass(frozen=True)
class Share:
    """A count in a total, with its exact 95 % interval (C. J. Clopper, E. S. Pearson 1934)."""

    name: str
    count: int
    total: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Differential:
    """The counts of one field, smear or subject.

    Attributes
    ----------
    white_cells
        Cells in the denominator: called, white, and not nucleated red ones.
    shares
        Of each kind, most frequent first.
    blasts
        Share of blasts; None where the kinds are not named. The interval is that of counting; with the classifier's
        measured error it is widened, see ``with_classifier_error``.
    nucleated_red_cells, per_100_white_cells
        Counted apart.
    uncertain, rejected, not_white
        Cells that are not in the denominator.
    cells_needed
        White cells that are missing for an interval of blasts of 5 percentage points either way; None without kinds.
    warning
        A sentence where too few cells were counted.
    """

    white_cells: int
    shares: tuple[Share, ...]
    blasts: Share | None
    nucleated_red_cells: int
    per_100_white_cells: float | None
    uncertain: int
    rejected: int
    not_white: int
    cells_needed: int | None
    warning: str | None


def count_cells(
    cells: Iterable[CountedCell], *, blasts: frozenset[str] = BLASTS, error: tuple[float, float] | None = None
) -> Differential:
    """Count cells by kind.

    Parameters
    ----------
    cells
        Of one field, smear or subject.
    blasts
        Kinds that are blasts.
    error
        Sensitivity and specificity of the classifier for blasts, where its report gives them: the interval of blasts
        then covers what true shares they allow.
    """
    states: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for cell in cells:
        if cell.state != "called":
            states[cell.state] += 1
        else:
            kinds[cell.kind] += 1
    red = sum(kinds[kind] for kind in NUCLEATED_RED)
    other = sum(kinds[kind] for kind in NOT_WHITE)
    white = {kind: count for kind, count in kinds.items() if kind not in NUCLEATED_RED | NOT_WHITE}
    total = sum(white.values())
    shares = tuple(
        share_of(kind, count, total)
        for kind, count in sorted(white.items(), key=lambda item: (-item[1], item[0]))
    )
    named = any(kind != UNNAMED for kind in white)
    blast = share_of("blast", sum(white.get(kind, 0) for kind in blasts), total) if named else None
    if blast is not None and error is not None:
        blast = with_classifier_error(blast, *error)
    return Differential(
        white_cells=total,
        shares=shares,
        blasts=blast,
        nucleated_red_cells=red,
        per_100_white_cells=100 * red / total if total and named else None,
        uncertain=states["uncertain"],
        rejected=states["rejected"],
        not_white=other,
        cells_needed=None if blast is None else cells_needed(blast.count, total),
        warning=_warning(total),
    )


def share_of(name: str, count: int, total: int) -> Share:
    """Return a share with its exact interval; all None where there is nothing in the denominator."""
    if total == 0:
        return Share(name, count, total, None, None, None)
    low, high = clopper_pearson(count, total)
    return Share(name, count, total, count / total, low, high)


def with_classifier_error(share: Share, sensitivity: float, specificity: float) -> Share:
    """Correct a share for the classifier's errors and widen its interval (W. J. Rogan, B. Gladen 1978).

    Raises
    ------
    ValueError
        The classifier tells nothing: sensitivity and specificity do not add up to more than 1.
    """
    gain = sensitivity + specificity - 1
    if not gain > 0:
        raise ValueError(
            f"sensitivity {sensitivity} and specificity {specificity} do not add up to more than 1"
        )
    if share.share is None or share.low is None or share.high is None:
        return share

    def corrected(value: float) -> float:
        return min(1.0, max(0.0, (value + specificity - 1) / gain))

    low = min(share.low, corrected(share.low))
    high = max(share.high, corrected(share.high))
    return Share(share.name, share.count, share.total, share.share, low, high)


def cells_needed(count: int, total: int, margin: float = _MARGIN) -> int:
    """Return how many more cells make the exact interval of this share at most ``margin`` wide on either side."""
    share = count / total if total else 0.0
    wanted = max(total, STANDARD_COUNT)
    for _ in range(200):
        expected = round(share * wanted)
        low, high = clopper_pearson(expected, wanted)
        if high - expected / wanted <= margin and expected / wanted - low <= margin:
            break
        wanted = math.ceil(wanted * 1.05)
    return max(0, wanted - total)


def _warning(total: int) -> str | None:
    if total >= WARN_BELOW:
        return None
    were = "cell was" if total == 1 else "cells were"
    return f"only {total} white {were} counted; {STANDARD_COUNT} are the laboratory standard: shares are uncertain"
