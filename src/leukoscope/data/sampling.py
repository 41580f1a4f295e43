"""A small balanced sample of a cohort, spread over subjects."""

import shutil
from collections import deque
from pathlib import Path

import numpy as np
import pandas as pd

from leukoscope.core.errors import CohortError, UsageError
from leukoscope.core.io import replacing, write_text
from leukoscope.core.outputs import Outputs, Recognizer, with_mark
from leukoscope.data.cnmc import ATTRIBUTION, FOLDER_OF_LABEL, parse_name
from leukoscope.data.official import official_by_sha256
from leukoscope.data.table import BLAST, LABEL_VALUES, NORMAL, labeled, resolve_paths


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
    known = labeled(cells).drop_duplicates("sha256")
    positions: list[int] = []
    for label, wanted in ((BLAST, count - count // 2), (NORMAL, count // 2)):
        of_class = known[known["label"] == label]
        if len(of_class) < wanted:
            raise CohortError(
                f"{wanted} different {label} cells wanted, {len(of_class)} there; draw at most {2 * len(of_class)}"
            )
        positions += _take_in_turn(of_class, wanted, rng)
    return cells.loc[sorted(positions)]


def copy_sample(sample: pd.DataFrame, table: Path, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Copy the files of a sample; C-NMC files keep their layout, others go into one folder a class.

    Parameters
    ----------
    sample
        Rows of a cell table.
    table
        Path of that table.
    folder
        Folder of the copies; for C-NMC cells the attribution is added.
    overwrite
        Replace other files of the same names.

    Raises
    ------
    CohortError
        A file of the table is no longer there.
    UsageError
        Another file has the name of a copy.
    """
    plan: list[tuple[Path, Path]] = []
    from_cnmc = False
    for source, row in zip(resolve_paths(sample, table), sample.to_dict("records"), strict=True):
        is_cnmc = parse_name(source.name) is not None or row["sha256"] in official_by_sha256()
        from_cnmc |= is_cnmc
        label = row["label"]
        inner = Path(row["fold"], FOLDER_OF_LABEL[LABEL_VALUES[label]]) if is_cnmc else Path(label)
        target = folder / inner / source.name
        if any(target == other for _, other in plan):
            target = target.with_name(f"{source.stem}-{row['sha256'][:8]}{source.suffix}")
        plan.append((source, target))
    outputs = Outputs(overwrite=overwrite)
    outputs.read(table, *(source for source, _ in plan))
    for source, target in plan:
        outputs.file(target, "--out", own=_copy_of(source))
    if from_cnmc:
        outputs.file(folder / "ATTRIBUTION.txt", "--out", own=with_mark(ATTRIBUTION[:40]))
    outputs.check()
    for source, target in plan:
        try:
            with replacing(target) as part:
                shutil.copyfile(source, part)
        except FileNotFoundError:
            raise CohortError(f"{source}: no such file any more; import the cohort again") from None
    if from_cnmc:
        write_text(folder / "ATTRIBUTION.txt", ATTRIBUTION)
    return [target for _, target in plan]


def _copy_of(source: Path) -> Recognizer:
    return lambda path: path.read_bytes() == source.read_bytes()


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
