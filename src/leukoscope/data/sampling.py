"""A small balanced sample of a cohort, spread over subjects."""

import shutil
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd

from leukoscope.core.errors import CohortError, UsageError
from leukoscope.data.cnmc import ATTRIBUTION, FOLDER_OF_LABEL, parse_name
from leukoscope.data.official import official_by_sha256
from leukoscope.data.table import BLAST, LABEL_VALUES, NORMAL, labelled, resolve_paths, write_atomically


def draw_sample(cells: pd.DataFrame, count: int, *, seed: int = 0) -> pd.DataFrame:
    """Draw cells, half of each class, from the subjects in turn.

    Parameters
    ----------
    cells
        Cell table.
    count
        Cells in all, from 2; an odd one more is a blast.
    seed
        Of the order of subjects and of cells within a subject.

    Returns
    -------
    pandas.DataFrame
        Rows of the table, in its order, no two of them with identical files.

    Raises
    ------
    UsageError
        ``count`` is below 2.
    CohortError
        A class has fewer cells than asked for.
    """
    if count < 2:
        raise UsageError(f"a sample of {count}: at least 2, one cell of each class")
    rng = np.random.default_rng(seed)
    known = labelled(cells).drop_duplicates("sha256")
    positions: list[int] = []
    for label, wanted in ((BLAST, count - count // 2), (NORMAL, count // 2)):
        of_class = known[known["label"] == label]
        if len(of_class) < wanted:
            raise CohortError(
                f"{wanted} different {label} cells wanted, {len(of_class)} there; draw at most {2 * len(of_class)}"
            )
        positions += _take_in_turn(of_class, wanted, rng)
    return cells.loc[sorted(positions)]


def copy_sample(sample: pd.DataFrame, table: Path, folder: Path) -> list[Path]:
    """Copy the files of a sample; C-NMC files keep their layout, others go into one folder a class.

    Parameters
    ----------
    sample
        Rows of a cell table.
    table
        Where that table stands.
    folder
        Where the copies go; the attribution is put beside C-NMC cells.

    Raises
    ------
    CohortError
        A file of the table is no longer there.
    """
    written = []
    from_cnmc = False
    for source, row in zip(resolve_paths(sample, table), sample.to_dict("records"), strict=True):
        is_cnmc = parse_name(source.name) is not None or row["sha256"] in official_by_sha256()
        from_cnmc |= is_cnmc
        label = row["label"]
        inner = Path(row["fold"], FOLDER_OF_LABEL[LABEL_VALUES[label]]) if is_cnmc else Path(label)
        target = folder / inner / source.name
        if target in written:
            target = target.with_name(f"{source.stem}-{row['sha256'][:8]}{source.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            shutil.copyfile(source, part)
        except FileNotFoundError:
            raise CohortError(f"{source}: no such file any more; import the cohort again") from None
        part.replace(target)
        written.append(target)
    if from_cnmc:
        write_atomically(folder / "ATTRIBUTION.txt", ATTRIBUTION)
    return written


def _take_in_turn(of_class: pd.DataFrame, wanted: int, rng: np.random.Generator) -> list[int]:
    queues = [
        deque(rng.permutation(side.index.to_numpy()).tolist())
        for _, side in of_class.sample(frac=1, random_state=rng).groupby("group", sort=False)
    ]
    taken: list[int] = []
    while len(taken) < wanted:
        for queue in queues:
            if queue and len(taken) < wanted:
                taken.append(queue.popleft())
    return taken
