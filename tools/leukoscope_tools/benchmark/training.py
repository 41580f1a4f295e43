"""Measure the cost of training: the recipe, and plain torch in the same process."""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.core.errors import UsageError
from leukoscope.training.batches.dataset import CellSet, load_cells
from leukoscope.training.batches.frozen_source import GraphEngine
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.fit.state import Task
from leukoscope.training.fit.trainer import Finetuner
from leukoscope.training.run import launch, make_network
from leukoscope.training.run_folder import peak_memory_mb
from leukoscope.training.settings import STAGE_NAMES, StageSettings, TrainSettings

WARM_UP_EPOCHS = 1
CELL_SHARE = 0.16
"""Of the canvas: the median of the 7,108 cells of C-NMC's folds 0 and 1 (``area_px`` in their table)."""


def measure_training(
    cells: CellSet,
    settings: TrainSettings,
    folder: Path,
    *,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    plain_images: int,
    epochs: int = 0,
    callback: TrainingCallback | None = None,
    engine: GraphEngine | None = None,
) -> dict[str, Any]:
    """Time epochs of the recipe, without early stopping, and plain torch on some of the same cells.

    Parameters
    ----------
    cells, train, validation
        The training data.
    settings
        The recipe, with its engine.
    folder
        For checkpoints and caches; removed afterwards.
    plain_images
        Cells that plain torch (float32, the whole network in every step, nothing kept, no engine) trains on, one epoch
        to warm up and one that is timed; its seconds per epoch are for as many cells as the recipe has.
    epochs
        Of each stage that are timed, after one that warms up; 0 for all of the recipe, the first one timed too.
    callback, engine
        As in ``run.start_run``.

    Returns
    -------
    dict
        Plain data. ``seconds_per_epoch`` is the mean over all epochs of the recipe, each stage's epochs at the mean of
        those that were timed. One-time work per stage (computing cached views, compiling a graph) is spread
        over the stage's epochs; validation and decoding are not in it.

    Raises
    ------
    UsageError
        Views drawn in advance make later epochs cheaper, so that some epochs are not representative of all.
    """
    callback = callback or TrainingCallback()
    if epochs and settings.augment.views:
        raise UsageError(
            f"augment.views = {settings.augment.views}: views drawn in advance make later epochs cheaper; "
            "measure the whole recipe with --epochs 0"
        )
    fabric = launch(settings.engine)
    timed = dataclasses.replace(
        settings, stage1=_shorten(settings.stage1, epochs), stage2=_shorten(settings.stage2, epochs)
    )
    try:
        begin = time.perf_counter()
        network, _ = make_network(timed)
        task = Task("recipe", train, validation, folder / "recipe")
        tuner = Finetuner(fabric, network, cells, task, settings=timed, callback=callback, engine=engine)
        history = tuner.fit().history
        wall_seconds = time.perf_counter() - begin
        peak_mb = peak_memory_mb()
        plain = [
            _measure_plain(settings, name, cells, rows=train[:plain_images], folder=folder)
            for name in settings.stage_names
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    images = timed.data.epoch_cells or len(train)
    stages = []
    for name, stage, (seconds, processor) in zip(settings.stage_names, settings.stages, plain, strict=True):
        number = STAGE_NAMES.index(name) + 1
        records = [record for record in history if record["stage"] == number]
        stages.append(
            {
                **_describe_stage(number, stage, records, WARM_UP_EPOCHS if epochs else 0),
                "plain_seconds_per_epoch": images * seconds,
                "plain_processor_seconds_per_epoch": images * processor,
            }
        )
    whole = [stage.epochs for stage in settings.stages]
    mean_seconds = float(np.average([stage["seconds_per_epoch"] for stage in stages], weights=whole))
    plain_seconds = float(np.average([stage["plain_seconds_per_epoch"] for stage in stages], weights=whole))
    return {
        "architecture": settings.network.arch,
        "input_px": settings.network.input_px,
        "views": settings.augment.views,
        "batch_size": settings.engine.batch_size,
        "precision": settings.engine.precision,
        "frozen_forward": tuner.batch_sources.forward_name,
        "device": str(fabric.device),
        "threads": torch.get_num_threads(),
        "images_per_epoch": images,
        "epochs": sum(whole),
        "epochs_timed": sum(stage["epochs_timed"] for stage in stages),
        "seconds_per_epoch": mean_seconds,
        "images_per_second": images / mean_seconds,
        "plain_seconds_per_epoch": plain_seconds,
        "plain_images_per_second": images / plain_seconds,
        "plain_images_timed": int(min(plain_images, len(train))),
        "speed_up": plain_seconds / mean_seconds,
        "stages": stages,
        "wall_seconds": wall_seconds,
        "peak_memory_mb": peak_mb,
    }


def _shorten(stage: StageSettings, epochs: int) -> StageSettings:
    if epochs and stage.epochs:
        stage = dataclasses.replace(stage, epochs=WARM_UP_EPOCHS + min(stage.epochs, epochs))
    return dataclasses.replace(stage, patience=0)


def _describe_stage(
    number: int, stage: StageSettings, history: list[dict[str, Any]], warm_up: int
) -> dict[str, Any]:
    once = float(np.sum([record["cached_seconds"] for record in history]))
    history = history[warm_up:]
    every_epoch = float(np.mean([record["seconds"] - record["cached_seconds"] for record in history]))
    return {
        "stage": number,
        "unfreeze_layers": stage.unfreeze_layers,
        "epochs": stage.epochs,
        "epochs_timed": len(history),
        "seconds_per_epoch": every_epoch + once / stage.epochs,
        "seconds_in_every_epoch": every_epoch,
        "seconds_once": once,
        "processor_seconds_per_epoch": float(np.mean([record["processor_seconds"] for record in history])),
    }


def synthetic_cells(count: int, input_px: int, folder: Path) -> CellSet:
    """Return ``count`` discs of random pixels, half of them blasts.

    The time of a step depends on how much of the canvas is cell and on nothing else that is shown.
    """
    import pandas as pd

    path = folder / "synthetic.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, input_px, input_px, 3))
    rng = np.random.default_rng(0)
    distance = np.hypot(*(np.indices((input_px, input_px)) - (input_px - 1) / 2.0))
    disc = (distance < input_px * np.sqrt(CELL_SHARE / np.pi)).astype(np.uint8)[:, :, None]
    for row in range(count):
        images[row] = rng.integers(1, 256, images.shape[1:], np.uint8) * disc
    labels = (np.arange(count) % 2).astype(np.float32)
    table = pd.DataFrame({"cell": [str(row) for row in range(count)]})
    return CellSet(table, images, labels, np.arange(count))


def table_cells(
    table: Path, splits: Path, name: str | None, input_px: int, folder: Path
) -> tuple[CellSet, Any]:
    """Return the cells and the split of a table, decoded below ``folder``."""
    from leukoscope.data.split_plan import read_splits, select_rows
    from leukoscope.data.table import read_cells
    from leukoscope.training.run import one_split

    cells = read_cells(table)
    split = one_split(read_splits(splits, cells), name, cells).splits[0]
    used = select_rows(cells, (*split.train, *split.validation))
    return load_cells(used, [table.parent / cell for cell in used["cell"]], input_px, folder), split


def _measure_plain(
    settings: TrainSettings, name: str, cells: CellSet, *, rows: NDArray[np.int64], folder: Path
) -> tuple[float, float]:
    """Return seconds and processor seconds an image of one stage in plain torch; the first epoch warms up."""
    other = STAGE_NAMES[1 - STAGE_NAMES.index(name)]
    plain = dataclasses.replace(
        settings,
        engine=dataclasses.replace(
            settings.engine, activation_cache="off", frozen_forward="torch", precision="32-true"
        ),
        data=dataclasses.replace(settings.data, epoch_cells=0, sampling="shuffle"),
        **{
            name: dataclasses.replace(getattr(settings, name), epochs=2),
            other: dataclasses.replace(getattr(settings, other), epochs=0),
        },
    )
    network, _ = make_network(plain)
    task = Task("plain torch", rows, rows[:0], folder / f"plain-{name}")
    tuner = Finetuner(launch(plain.engine), network, cells, task, settings=plain, callback=TrainingCallback())
    last = tuner.fit().history[-1]
    return last["seconds"] / len(rows), last["processor_seconds"] / len(rows)
