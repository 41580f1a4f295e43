"""``leukoscope benchmark train``: seconds per epoch, images/s, peak memory, plain torch beside it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.errors import UsageError

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
        epilog="Example: leukoscope benchmark train --config configs/paper.toml --epochs 2 "
        "--set engine.precision=bf16-mixed --out training.json",
    )(benchmark_train)


def benchmark_train(
    *,
    config: Annotated[Path | None, typer.Option(help="Recipe, e.g. configs/paper.toml.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")
    ] = None,
    cells: Annotated[Path | None, typer.Option(help="Cell table; random pixels without one.")] = None,
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
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the epochs of a recipe without early stopping, and plain torch in the same process.

    The time of an epoch does not depend on what the cells show, so that no cohort is needed.
    """
    from leukoscope.cli.benchmark_machine import MachineWatch
    from leukoscope.cli.train import make_listener, read_settings

    if (cells is None) != (splits is None):
        raise UsageError("give --cells and --splits together, or neither for random pixels")
    overrides = [*(set_ or []), *(QUICK if quick else ())]
    overrides += [] if threads is None else [f"engine.threads={threads}"]
    settings = read_settings(config, overrides)
    listener = make_listener(quiet=as_json)
    watch = MachineWatch()
    try:
        with TemporaryDirectory(dir=work) as name:
            measured = _measure(
                settings,
                Path(name),
                table=None if cells is None or splits is None else (cells, splits, split),
                images=QUICK_IMAGES if quick else images,
                epochs=epochs,
                plain_images=QUICK_IMAGES if quick else plain_images,
                listener=listener,
            )
    finally:
        listener.close()
    result = {"machine": watch.machine(measured["threads"]).model_dump(), **measured}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(out.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(out)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        typer.echo(render_training_table(result))


def _measure(
    settings: "TrainSettings",
    folder: Path,
    *,
    table: tuple[Path, Path, str | None] | None,
    images: int,
    epochs: int,
    plain_images: int,
    listener: Any,
) -> dict[str, Any]:
    import numpy as np

    from leukoscope.runtime.session import OpenVinoGraphs
    from leukoscope.training.benchmark import measure_training, synthetic_cells, table_cells

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
        listener=listener,
        engine=OpenVinoGraphs(),
    )


def render_training_table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        f"{result['architecture']}, {result['input_px']} px, {result['images_per_epoch']:,} images an epoch, "
        f"{result['precision']}, {result['threads']} threads:",
        "",
        "| epochs | as run, s | plain torch, s | ratio |",
        "|---|---|---|---|",
    ]
    for stage in result["stages"]:
        layers = {0: "the head", -1: "everything"}.get(
            stage["unfreeze_layers"], f"the head and the last {stage['unfreeze_layers']} layers"
        )
        lines.append(
            _row(
                f"stage {stage['stage']}, trains {layers} ({stage['epochs_timed']} timed)",
                stage["seconds_per_epoch"],
                stage["plain_seconds_per_epoch"],
            )
        )
    lines.append(
        _row(
            f"mean of the recipe's {result['epochs']} epochs",
            result["seconds_per_epoch"],
            result["plain_seconds_per_epoch"],
        )
    )
    views = f"{result['views']} views drawn in advance" if result["views"] else "fresh views in every epoch"
    lines += [
        "",
        f"{result['images_per_second']:.1f} images/s, plain torch {result['plain_images_per_second']:.1f}; "
        f"peak memory {result['peak_memory_mb']:,.0f} MB. Frozen part: {result['frozen_forward']}; {views}. "
        f"Plain torch runs the whole network in float32 in every step; it was timed on "
        f"{result['plain_images_timed']} images.",
    ]
    return "\n".join(lines)


def _row(name: str, seconds: float, plain_seconds: float) -> str:
    return f"| {name} | {seconds:.1f} | {plain_seconds:.1f} | {plain_seconds / seconds:.1f} |"
