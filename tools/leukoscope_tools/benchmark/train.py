"""``python -m leukoscope_tools benchmark train``: seconds per epoch, images/s, memory; plain torch."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.core.errors import UsageError

if TYPE_CHECKING:
    from leukoscope.training.settings import TrainSettings

QUICK = (
    "network.weights=none",
    "network.arch=efficientnet_b0",
    "network.input_px=64",
    "engine.batch_size=8",
    "engine.frozen_forward=openvino",
    "stage1.epochs=2",
    "stage2.epochs=2",
    "stage2.unfreeze_layers=30",
)
QUICK_IMAGES = 32


def register(app: typer.Typer) -> None:
    """Add the command to the group ``benchmark``."""
    app.command(
        "train",
        epilog="Example: python -m leukoscope_tools benchmark train --config configs/paper.toml --epochs 2 "
        "--set engine.precision=bf16-mixed --out training.json",
    )(benchmark_train)


def benchmark_train(
    *,
    config: Annotated[Path | None, typer.Option(help="Recipe, e.g. configs/paper.toml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    cells: Annotated[
        Path | None, typer.Option(help="Cell table; without one, discs of random pixels.")
    ] = None,
    splits: Annotated[Path | None, typer.Option(help="splits.json of that table.")] = None,
    split: Annotated[str | None, typer.Option(help="Name of the split.")] = None,
    images: Annotated[int, typer.Option(min=8, help="Training images, where there is no table.")] = 3000,
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of each stage that are timed; 0 for the whole recipe.")
    ] = 0,
    plain_images: Annotated[int, typer.Option(min=4, help="Images that plain torch is timed on.")] = 192,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; every core by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A small network on few images: to see that it works.")
    ] = False,
    work: Annotated[Path | None, typer.Option(help="Folder for caches; a temporary one without it.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the epochs of a recipe without early stopping, and plain torch in the same process.

    The time of an epoch does not depend on what the cells show, so that no cohort is needed.
    """
    from leukoscope.cli.train import make_callback
    from leukoscope.training.recipe import read_settings
    from leukoscope_tools.benchmark.machine import MachineWatch
    from leukoscope_tools.benchmark.records import write_record
    from leukoscope_tools.benchmark.training_records import TrainingSpeed, render_training_speed

    if (cells is None) != (splits is None):
        raise UsageError("give --cells and --splits together, or neither for discs of random pixels")
    overrides = [*(set_ or []), *(QUICK if quick else ())]
    overrides += [] if threads is None else [f"engine.threads={threads}"]
    settings = read_settings(config, overrides)
    watch, callback = MachineWatch(), make_callback(quiet=as_json)
    try:
        with TemporaryDirectory(dir=work) as name:
            measured = _measure(
                settings,
                Path(name),
                table=None if cells is None or splits is None else (cells, splits, split),
                images=QUICK_IMAGES if quick else images,
                epochs=epochs,
                plain_images=QUICK_IMAGES if quick else plain_images,
                callback=callback,
            )
    finally:
        callback.close()
    result = TrainingSpeed.model_validate({"machine": watch.machine(measured.pop("threads")), **measured})
    if out is not None:
        write_record(result, out)
    typer.echo(result.model_dump_json(indent=1) if as_json else render_training_speed(result))


def _measure(
    settings: "TrainSettings",
    folder: Path,
    *,
    table: tuple[Path, Path, str | None] | None,
    images: int,
    epochs: int,
    plain_images: int,
    callback: Any,
) -> dict[str, Any]:
    import numpy as np

    from leukoscope.models.session import OpenVinoGraphs
    from leukoscope_tools.benchmark.training import measure_training, synthetic_cells, table_cells

    side = settings.network.input_px
    if table is None:
        cell_set = synthetic_cells(images, side, folder)
        train, validation = np.arange(images), np.arange(0)
    else:
        cell_set, parts = table_cells(*table, side, folder)
        train, validation = cell_set.rows(parts.train), cell_set.rows(parts.validation)
    return measure_training(
        cell_set,
        settings,
        folder / "runs",
        train=train,
        validation=validation,
        plain_images=plain_images,
        epochs=epochs,
        callback=callback,
        engine=OpenVinoGraphs(),
    )
