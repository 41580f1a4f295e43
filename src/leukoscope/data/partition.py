"""Divide groups of cells into parts of about equal class counts. Groups are never cut."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from leukoscope.core.errors import SplitError

RESTARTS = 64
"""Random orders that are tried; the most even division is kept."""


def partition_groups(
    members: Iterable[tuple[str, str]], k: int, rng: np.random.Generator
) -> tuple[frozenset[str], ...]:
    """Divide groups into ``k`` parts with each class's cells spread as evenly as whole groups allow.

    Parameters
    ----------
    members
        Group and label of every cell.
    k
        Number of parts, from 2.
    rng
        Source of the orders in which groups are placed.

    Returns
    -------
    tuple of frozenset
        ``k`` disjoint sets of groups; every part has cells of every class.

    Raises
    ------
    SplitError
        A class has fewer than ``k`` groups.

    Notes
    -----
    Greedy placement, large groups first, each into the part where it adds least to the sum of squared class shares;
    repeated over random orders, and the best result evened out by exchanging groups between parts. Placing by the own
    class's load puts the first ``k`` groups of a class into ``k`` different parts, so no part lacks a class.
    """
    names, counts = _count(members)
    scarce = int((counts > 0).sum(axis=0).min()) if len(names) else 0
    if k < 2 or scarce < k:
        raise SplitError(
            f"{k} parts were asked for, the class with the fewest groups has {scarce}; "
            f"{f'choose at most {scarce} parts' if scarce >= 2 else 'at least 2 groups of each class are needed'}"
        )
    shares = counts / counts.sum(axis=0)
    best: NDArray[np.intp] | None = None
    best_spread = np.inf
    for _ in range(RESTARTS):
        order = np.argsort(-shares.max(axis=1) * rng.uniform(0.7, 1.0, len(names)), kind="stable")
        placed, loads = _place(shares, order, k)
        spread = float(((loads - 1 / k) ** 2).sum())
        if (loads > 0).all() and spread < best_spread:
            best, best_spread = placed, spread
    if best is None:  # groups that hold both classes can defeat the greedy placement
        raise SplitError(
            f"no division into {k} parts with both classes in each was found; choose fewer parts"
        )
    _exchange(shares, best, k)
    return tuple(frozenset(names[int(i)] for i in np.flatnonzero(best == part)) for part in range(k))


def choose_groups(
    members: Iterable[tuple[str, str]], share: float, rng: np.random.Generator
) -> frozenset[str]:
    """Choose groups that hold about ``share`` of each class's cells and groups, and leave some of each class behind.

    Parameters
    ----------
    members
        Group and label of every cell.
    share
        Share of each class's cells, in (0, 1).
    rng
        Source of the orders in which groups are tried.

    Raises
    ------
    SplitError
        A class has fewer than 2 groups, so that one side would lack it.
    """
    names, counts = _count(members)
    scarce = int((counts > 0).sum(axis=0).min()) if len(names) else 0
    if scarce < 2:
        raise SplitError(
            f"a validation part with both classes needs at least 2 groups of each class on the training side, "
            f"one class has {scarce}; add subjects, or set the validation share to 0"
        )
    # Cells and groups both count: the largest subject alone would be a poor validation part.
    present = counts > 0
    shares = np.hstack([counts / counts.sum(axis=0), present / present.sum(axis=0)])
    best: frozenset[str] = frozenset()
    best_distance = np.inf
    for _ in range(RESTARTS):
        chosen, load = _gather(shares, rng.permutation(len(names)), share)
        distance = float(((load - share) ** 2).sum())
        if (load > 0).all() and (load < 1).all() and distance < best_distance:
            best, best_distance = frozenset(names[i] for i in chosen), distance
    if not best:
        raise SplitError(
            "no choice of whole groups leaves both classes on both sides; set the validation share to 0"
        )
    return best


def _count(members: Iterable[tuple[str, str]]) -> tuple[list[str], NDArray[np.float64]]:
    by_group: dict[str, dict[str, int]] = {}
    labels: dict[str, None] = {}
    for group, label in members:
        labels.setdefault(label)
        counts = by_group.setdefault(group, {})
        counts[label] = counts.get(label, 0) + 1
    if len(labels) < 2:
        raise SplitError(f"cells of both classes are needed, found: {', '.join(sorted(labels)) or 'none'}")
    names = sorted(by_group)
    return names, np.array([_row(by_group[name], sorted(labels)) for name in names], np.float64)


def _row(counts: Mapping[str, int], labels: Sequence[str]) -> list[int]:
    return [counts.get(label, 0) for label in labels]


def _place(
    shares: NDArray[np.float64], order: NDArray[np.intp], k: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    loads = np.zeros((k, shares.shape[1]))
    placed = np.zeros(len(shares), np.intp)
    for group in order:
        increase = ((loads + shares[group]) ** 2 - loads**2).sum(axis=1)
        # Among equally good parts the emptier one: it evens out the parts' total sizes.
        part = int(np.lexsort((loads.sum(axis=1), np.round(increase, 12)))[0])
        loads[part] += shares[group]
        placed[group] = part
    return placed, loads


def _exchange(shares: NDArray[np.float64], placed: NDArray[np.intp], k: int) -> None:
    """Move single groups and swap pairs, in place, as long as that evens the parts out."""
    # An empty group at the end of the list turns a move into a swap with nothing.
    groups = np.vstack([shares, np.zeros(shares.shape[1])])
    loads = np.array([shares[placed == part].sum(axis=0) for part in range(k)])
    improved = True
    while improved:
        improved = False
        for first in range(len(shares)):
            for second in range(first + 1, len(groups)):
                here = placed[first]
                for there in [placed[second]] if second < len(shares) else range(k):
                    difference = groups[first] - groups[second]
                    after_here, after_there = loads[here] - difference, loads[there] + difference
                    gain = (loads[here] ** 2 + loads[there] ** 2 - after_here**2 - after_there**2).sum()
                    # Loads are sums of shares: what rounding leaves of zero is far below one cell's share.
                    if here == there or gain < 1e-9 or min(after_here.min(), after_there.min()) < 1e-9:
                        continue
                    loads[here], loads[there] = after_here, after_there
                    placed[first] = there
                    if second < len(shares):
                        placed[second] = here
                    improved = True
                    break


def _gather(
    shares: NDArray[np.float64], order: NDArray[np.intp], share: float
) -> tuple[list[int], NDArray[np.float64]]:
    chosen: list[int] = []
    load = np.zeros(shares.shape[1])
    for group in order:
        after = load + shares[group]
        first_of_class = ((load == 0) & (shares[group] > 0)).any()
        closer = ((after - share) ** 2).sum() < ((load - share) ** 2).sum()
        if (after < 1).all() and (first_of_class or closer):
            chosen.append(int(group))
            load = after
    return chosen, load
