"""Cohorts of cell images: the shipped sample, C-NMC 2019, and your own class folders or tables.

>>> from leukoscope import datasets
>>> len(datasets.sample_paths())
60
"""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from leukoscope import assets
from leukoscope.core.errors import UsageError
from leukoscope.core.places import expand_user

if TYPE_CHECKING:
    import pandas as pd

    from leukoscope.data.split_plan import SplitPlan
    from leukoscope.data.splits import Protocol

__all__ = ["Cell", "Cohort", "cnmc", "folder", "sample", "sample_directory", "sample_paths"]


@dataclass(frozen=True)
class Cell:
    """One cell image of a cohort.

    Attributes
    ----------
    path
        The image file.
    label
        ``blast``, ``normal`` or None.
    subject
        Subject id, or None.
    fold
        The data set's own part, or None.
    """

    path: Path
    label: str | None
    subject: str | None
    fold: str | None = None

    def read(self) -> NDArray[np.uint8]:
        """Decode the image: uint8 RGB (H, W, 3)."""
        from leukoscope.imaging.decode import decode_image

        return decode_image(self.path)


@dataclass(frozen=True)
class Cohort:
    """Cells with labels and subjects; a sequence of ``Cell``.

    Attributes
    ----------
    cells
        The cells in the order of the table.
    name
        Short name for messages.
    table
        The cell table (``cells.csv`` as a DataFrame), or None for the shipped sample.
    """

    cells: tuple[Cell, ...]
    name: str
    table: "pd.DataFrame | None" = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    @overload
    def __getitem__(self, index: int) -> Cell: ...

    @overload
    def __getitem__(self, index: slice) -> "Cohort": ...

    def __getitem__(self, index: int | slice) -> "Cell | Cohort":
        if isinstance(index, slice):
            table = None if self.table is None else self.table.iloc[index]
            return Cohort(self.cells[index], self.name, table)
        return self.cells[index]

    @property
    def paths(self) -> list[Path]:
        """Image files."""
        return [cell.path for cell in self.cells]

    @property
    def labels(self) -> NDArray[Any]:
        """(N,) label of each cell; '' if unknown."""
        return np.array([cell.label or "" for cell in self.cells])

    @property
    def subjects(self) -> NDArray[Any]:
        """(N,) subject of each cell; '' if unknown."""
        return np.array([cell.subject or "" for cell in self.cells])

    def splits(
        self, protocol: "Protocol" = "grouped", *, k: int = 5, seed: int = 0, validation_share: float = 0.0
    ) -> "SplitPlan":
        """Make splits in which no subject is on two sides; see ``leukoscope.make_splits``."""
        if self.table is None:
            raise UsageError(f"{self.name}: splits need a cell table; read it with datasets.folder(path)")
        from leukoscope.data.splits import make_splits

        return make_splits(self.table, protocol, k=k, seed=seed, validation_share=validation_share)


def sample_directory() -> Path:
    """Return the folder of the 60 shipped C-NMC cells (``fold_0/all/...``)."""
    return assets.sample_cells_directory()


def sample_paths() -> list[Path]:
    """Return the files of the 60 shipped C-NMC cells."""
    return sample().paths


def sample() -> Cohort:
    """Return the 60 shipped C-NMC cells; needs neither pandas nor a download."""
    folder_ = assets.sample_cells_directory()
    with assets.sample_table_path().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = (Cell(folder_ / row["file"], row["label"], row["subject"], row["fold"]) for row in rows)
    return Cohort(tuple(cells), "sample")


def cnmc(root: str | os.PathLike[str], *, folds: Iterable[str] | None = None) -> Cohort:
    """Read C-NMC 2019 from a folder: the official archive's layout, or any part of it.

    Parameters
    ----------
    root
        Folder with ``fold_0/all``, ``fold_0/hem`` and so on (``C-NMC_training_data`` or above it).
    folds
        Names of the folds to take, for example ``["fold_0", "fold_1"]``; all by default.

    Raises
    ------
    UsageError
        The folder holds no images of C-NMC, or there is no such fold.

    Notes
    -----
    S. Mourya et al., The Cancer Imaging Archive, 2019, doi 10.7937/tcia.2019.dc64i46r, CC BY 3.0. Needs the extra
    ``evaluate``.
    """
    cohort = folder(root)
    known = sorted({cell.fold for cell in cohort if cell.fold})
    if not known:
        raise UsageError(f"{root}: no image is in a fold of C-NMC; for other cohorts use datasets.folder")
    if folds is None:
        return Cohort(cohort.cells, "C-NMC 2019", cohort.table)
    wanted = [folds] if isinstance(folds, str) else list(folds)
    if missing := [fold for fold in wanted if fold not in known]:
        raise UsageError(f"{root}: no {', '.join(missing)}; there are: {', '.join(known)}")
    rows = [number for number, cell in enumerate(cohort) if cell.fold in wanted]
    table = None if cohort.table is None else cohort.table.iloc[rows].reset_index(drop=True)
    return Cohort(tuple(cohort.cells[row] for row in rows), "C-NMC 2019", table)


def folder(
    source: str | os.PathLike[str],
    *,
    table: str | os.PathLike[str] | None = None,
    classes: Mapping[str, Iterable[str]] | None = None,
) -> Cohort:
    """Read a cohort from class folders or from a CSV of files, labels and subjects.

    Parameters
    ----------
    source
        Folder or CSV, as for ``leukoscope data import``.
    table
        Where the cell table is written, so that a second call is fast; not kept by default.
    classes
        Further words for the classes: ``{"blast": ["leukemic"], "normal": ["reactive"]}``.

    Raises
    ------
    UsageError, CohortError
        See ``leukoscope.import_cohort``.
    """
    from leukoscope.data.importing import import_cohort
    from leukoscope.data.table import read_cells, resolve_paths

    words = _class_text(classes)
    place = expand_user(source)
    with TemporaryDirectory() as scratch:
        target = Path(scratch) / "cells.csv" if table is None else expand_user(table)
        import_cohort(place, target, blast=words["blast"], normal=words["normal"])
        frame = read_cells(target)
        paths = resolve_paths(frame, target)
    columns = (frame[name] for name in ("label", "subject", "fold"))
    cells = tuple(
        Cell(path, label or None, subject or None, fold or None)
        for path, label, subject, fold in zip(paths, *columns, strict=True)
    )
    return Cohort(cells, place.name, frame)


def _class_text(classes: Mapping[str, Iterable[str]] | None) -> dict[str, list[str]]:
    words: dict[str, list[str]] = {"blast": [], "normal": []}
    for name, given in (classes or {}).items():
        if name not in words:
            raise UsageError(f"classes: {name!r}: expected 'blast' or 'normal'")
        words[name] = [given] if isinstance(given, str) else list(given)
    return words
