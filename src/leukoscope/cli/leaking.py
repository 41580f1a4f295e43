"""Training one recipe on a leaking and on a subject-disjoint split: where data, training and evaluation meet."""

from pathlib import Path


def train_both(
    config: Path, cells: Path, *, split: str | None, per_class: int, out: Path, overrides: list[str]
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
    """
    from leukoscope.cli import train as train_command
    from leukoscope.data.splits import make_splits, write_splits
    from leukoscope.data.table import read_cells
    from leukoscope.models.session import OpenVinoGraphs
    from leukoscope.training.run import start_run

    settings = train_command.read_settings(config, overrides)
    table = read_cells(cells)
    leaking = make_splits(table, "paper", seed=settings.seed, per_class=per_class)
    disjoint = make_splits(table, "official", seed=settings.seed)
    names = (leaking.splits[0].name, disjoint.named(split).name if split else disjoint.splits[0].name)
    folders = []
    for plan, name in zip((leaking, disjoint), names, strict=True):
        path = out / f"splits_{plan.protocol}.json"
        write_splits(plan, table, path)
        # The bars of `leukoscope train` itself.
        callback = train_command.make_callback(quiet=False)
        try:
            folders.append(
                start_run(
                    cells,
                    path,
                    name,
                    settings,
                    out=out,
                    config_name=config.stem,
                    callback=callback,
                    engine=OpenVinoGraphs(),
                )
            )
        finally:
            callback.close()
    return folders
