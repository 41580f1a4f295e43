"""Split cells into train, validation and test parts, by protocol."""

import dataclasses
from collections.abc import Iterable
from typing import Final, Literal

import numpy as np
import pandas as pd

from leukoscope.core.errors import SplitError, UsageError
from leukoscope.data.cnmc import PRELIMINARY_TEST, TEST_FOLDS
from leukoscope.data.partition import choose_groups, partition_groups
from leukoscope.data.split_plan import (
    ALL_CELLS,
    SCHEMA_VERSION,
    Split,
    SplitPlan,
    assert_disjoint,
    check_plan,
    make_plan,
    read_splits,
    read_unchecked_splits,
    select_rows,
    single_split,
    write_splits,
)
from leukoscope.data.table import labeled

__all__ = [
    "PROTOCOLS",
    "SCHEMA_VERSION",
    "InnerFold",
    "Protocol",
    "Split",
    "SplitPlan",
    "assert_disjoint",
    "check_plan",
    "inner_folds",
    "make_plan",
    "make_splits",
    "read_splits",
    "read_unchecked_splits",
    "single_split",
    "write_splits",
]

Protocol = Literal["official", "grouped", "paper", "all"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("official", "grouped", "paper", "all")
PAPER_PER_CLASS: Final = 2100
"""Images of each class in the reference paper's protocol, divided 1,500 / 300 / 300."""


@dataclasses.dataclass(frozen=True)
class InnerFold:
    """One fold of an inner cross-validation on a training side."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_splits(
    cells: pd.DataFrame,
    protocol: Protocol,
    *,
    k: int = 5,
    seed: int = 0,
    validation_share: float = 0.2,
    per_class: int = PAPER_PER_CLASS,
    cells_as_subjects: bool = False,
) -> SplitPlan:
    """Divide the labeled cells of a table.

    Parameters
    ----------
    cells
        Cell table.
    protocol
        ``official``: each training fold held out in turn, groups that leak removed from the training side; a labeled
        preliminary test set is one more held-out part. ``grouped``: ``k`` parts by merged group, stratified.
        ``paper``: random images, ``per_class`` of each class, 5/7 to train, 1/7 to validate, 1/7 to test; it leaks.
        ``all``: every cell to train, no test part: for a final model whose recipe was measured by cross-validation.
    k
        Parts of ``grouped``.
    seed
        Random seed.
    validation_share
        Share of the training side's cells, in [0, 1), that becomes the validation part, by whole groups; 0 for none.
    per_class
        Images of each class in ``paper``.
    cells_as_subjects
        Accept labeled cells without a subject and treat each as a separate subject. The plan is then marked as leaking.

    Raises
    ------
    SplitError
        The cohort does not allow the protocol; the message names what is missing.
    """
    if not 0 <= validation_share < 1:
        raise UsageError(
            f"validation share {validation_share}: choose a value from 0 up to, not including, 1"
        )
    known = labeled(cells)
    if known.empty:
        raise SplitError("no cell has a label; import labeled images")
    unknown = int(known["subject"].eq("").sum()) if protocol != "paper" else 0
    if unknown and not cells_as_subjects:
        raise SplitError(
            f"{unknown} of {len(known)} labeled cells have no subject, so that a subject's cells cannot be kept on one "
            "side; import with a subject column, or accept the risk with --cells-as-subjects"
        )
    rng = np.random.default_rng(seed)
    if protocol == "official":
        splits = _official(known, validation_share, rng)
    elif protocol == "grouped":
        splits = _grouped(known[~known["fold"].isin(TEST_FOLDS)], k, validation_share, rng)
    elif protocol == "paper":
        splits = _paper(known[~known["fold"].isin(TEST_FOLDS)], per_class, rng)
    elif protocol == "all":
        everything = known[~known["fold"].isin(TEST_FOLDS)]
        splits = [
            _carve(ALL_CELLS, everything, known[:0], known[:0], validation_share=validation_share, rng=rng)
        ]
    else:
        raise UsageError(f"protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return make_plan(cells, protocol, seed, protocol == "paper" or unknown > 0, splits)


def inner_folds(cells: pd.DataFrame, train_cells: Iterable[str], k: int, seed: int) -> list[InnerFold]:
    """Divide a training side for an inner cross-validation, by group and stratified.

    Parameters
    ----------
    cells
        Cell table.
    train_cells
        Keys of the training side.
    k
        Folds wanted, from 2. There are fewer where a class has fewer groups than that: every held-out fold has both
        classes.
    seed
        Of the order in which groups are placed.

    Raises
    ------
    SplitError
        A class has fewer than 2 groups, or a key is not in the table.
    """
    side = select_rows(cells, tuple(train_cells))
    groups = side.groupby("label")["group"].nunique()
    available = int(groups.min()) if len(groups) > 1 else 0
    parts = partition_groups(_members(side), max(2, min(k, available)), np.random.default_rng(seed))
    return [
        InnerFold(_keys(side[~side["group"].isin(part)]), _keys(side[side["group"].isin(part)]))
        for part in parts
    ]


def _official(known: pd.DataFrame, validation_share: float, rng: np.random.Generator) -> list[Split]:
    training = known[~known["fold"].isin((*TEST_FOLDS, ""))]
    folds = sorted(training["fold"].unique())
    held_out = [*folds] if len(folds) > 1 else []
    if folds and known["fold"].eq(PRELIMINARY_TEST).any():
        held_out.append(PRELIMINARY_TEST)
    if not held_out:
        raise SplitError(
            f"protocol 'official' needs at least 2 folds with labels, found: {', '.join(folds) or 'none'}; "
            "use --protocol grouped"
        )
    splits = []
    for fold in held_out:
        test = known[known["fold"] == fold]
        others = training[training["fold"] != fold]
        leaking = others["group"].isin(set(test["group"]))
        splits.append(
            _carve(
                f"hold-out-{fold}",
                others[~leaking],
                test,
                others[leaking],
                validation_share=validation_share,
                rng=rng,
            )
        )
    return splits


def _grouped(known: pd.DataFrame, k: int, validation_share: float, rng: np.random.Generator) -> list[Split]:
    splits = []
    for number, part in enumerate(partition_groups(_members(known), k, rng), start=1):
        in_test = known["group"].isin(part)
        splits.append(
            _carve(
                f"part-{number}-of-{k}",
                known[~in_test],
                known[in_test],
                known[:0],
                validation_share=validation_share,
                rng=rng,
            )
        )
    return splits


def _carve(
    name: str,
    training: pd.DataFrame,
    test: pd.DataFrame,
    removed: pd.DataFrame,
    *,
    validation_share: float,
    rng: np.random.Generator,
) -> Split:
    chosen: frozenset[str] = frozenset()
    if validation_share:
        try:
            chosen = choose_groups(_members(training), validation_share, rng)
        except SplitError as error:
            raise SplitError(f"split {name!r}: {error}") from None
    in_validation = training["group"].isin(chosen)
    return Split(
        name, _keys(training[~in_validation]), _keys(training[in_validation]), _keys(test), _keys(removed)
    )


def _paper(known: pd.DataFrame, per_class: int, rng: np.random.Generator) -> list[Split]:
    if per_class < 7:
        raise UsageError(f"--per-class {per_class}: at least 7, for 5 + 1 + 1 images of each class")
    drawn: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    seventh = per_class // 7
    of_class = {
        label: np.flatnonzero(known["label"].eq(label).to_numpy())
        for label in sorted(known["label"].unique())
    }
    scarce = min(of_class, key=lambda label: len(of_class[label]))
    if (available := len(of_class[scarce])) < per_class:
        raise SplitError(
            f"protocol 'paper' draws {per_class} images of each class, only {available} are {scarce}; "
            f"choose fewer with --per-class {available}"
        )
    for positions in of_class.values():
        order = rng.permutation(positions)[:per_class]
        drawn["test"].extend(order[:seventh])
        drawn["validation"].extend(order[seventh : 2 * seventh])
        drawn["train"].extend(order[2 * seventh :])
    sides = {name: _keys(known.iloc[sorted(positions)]) for name, positions in drawn.items()}
    return [Split("paper", sides["train"], sides["validation"], sides["test"])]


def _members(side: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(side["group"], side["label"], strict=True))


def _keys(side: pd.DataFrame) -> tuple[str, ...]:
    return tuple(side["cell"])
