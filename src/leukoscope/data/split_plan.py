"""The plan of splits and its file, ``splits.json``.

A group is never on two sides of a split. This is checked when a plan is made, when it is written and again when it
is read. A plan that cannot guarantee it is marked with ``leaks``.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from leukoscope.core.errors import SplitError, UsageError
from leukoscope.core.io import write_text
from leukoscope.core.text import TextError, read_json
from leukoscope.core.validation import first_fault
from leukoscope.data.table import table_sha256

SCHEMA_VERSION: Final = 1
ALL_CELLS = "all-cells"
"""Name of the split that trains on every cell and has no test part."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One division of cells, by their keys."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    removed: tuple[str, ...] = ()
    """Cells taken off the training side because their group is also on the test side."""

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
    """Whether subjects may be on two sides, so that results are inflated."""
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


def make_plan(
    cells: pd.DataFrame, protocol: str, seed: int, leaks: bool, splits: Sequence[Split]
) -> SplitPlan:
    """Bind splits to the rows they name, after checking them."""
    plan = SplitPlan(SCHEMA_VERSION, protocol, seed, leaks, _named_sha256(cells, splits), tuple(splits))
    check_plan(cells, plan)
    return plan


def single_split(plan: SplitPlan, name: str, cells: pd.DataFrame) -> SplitPlan:
    """Return a plan with one split of another, for a run folder."""
    return make_plan(cells, plan.protocol, plan.seed, plan.leaks, [plan.named(name)])


def assert_disjoint(cells: pd.DataFrame, split: Split, *, leaks: bool = False) -> None:
    """Check that no group and no identical file is on two sides of a split.

    Parameters
    ----------
    cells
        Cell table.
    split
        What to check.
    leaks
        The plan is marked as leaking: then only cells on two sides are an error.

    Raises
    ------
    SplitError
        A side is empty (validation may be, and the test part of ``ALL_CELLS``), a cell is not in the table,
        has no label or occurs twice, or a group is on two sides; the message names it.
    """
    sides = {
        name: select_rows(cells, keys, f"split {split.name!r}, {name}")
        for name, keys in split.parts().items()
    }
    for name, side in sides.items():
        may_be_empty = name == "validation" or (name == "test" and split.name == ALL_CELLS)
        if side.empty and not may_be_empty:
            raise SplitError(f"split {split.name!r}: the {name} part is empty")
        unlabeled = side.loc[side["label"].eq(""), "cell"]
        if len(unlabeled):
            raise SplitError(f"split {split.name!r}: {unlabeled.iloc[0]!r} in {name} has no label")
    for column in ("cell",) if leaks else ("cell", "group", "sha256"):
        seen: dict[str, str] = {}
        for name, side in sides.items():
            for value in side[column].unique():
                if value in seen:
                    raise SplitError(
                        f"split {split.name!r} leaks: {column} {value!r} is in {seen[value]} and in {name}; "
                        "make the splits again with 'leukoscope data split'"
                    )
                seen[value] = name


def check_plan(cells: pd.DataFrame, plan: SplitPlan) -> None:
    """Check every split of a plan against the table.

    Raises
    ------
    SplitError
        As ``assert_disjoint``; there is no split, a name occurs twice, or the rows are not those the plan was made for.
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
    write_text(path, json.dumps(dataclasses.asdict(plan), indent=1, ensure_ascii=False) + "\n")


def read_splits(path: Path, cells: pd.DataFrame) -> SplitPlan:
    """Read a plan and check it against the table.

    Raises
    ------
    UsageError
        There is no such file.
    SplitError
        Not a ``splits.json`` of this format, or ``check_plan`` fails.
    """
    plan = read_unchecked_splits(path, cells)
    check_plan(cells, plan)
    return plan


def read_unchecked_splits(path: Path, cells: pd.DataFrame) -> SplitPlan:
    """Read a plan without asserting that it keeps groups apart: for the audit, which measures that.

    Raises
    ------
    UsageError
        There is no such file.
    SplitError
        Not a ``splits.json`` of this format, or it names a cell that is not in the table.
    """
    try:
        content = read_json(path)
    except (FileNotFoundError, IsADirectoryError):
        raise UsageError(f"{path}: no such file; make it with 'leukoscope data split'") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except TextError as error:
        raise SplitError(str(error)) from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise SplitError(
            f"{path}: schema_version {version!r}, this release reads {SCHEMA_VERSION}; make the splits again"
        )
    try:
        plan = TypeAdapter(SplitPlan).validate_python(content)
    except ValidationError as error:
        place, message = first_fault(error)
        raise SplitError(f"{path}: {place}: {message}; make the splits again") from None
    for split in plan.splits:
        for name, keys in split.parts().items():
            select_rows(cells, keys, f"{path}: split {split.name!r}, {name}")
    return plan


def select_rows(cells: pd.DataFrame, keys: Sequence[str], where: str = "cells") -> pd.DataFrame:
    """Return the rows of some keys, in the order of the table; a missing or duplicate key is an error."""
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise SplitError(f"{where}: the cell {twice!r} occurs twice")
    rows = cells[cells["cell"].isin(set(keys))]
    if len(rows) != len(keys):
        absent = next(iter(set(keys) - set(rows["cell"])))
        raise SplitError(f"{where}: the cell {absent!r} is not in the cell table; import again")
    return rows


def _named_sha256(cells: pd.DataFrame, splits: Sequence[Split]) -> str:
    named = {key for split in splits for side in (*split.parts().values(), split.removed) for key in side}
    return table_sha256(cells[cells["cell"].isin(named)])
