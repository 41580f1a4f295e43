"""Train one recipe on a leaking and on a subject-disjoint split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def train_both(
    config: Path,
    cells: Path,
    *,
    split: str | None,
    per_class: int,
    out: Path,
    overrides: list[str],
    make_callback: Callable[[], Any],
) -> list[Path]:
    """Train the recipe twice and return the run folders, the leaking one first.

    Parameters
    ----------
    config, cells
        Settings file and cell table.
    split
        Name of the official split to hold out; None takes the first.
    per_class
        Images of each class in the leaking split.
    out
        Parent of the run folders; the two splits are written there too.
    overrides
        ``section.key=value`` for both.
    make_callback
        Returns the ``TrainingCallback`` of one training; its ``close()`` is called at the end.
    """
    from leukoscope.data.splits import make_splits, write_splits
    from leukoscope.data.table import read_cells
    from leukoscope.models.session import OpenVinoGraphs
    from leukoscope.training.recipe import read_settings
    from leukoscope.training.run import start_run

    settings = read_settings(config, overrides)
    table = read_cells(cells)
    leaking = make_splits(table, "paper", seed=settings.seed, per_class=per_class)
    disjoint = make_splits(table, "official", seed=settings.seed)
    names = (leaking.splits[0].name, disjoint.named(split).name if split else disjoint.splits[0].name)
    folders = []
    for plan, name in zip((leaking, disjoint), names, strict=True):
        path = out / f"splits_{plan.protocol}.json"
        write_splits(plan, table, path)
        callback = make_callback()
        try:
            folders.append(
                start_run(
                    cells,
                    path,
                    name,
                    settings,
                    out=out,
                    run_name=config.stem,
                    callback=callback,
                    engine=OpenVinoGraphs(),
                )
            )
        finally:
            callback.close()
    return folders
