"""Decoded cells in a memory map with labels and groups, and the order of an epoch."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import CohortError, ImageError, TrainingError
from leukoscope.core.io import replacing
from leukoscope.data.table import label_numbers
from leukoscope.imaging.canvas import CANVAS_PX, prepare_cell
from leukoscope.imaging.decode import decode_image, read_file

CHUNK = 64
Progress = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


@dataclass(frozen=True)
class CellSet:
    """Labeled cells with their pixels.

    Parameters
    ----------
    table
        Rows of the cell table.
    images
        (N, S, S, 3) uint8, rows as in ``table``; usually a memory map.
    labels
        (N,) float32, the number of the class; of two classes 1 for blast.
    groups
        (N,) int64, number of the group.
    classes
        Of the labels.
    """

    table: pd.DataFrame
    images: NDArray[np.uint8]
    labels: NDArray[np.float32]
    groups: NDArray[np.int64]
    classes: ClassSchema = BINARY

    def rows(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return the row numbers of cells by their keys, in the order of the keys."""
        position = {cell: row for row, cell in enumerate(self.table["cell"])}
        return np.array([position[key] for key in keys], np.int64)


def load_cells(
    table: pd.DataFrame,
    paths: Sequence[Path],
    input_px: int,
    folder: Path,
    progress: Progress | None = None,
    *,
    classes: ClassSchema = BINARY,
) -> CellSet:
    """Decode and prepare every cell once, into a memory map that later runs over the same files open again.

    Parameters
    ----------
    table, paths
        Rows of labeled cells, and the file of each.
    input_px
        Side of the prepared cells.
    folder
        Where the memory map is kept; its name hashes the files' digests and the preparation.
    classes
        Of the labels.

    Raises
    ------
    CohortError
        An image is unreadable, or no longer the file that the table was made of; the message names it.
    """
    key = hashlib.sha256(f"{CANVAS_PX} {input_px} ".encode() + "".join(table["sha256"]).encode()).hexdigest()[
        :16
    ]
    path = folder / f"cells-{input_px}-{key}.npy"
    shape = (len(table), input_px, input_px, 3)
    if not path.is_file():
        with replacing(path) as part:
            _decode_into(part, paths, tuple(table["sha256"]), shape, progress)
    images = np.load(path, mmap_mode="r")
    if images.shape != shape or images.dtype != np.uint8:
        raise CohortError(f"{path}: shape {images.shape}, expected {shape}; delete the file")
    labels = label_numbers(table["label"], classes).astype(np.float32)
    groups = pd.factorize(table["group"])[0].astype(np.int64)
    return CellSet(table.reset_index(drop=True), images, labels, groups, classes)


def _decode_into(
    target: Path,
    paths: Sequence[Path],
    digests: Sequence[str],
    shape: tuple[int, ...],
    progress: Progress | None,
) -> None:
    images = np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=shape)

    def fill(row: int) -> None:
        try:
            content = read_file(paths[row])
            _check_digest(paths[row], content, digests[row])
            images[row] = prepare_cell(decode_image(content), shape[1])
        except ImageError as error:
            raise CohortError(f"{paths[row]}: {error}; import the cohort again") from None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), CHUNK):
            list(pool.map(fill, range(start, min(start + CHUNK, len(paths)))))
            if progress is not None:
                progress(min(start + CHUNK, len(paths)), len(paths))
    images.flush()


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise CohortError(
            f"{path}: SHA-256 is {found[:12]}..., the table says {expected[:12]}...: the file changed since the "
            "import; put it back, or import the cohort again and make its splits again"
        )


def check_classes(cells: CellSet, rows: NDArray[np.int64], part: str) -> None:
    """Raise ``TrainingError`` unless the part has cells of every class."""
    for number, name in enumerate(cells.classes.names):
        if not (cells.labels[rows] == number).any():
            raise TrainingError(
                f"the {part} part has {len(rows)} cells and none of class {name}; "
                "make another split with 'leukoscope data split'"
            )


def epoch_order(
    cells: CellSet,
    rows: NDArray[np.int64],
    sampling: Literal["shuffle", "class", "subject"],
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Return the rows of one epoch in their order.

    Parameters
    ----------
    cells, rows
        The cells and the training rows among them.
    sampling
        As in ``DataSettings``.
    count
        Cells of the epoch; 0 for ``len(rows)``.
    rng
        Of this epoch.
    """
    count = count or len(rows)
    if sampling == "shuffle":
        laps = -(-count // len(rows))
        return np.concatenate([rng.permutation(rows) for _ in range(laps)])[:count]
    return rng.choice(rows, size=count, replace=True, p=cell_chances(cells, rows, sampling))


def cell_chances(
    cells: CellSet, rows: NDArray[np.int64], sampling: Literal["shuffle", "class", "subject"]
) -> NDArray[np.float64]:
    """Return how often each of the rows is drawn on average, as shares that sum to 1."""
    if sampling == "shuffle":
        return np.full(len(rows), 1.0 / len(rows))
    labels, groups = cells.labels[rows], cells.groups[rows]
    chances = np.zeros(len(rows))
    for label in np.unique(labels):
        of_class = labels == label
        if sampling == "class":
            chances[of_class] = 1.0 / of_class.sum()
            continue
        members = np.unique(groups[of_class])
        for group in members:
            of_group = of_class & (groups == group)
            chances[of_group] = 1.0 / (len(members) * of_group.sum())
    shares: NDArray[np.float64] = chances / chances.sum()
    return shares
