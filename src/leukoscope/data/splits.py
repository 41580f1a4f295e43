"""Splits: which cells train, which validate, which test; and the file that holds them, ``splits.json``.

Groups never stand on two sides of a split. That is asserted when splits are made, when they are written and again when
they are read. A plan that cannot promise it (the reference paper's random images; cells without a subject) says so:
``leaks``.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from leukoscope.data.cnmc import PRELIMINARY_TEST, TEST_FOLDS
from leukoscope.data.partition import choose_groups, partition_groups
from leukoscope.data.table import BLAST, NORMAL, labelled, table_sha256, write_atomically
from leukoscope.errors import SplitError, UsageError

SCHEMA_VERSION: Final = 1
Protocol = Literal["official", "grouped", "paper"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("official", "grouped", "paper")
PAPER_PER_CLASS: Final = 2100
"""Images of each class in the reference paper's protocol, divided 1,500 / 300 / 300."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One division of cells, by their keys."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    removed: tuple[str, ...] = ()
    """Cells taken off the training side because their group also stands on the test side."""

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Return the three sides by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclasses.dataclass(frozen=True)
class SplitPlan:
    """The splits of one protocol."""

    schema_version: int
    protocol: str
    seed: int
    leaks: bool
    """True where subjects may stand on two sides, so that results are too good."""
    cells_sha256: str
    """``table_sha256`` over the rows of the table that the splits name."""
    splits: tuple[Split, ...]

    def named(self, name: str) -> Split:
        """Return the split of that name.

        Raises
        ------
        UsageError
            There is none.
        """
        for split in self.splits:
            if split.name == name:
                return split
        known = ", ".join(split.name for split in self.splits)
        raise UsageError(f"no split is named {name!r}; there are: {known}")


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
    """Divide the labelled cells of a table.

    Parameters
    ----------
    cells
        Cell table.
    protocol
        ``official``: each training fold held out in turn, groups that leak removed from the training side; a labelled
        preliminary test set is one more held-out part. ``grouped``: ``k`` parts by merged group, stratified.
        ``paper``: random images, ``per_class`` of each class, 5/7 to train, 1/7 to validate, 1/7 to test; it leaks.
    k
        Parts of ``grouped``.
    seed
        Of everything random.
    validation_share
        Share of the training side's cells, in [0, 1), that becomes the validation part, by whole groups; 0 for none.
    per_class
        Images of each class in ``paper``.
    cells_as_subjects
        Accept labelled cells without a subject and treat each as its own person. The plan is then marked as leaking.

    Raises
    ------
    SplitError
        The cohort does not allow the protocol; the message says what is missing.
    """
    if not 0 <= validation_share < 1:
        raise UsageError(
            f"validation share {validation_share}: choose a value from 0 up to, not including, 1"
        )
    known = labelled(cells)
    if known.empty:
        raise SplitError("no cell has a label; import labelled images")
    unknown = int(known["subject"].eq("").sum()) if protocol != "paper" else 0
    if unknown and not cells_as_subjects:
        raise SplitError(
            f"{unknown} of {len(known)} labelled cells have no subject, so nothing keeps one person's cells on one "
            "side; import with a subject column, or accept the risk with --cells-as-subjects"
        )
    rng = np.random.default_rng(seed)
    if protocol == "official":
        splits = _official(known, validation_share, rng)
    elif protocol == "grouped":
        splits = _grouped(known[~known["fold"].isin(TEST_FOLDS)], k, validation_share, rng)
    elif protocol == "paper":
        splits = _paper(known[~known["fold"].isin(TEST_FOLDS)], per_class, rng)
    else:
        raise UsageError(f"protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return make_plan(cells, protocol, seed, protocol == "paper" or unknown > 0, splits)


def make_plan(
    cells: pd.DataFrame, protocol: str, seed: int, leaks: bool, splits: Sequence[Split]
) -> SplitPlan:
    """Bind splits to the rows they name, after checking them."""
    plan = SplitPlan(SCHEMA_VERSION, protocol, seed, leaks, _named_sha256(cells, splits), tuple(splits))
    check_plan(cells, plan)
    return plan


def single_split(plan: SplitPlan, name: str, cells: pd.DataFrame) -> SplitPlan:
    """Return a plan that holds one split of another: what a run folder keeps."""
    return make_plan(cells, plan.protocol, plan.seed, plan.leaks, [plan.named(name)])


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
    side = _rows(cells, tuple(train_cells))
    groups = side.groupby("label")["group"].nunique()
    available = int(groups.reindex([BLAST, NORMAL], fill_value=0).min())
    parts = partition_groups(_members(side), max(2, min(k, available)), np.random.default_rng(seed))
    return [
        InnerFold(_keys(side[~side["group"].isin(part)]), _keys(side[side["group"].isin(part)]))
        for part in parts
    ]


def assert_disjoint(cells: pd.DataFrame, split: Split, *, leaks: bool = False) -> None:
    """Check that no group and no identical file stands on two sides of a split.

    Parameters
    ----------
    cells
        Cell table.
    split
        What to check.
    leaks
        The plan admits to leaking: then only that no cell stands on two sides is checked.

    Raises
    ------
    SplitError
        A side is empty (validation may be), a cell is not in the table, has no label or stands twice, or a group stands
        on two sides; the message names it.
    """
    sides = {
        name: _rows(cells, keys, f"split {split.name!r}, {name}") for name, keys in split.parts().items()
    }
    for name, side in sides.items():
        if name != "validation" and side.empty:
            raise SplitError(f"split {split.name!r}: the {name} part is empty")
        unlabelled = side.loc[side["label"].eq(""), "cell"]
        if len(unlabelled):
            raise SplitError(f"split {split.name!r}: {unlabelled.iloc[0]!r} in {name} has no label")
    for column in ("cell",) if leaks else ("cell", "group", "sha256"):
        seen: dict[str, str] = {}
        for name, side in sides.items():
            for value in side[column].unique():
                if value in seen:
                    raise SplitError(
                        f"split {split.name!r} leaks: {column} {value!r} stands in {seen[value]} and in {name}; "
                        "make the splits again with 'leukoscope data split'"
                    )
                seen[value] = name


def check_plan(cells: pd.DataFrame, plan: SplitPlan) -> None:
    """Check every split of a plan against the table.

    Raises
    ------
    SplitError
        As ``assert_disjoint``; there is no split, a name stands twice, or the rows are not those the plan was made for.
    """
    names = [split.name for split in plan.splits]
    if not names or len(set(names)) != len(names):
        raise SplitError(f"a plan needs splits with different names, got: {', '.join(names) or 'none'}")
    for split in plan.splits:
        assert_disjoint(cells, split, leaks=plan.leaks)
    if _named_sha256(cells, plan.splits) != plan.cells_sha256:
        raise SplitError(
            "the cell table is not the one the splits were made for (a file, label, subject, group or fold differs); "
            "make the splits again with 'leukoscope data split'"
        )


def write_splits(plan: SplitPlan, cells: pd.DataFrame, path: Path) -> None:
    """Check a plan and write it; an interrupted write leaves the old file in place."""
    check_plan(cells, plan)
    write_atomically(path, json.dumps(dataclasses.asdict(plan), indent=1, ensure_ascii=False) + "\n")


def read_splits(path: Path, cells: pd.DataFrame) -> SplitPlan:
    """Read a plan and check it against the table.

    Raises
    ------
    UsageError
        There is no such file.
    SplitError
        Not a ``splits.json`` of this format, or ``check_plan`` fails.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{path}: no such file; make it with 'leukoscope data split'") from None
    except ValueError as error:
        raise SplitError(f"{path}: not JSON: {error}") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise SplitError(
            f"{path}: schema_version {version!r}, this release reads {SCHEMA_VERSION}; make the splits again"
        )
    try:
        plan = TypeAdapter(SplitPlan).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SplitError(f"{path}: {where}: {first['msg']}; make the splits again") from None
    check_plan(cells, plan)
    return plan


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
    for label in (BLAST, NORMAL):
        positions = np.flatnonzero(known["label"].eq(label).to_numpy())
        if len(positions) < per_class:
            raise SplitError(
                f"protocol 'paper' draws {per_class} images of each class, only {len(positions)} are {label}; "
                f"choose fewer with --per-class {len(positions)}"
            )
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


def _rows(cells: pd.DataFrame, keys: Sequence[str], where: str = "cells") -> pd.DataFrame:
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise SplitError(f"{where}: the cell {twice!r} stands twice")
    rows = cells[cells["cell"].isin(set(keys))]
    if len(rows) != len(keys):
        absent = next(iter(set(keys) - set(rows["cell"])))
        raise SplitError(f"{where}: the cell {absent!r} is not in the cell table; import again")
    return rows


def _named_sha256(cells: pd.DataFrame, splits: Sequence[Split]) -> str:
    named = {key for split in splits for side in (*split.parts().values(), split.removed) for key in side}
    return table_sha256(cells[cells["cell"].isin(named)])
