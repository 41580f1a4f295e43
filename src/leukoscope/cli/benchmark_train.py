"""``leukoscope benchmark train``: seconds per epoch, images/s, peak memory, plain torch beside it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from leukoscope.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command to the group ``benchmark``."""
    app.command(
        "train", epilog="Example: leukoscope benchmark train --config configs/paper-fast.toml --json"
    )(benchmark_train)


def benchmark_train(
    *,
    cells: Annotated[Path | None, typer.Option(help="Cell table; random pixels without one.")] = None,
    splits: Annotated[Path | None, typer.Option(help="splits.json of that table.")] = None,
    split: Annotated[str | None, typer.Option(help="Name of the split.")] = None,
    images: Annotated[int, typer.Option(min=8, help="Training images, where there is no table.")] = 3000,
    plain_images: Annotated[int, typer.Option(min=4, help="Images that plain torch is timed on.")] = 192,
    config: Annotated[Path | None, typer.Option(help="TOML file, e.g. configs/paper-fast.toml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    work: Annotated[Path | None, typer.Option(help="Folder for caches; a temporary one without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Time a whole training of the recipe without early stopping, and plain torch in the same process."""
    import numpy as np

    from leukoscope.cli.train import make_listener, read_settings
    from leukoscope.training.benchmark import measure_training, synthetic_cells, table_cells

    if (cells is None) != (splits is None):
        raise UsageError("give --cells and --splits together, or neither for random pixels")
    settings = read_settings(config, [*(set_ or []), f"engine.threads={threads}"])
    listener = make_listener(quiet=as_json)
    try:
        with TemporaryDirectory(dir=work) as name:
            folder = Path(name)
            side = settings.network.input_px
            if cells is not None and splits is not None:
                cell_set, parts = table_cells(cells, splits, split, side, folder)
                train, validation = cell_set.rows(parts.train), cell_set.rows(parts.validation)
            else:
                cell_set = synthetic_cells(images, side, folder)
                train, validation = np.arange(images), np.arange(0)
            result = measure_training(
                cell_set,
                settings,
                folder / "runs",
                train=train,
                validation=validation,
                plain_images=plain_images,
                listener=listener,
            )
    finally:
        listener.close()
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{result['architecture']}, {result['input_px']} px, {result['threads']} threads")
    table.add_column("measure")
    table.add_column("fast path", justify="right")
    table.add_column("plain torch", justify="right")
    table.add_row(
        "seconds per epoch", f"{result['seconds_per_epoch']:.1f}", f"{result['plain_seconds_per_epoch']:.1f}"
    )
    table.add_row(
        "images per second", f"{result['images_per_second']:.1f}", f"{result['plain_images_per_second']:.1f}"
    )
    table.add_row("peak memory, MB", f"{result['peak_memory_mb']:.0f}", "")
    table.add_row("speed-up", f"{result['speed_up']:.2f}", "1")
    console = Console()
    console.print(table)
    console.print(
        f"{result['images_per_epoch']} images an epoch, {result['epochs']} epochs, {result['views']} views; computing "
        f"them took {result['seconds_computing_views']:.0f} s and is in the mean. Plain torch was timed on "
        f"{result['plain_images_timed']} images."
    )
