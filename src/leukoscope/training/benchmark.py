"""What training costs: a whole run on the fast path, and plain torch beside it in the same process."""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from leukoscope.training.dataset import CellSet, load_cells
from leukoscope.training.finetune import Finetuner
from leukoscope.training.listening import Listener
from leukoscope.training.run import launch, make_network
from leukoscope.training.run_folder import peak_memory_mb
from leukoscope.training.settings import TrainSettings
from leukoscope.training.task import Task


def measure_training(
    cells: CellSet,
    settings: TrainSettings,
    folder: Path,
    *,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    plain_images: int,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Time every epoch of the recipe, without early stopping, and plain torch on some of the same cells.

    Parameters
    ----------
    cells, train, validation
        What is trained on.
    settings
        The recipe, with its engine.
    folder
        For checkpoints and caches; removed afterwards.
    plain_images
        Cells that plain torch (the whole network in every step, no cache) trains on, one epoch to warm up and one
        that is timed; its seconds per epoch are for as many cells as the fast path had.

    Returns
    -------
    dict
        Plain data. ``seconds_per_epoch`` is the mean over all epochs of all stages with everything that an epoch needs,
        computing cached views included, validation and decoding not (they stand in ``wall_seconds``).
    """
    listener = listener or Listener()
    fabric = launch(settings.engine)
    stages = {name: dataclasses.replace(getattr(settings, name), patience=0) for name in ("stage1", "stage2")}
    whole = dataclasses.replace(settings, **stages)
    try:
        begin = time.perf_counter()
        network, _ = make_network(whole)
        task = Task("fast", train, validation, folder / "fast")
        history = Finetuner(fabric, network, cells, task, settings=whole, listener=listener).fit().history
        wall_seconds = time.perf_counter() - begin
        peak_mb = peak_memory_mb()
        plain_speed = _measure_plain(
            fabric, cells, whole, folder=folder, rows=train[:plain_images], listener=listener
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    images = whole.data.epoch_cells or len(train)
    seconds = float(np.mean([record["seconds"] for record in history]))
    plain_seconds = images / plain_speed
    return {
        "architecture": whole.network.arch,
        "input_px": whole.network.input_px,
        "unfreeze_layers": whole.stages[-1].unfreeze_layers,
        "views": whole.augment.views,
        "images_per_epoch": images,
        "epochs": len(history),
        "seconds_per_epoch": seconds,
        "images_per_second": images / seconds,
        "seconds_per_epoch_without_views": float(
            np.mean([record["seconds"] - record["cached_seconds"] for record in history])
        ),
        "seconds_computing_views": float(np.sum([record["cached_seconds"] for record in history])),
        "seconds_by_stage": {
            str(stage): float(np.mean([record["seconds"] for record in history if record["stage"] == stage]))
            for stage in sorted({record["stage"] for record in history})
        },
        "wall_seconds": wall_seconds,
        "peak_memory_mb": peak_mb,
        "plain_images_timed": int(min(plain_images, len(train))),
        "plain_images_per_second": plain_speed,
        "plain_seconds_per_epoch": plain_seconds,
        "speed_up": plain_seconds / seconds,
        "threads": torch.get_num_threads(),
        "device": str(fabric.device),
        "torch": torch.__version__,
    }


def synthetic_cells(count: int, input_px: int, folder: Path) -> CellSet:
    """Return ``count`` cells of random pixels, half of them blasts; the time does not depend on what is shown."""
    import pandas as pd

    path = folder / "synthetic.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, input_px, input_px, 3))
    rng = np.random.default_rng(0)
    for row in range(count):
        images[row] = rng.integers(0, 256, images.shape[1:], np.uint8)
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
    fabric: Any,
    cells: CellSet,
    settings: TrainSettings,
    *,
    folder: Path,
    rows: NDArray[np.int64],
    listener: Listener,
) -> float:
    """Return images per second of the last stage in plain torch."""
    last = "stage2" if settings.stage2.epochs else "stage1"
    other = "stage1" if last == "stage2" else "stage2"
    plain = dataclasses.replace(
        settings,
        engine=dataclasses.replace(settings.engine, activation_cache="off"),
        data=dataclasses.replace(settings.data, epoch_cells=0, sampling="shuffle"),
        **{
            last: dataclasses.replace(getattr(settings, last), epochs=2),
            other: dataclasses.replace(getattr(settings, other), epochs=0),
        },
    )
    network, _ = make_network(plain)
    task = Task("plain torch", rows, rows[:0], folder / "plain")
    history = Finetuner(fabric, network, cells, task, settings=plain, listener=listener).fit().history
    return float(history[-1]["images_per_second"])
