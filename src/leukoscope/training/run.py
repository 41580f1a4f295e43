"""A whole training run: split, models, scores, plots; resumable."""

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.config import apply_overrides, build, read_toml
from leukoscope.core.errors import TrainingError, UsageError
from leukoscope.data.split_plan import Split, SplitPlan, read_splits, single_split
from leukoscope.data.splits import inner_folds
from leukoscope.data.table import read_cells, read_classes
from leukoscope.training import run_folder
from leukoscope.training.batches.activation_cache import ActivationBatchSource
from leukoscope.training.batches.dataset import CellSet, check_classes, load_cells
from leukoscope.training.batches.frozen_source import GraphEngine
from leukoscope.training.batches.pixel_source import PLAIN_VIEW
from leukoscope.training.batches.sources import BatchSources
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.fit.checkpoint import FINAL, shrink
from leukoscope.training.fit.curves import draw_curves
from leukoscope.training.fit.memory import keep_freed_memory
from leukoscope.training.fit.penalty import PenaltyChoice, choose_penalty
from leukoscope.training.fit.prediction import explain_failures
from leukoscope.training.fit.scoring import score_rows, score_table
from leukoscope.training.fit.state import Task, TrainingState
from leukoscope.training.fit.trainer import Finetuner
from leukoscope.training.networks.cost import count_flops
from leukoscope.training.networks.network import CellNetwork, check_architecture, outputs_of
from leukoscope.training.settings import EngineSettings, TrainSettings
from leukoscope.training.weights.loading import Origin, load_weights

PRECISIONS = (
    "32-true",
    "16-mixed",
    "bf16-mixed",
    "16-true",
    "bf16-true",
    "64-true",
    "transformer-engine",
    "transformer-engine-float16",
)
"""As Lightning Fabric names them; those that the machine lacks are refused by Fabric."""
NODE_ADDRESSES = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE")
"""Variables by which Fabric finds the other machines; without any it would wait for them for ever."""


@dataclass(frozen=True)
class Member:
    """One model of a run: the final one, or one of the inner folds."""

    task: Task
    number: int | None


def start_run(
    table: Path,
    splits: Path,
    split_name: str | None,
    settings: TrainSettings,
    *,
    out: Path,
    run_name: str,
    callback: TrainingCallback | None = None,
    engine: GraphEngine | None = None,
) -> Path:
    """Train, score, and return the run folder.

    Parameters
    ----------
    table, splits
        ``cells.csv`` and the ``splits.json`` made for it.
    split_name
        Which split; may be left out where there is only one.
    settings
        The run's.
    out
        Parent of the run folder.
    run_name
        Part of the folder's name.
    callback
        Hears of progress.
    engine
        Computes the frozen part of the network where ``engine.frozen_forward`` allows it.

    Raises
    ------
    UsageError, SplitError, WeightsError, TrainingError
        Raised before the first step if possible.
    """
    run_folder.check_run_name(run_name)
    cells, classes = read_cells(table), read_classes(table)
    plan = one_split(read_splits(splits, cells), split_name, cells)
    check_split(plan.splits[0], settings, cells, classes)
    _check_machine(settings.engine)  # first, as it is quick
    check_architecture(settings.network, outputs_of(classes))
    fabric = launch(settings.engine)
    folder: Path | None = None
    if fabric.is_global_zero:
        inputs = run_folder.Inputs(str(table.resolve()), str(table.resolve().parent))
        folder = run_folder.create_run_folder(
            out, run_name, settings, plan=plan, cells=cells, inputs=inputs, classes=classes
        )
    folder = Path(fabric.broadcast(str(folder)))
    try:
        return _execute_run(fabric, folder, settings, callback or TrainingCallback(), engine)
    except Exception:
        if fabric.is_global_zero and not _has_progress(folder):
            shutil.rmtree(
                folder, ignore_errors=True
            )  # nothing that could be resumed, and nothing but our own files
        raise


def resume_run(
    folder: Path,
    callback: TrainingCallback | None = None,
    engine: GraphEngine | None = None,
    overrides: Sequence[str] = (),
) -> Path:
    """Resume a run that was stopped or killed; a finished one is left unchanged or scored again.

    Parameters
    ----------
    folder
        The run folder.
    callback, engine
        As in ``start_run``; the result is bit-equal only with the same engine.
    overrides
        ``score.key=value``; where they differ from the run's, its models score again.

    Raises
    ------
    UsageError
        The folder is no run, or no longer the one that was started; an override is about more than scores.
    """
    run_folder.read_inputs(folder)
    if wrong := [text for text in overrides if not text.strip().startswith("score.")]:
        raise UsageError(
            f"--set {wrong[0]}: a resumed run accepts only score.*; start a new run for other settings"
        )
    stored = read_toml(folder / "config.toml")
    settings = build(TrainSettings, apply_overrides(stored, overrides))
    changed = settings != build(TrainSettings, stored)
    if (folder / "scores.csv").is_file() and not changed:
        return folder
    run_folder.check_identity(folder, settings)
    if changed:
        (folder / "scores.csv").unlink(missing_ok=True)  # first, so that scores always match their settings
        run_folder.write_config(folder, settings)
    return _execute_run(launch(settings.engine), folder, settings, callback or TrainingCallback(), engine)


def launch(engine: EngineSettings) -> Fabric:
    """Return Fabric with its processes started; further processes run the same command line again.

    Raises
    ------
    UsageError
        The machine has no such accelerator, or not so many devices.
    """
    _check_machine(engine)
    if engine.threads:
        torch.set_num_threads(engine.threads)
    keep_freed_memory()
    several = engine.devices * engine.nodes > 1
    try:
        fabric = Fabric(
            accelerator=engine.accelerator,
            devices=engine.devices,
            num_nodes=engine.nodes,
            strategy="ddp" if several else "auto",
            precision=engine.precision,  # type: ignore[arg-type]
        )
        fabric.launch()
    except (ValueError, RuntimeError) as error:
        if type(error).__name__ == "MisconfigurationException" or isinstance(error, ValueError):
            raise UsageError(
                f"accelerator {engine.accelerator!r} with {engine.devices} devices at precision "
                f"{engine.precision!r}: {error}"
            ) from None
        raise
    return fabric


def _check_machine(engine: EngineSettings) -> None:
    """Refuse devices and machines that are not there, before processes are started for them."""
    known = ("auto", "cpu", "gpu", "cuda", "mps")
    if engine.accelerator not in known:
        raise UsageError(f"accelerator {engine.accelerator!r}: expected one of {', '.join(known)}")
    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    there = {"cpu": os.cpu_count() or 1, "cuda": cuda, "mps": mps, "gpu": cuda or mps}
    there["auto"] = there["gpu"] or there["cpu"]
    if engine.devices > there[engine.accelerator]:
        raise UsageError(
            f"{engine.devices} devices asked for, this machine has {there[engine.accelerator]} of accelerator "
            f"{engine.accelerator!r}; lower engine.devices (--devices) or choose another accelerator"
        )
    if engine.precision not in PRECISIONS:
        raise UsageError(f"engine.precision = {engine.precision!r}: expected one of {', '.join(PRECISIONS)}")
    if engine.nodes > 1 and not any(os.environ.get(name) for name in NODE_ADDRESSES):
        raise UsageError(
            f"{engine.nodes} machines asked for (--nodes), and nothing says where the others are; start the command "
            "on each of them with MASTER_ADDR, MASTER_PORT and NODE_RANK set, or from a scheduler such as SLURM"
        )


def check_split(
    split: Split, settings: TrainSettings, cells: pd.DataFrame, classes: ClassSchema = BINARY
) -> None:
    """Raise ``TrainingError`` if a split has no held-out cells for calibration or lacks a class."""
    if not split.validation and not settings.data.inner_folds:
        raise TrainingError(
            f"split {split.name!r} has no validation part and data.inner_folds is 0, so nothing would be held out to "
            "stop and calibrate on; set data.inner_folds=5, or make the split with a validation share"
        )
    labels = dict(zip(cells["cell"], cells["label"], strict=True))
    for part, keys in split.parts().items():
        present = {labels[key] for key in keys}
        if keys and len(present) < 2:
            raise TrainingError(
                f"split {split.name!r}: the {part} part has {len(keys)} cells, all of class {present.pop()}; "
                "both classes are needed; make another split with 'leukoscope data split'"
            )
        missing = [name for name in classes.names if name not in present]
        if keys and missing and part != "test":
            raise TrainingError(
                f"split {split.name!r}: the {part} part has no cell of class {', '.join(missing)}; make another split "
                "with 'leukoscope data split', or leave the class out of the class schema"
            )


def one_split(plan: SplitPlan, name: str | None, cells: pd.DataFrame) -> SplitPlan:
    """Return the plan of one split; without a name there must be only one."""
    if name is None:
        if len(plan.splits) > 1:
            known = ", ".join(split.name for split in plan.splits)
            raise UsageError(f"the file holds several splits; choose one with --split: {known}")
        name = plan.splits[0].name
    return single_split(plan, name, cells)


def _has_progress(folder: Path) -> bool:
    """Tell whether a run folder holds more than what its start wrote."""
    return (folder / "log.jsonl").exists() or any(folder.rglob("*.safetensors"))


def _execute_run(
    fabric: Fabric,
    folder: Path,
    settings: TrainSettings,
    callback: TrainingCallback,
    engine: GraphEngine | None,
) -> Path:
    started = time.perf_counter()
    if not fabric.is_global_zero:
        callback = TrainingCallback()
    cells = read_run_cells(fabric, folder, settings, callback)
    members = _plan_members(cells, folder, settings)
    choice = _choose_penalty(
        fabric, cells, members, settings, folder=folder, callback=callback, engine=engine
    )
    if choice is not None:
        settings = dataclasses.replace(
            settings, head_fit=dataclasses.replace(settings.head_fit, penalty=choice.penalty, penalties=())
        )
    tables: list[pd.DataFrame] = []
    embeddings: list[NDArray[np.float32]] = []
    histories: list[dict[str, Any]] = []
    best_epochs: list[list[int]] = []
    provenance: dict[str, Any] = {}
    seconds_per_image: float | None = None
    training_seconds = 0.0
    spared = False
    trained_here = True
    for member in members:
        task = member.task
        trained_here &= not (task.folder / FINAL).is_file()
        if member.number is None and not len(task.validation) and best_epochs:
            epochs = tuple(max(1, round(median(column))) for column in zip(*best_epochs, strict=True))
            task = dataclasses.replace(task, epochs=epochs)
        network, origin = make_network(settings, cells.classes)
        shared = folder.parent / "cache"
        tuner = Finetuner(
            fabric,
            network,
            cells,
            task,
            settings=settings,
            callback=callback,
            shared=shared,
            engine=engine,
        )
        training_state = tuner.fit()
        histories += training_state.history
        training_seconds += training_state.seconds
        # Kept embeddings make training look cheaper than it is; what later models recall, the first one computed.
        spared |= training_state.recalled and member is members[0]
        if fabric.is_global_zero:
            run_folder.write_log(folder, histories)
        if member.number is not None:
            best_epochs.append(training_state.best_epochs)
        with explain_failures(settings.score.batch_size):
            scored = _score_member(tuner, member, folder)
        tables.append(scored.table)
        embeddings.append(scored.embeddings)
        seconds_per_image = scored.seconds_per_image
        if fabric.is_global_zero:
            _tidy(task, folder, training_state, member)
        provenance = {
            **_describe_model(network, origin),
            "frozen_forward": tuner.batch_sources.forward_name,
        }
    if fabric.is_global_zero:
        scores = pd.concat(tables, ignore_index=True)
        measured = {
            "training_seconds": None if spared else training_seconds,
            "run_seconds": time.perf_counter() - started,
            "milliseconds_per_image": None if seconds_per_image is None else 1000.0 * seconds_per_image,
            "peak_memory_mb": run_folder.peak_memory_mb() if trained_here and not spared else None,
            "device": str(fabric.device),
            "processes": fabric.world_size,
            "threads": torch.get_num_threads(),
        }
        content = {
            **run_folder.describe_environment(),
            **run_folder.describe_cells(cells.table),
            "seed": settings.seed,
            "penalty_choice": None if choice is None else dataclasses.asdict(choice),
            **provenance,
            **measured,
        }
        run_folder.write_json(folder / "provenance.json", content)
        run_folder.write_scores(folder, scores, np.concatenate(embeddings))
        inner = [member.task.folder / FINAL for member in members if member.number is not None]
        shrink(inner, folder / "checkpoints" / FINAL)
    fabric.barrier()
    return folder


def _choose_penalty(
    fabric: Fabric,
    cells: CellSet,
    members: list[Member],
    settings: TrainSettings,
    *,
    folder: Path,
    callback: TrainingCallback,
    engine: GraphEngine | None,
) -> PenaltyChoice | None:
    """Choose the penalty on the inner folds where the settings name several; None where they do not."""
    if not settings.head_fit.penalties:
        return None
    inner = [member.task for member in members if member.number is not None]
    network, _ = make_network(settings, cells.classes)
    task = dataclasses.replace(members[-1].task, name="penalty", folder=folder / "penalty")
    sources = BatchSources(
        fabric,
        network,
        cells,
        task,
        settings=settings,
        callback=callback,
        engine=engine,
        shared=folder.parent / "cache",
    )
    fabric.to_device(network)
    source = sources.start()
    choice = choose_penalty(
        network,
        source,
        cells,
        [(one.train, one.validation) for one in inner],
        settings=settings,
        callback=callback,
    )
    if isinstance(source, ActivationBatchSource):
        source.keep()
    shutil.rmtree(task.folder, ignore_errors=True)
    return choice


def make_network(settings: TrainSettings, classes: ClassSchema = BINARY) -> tuple[CellNetwork, Origin]:
    """Return a network with its first weights; the random ones depend on the run's seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = CellNetwork(settings.network, outputs_of(classes))
        origin = load_weights(network, settings.network.weights)
    return network, origin


def read_run_cells(
    fabric: Fabric, folder: Path, settings: TrainSettings, callback: TrainingCallback
) -> CellSet:
    """Decode the run's cells into the memory map in the cache of the run folders, or open it."""
    table, classes = read_cells(folder / "cells.csv"), read_classes(folder / "cells.csv")
    images = Path(run_folder.read_inputs(folder).images)
    paths = [images / cell for cell in table["cell"]]
    cache = folder.parent / "cache"
    shown = 0

    def advance(done: int, total: int) -> None:
        nonlocal shown
        if not shown:
            callback.begin("Decoding", total)
        callback.advance(done - shown)
        shown = done

    if fabric.is_global_zero:
        load_cells(table, paths, settings.network.input_px, cache, advance, classes=classes)
        if shown:
            callback.end()
    fabric.barrier()
    return load_cells(table, paths, settings.network.input_px, cache, classes=classes)


def _plan_members(cells: CellSet, folder: Path, settings: TrainSettings) -> list[Member]:
    plan = read_splits(folder / "splits.json", cells.table)
    split = plan.splits[0]
    members = []
    if settings.data.inner_folds:
        folds = inner_folds(cells.table, split.train, settings.data.inner_folds, settings.seed)
        for number, fold in enumerate(folds):
            task = Task(
                f"inner-{number}",
                cells.rows(fold.train),
                cells.rows(fold.validation),
                folder / "inner" / str(number),
            )
            members.append(Member(task, number))
    final = Task("final", cells.rows(split.train), cells.rows(split.validation), folder / "checkpoints")
    for member in (*members, Member(final, None)):
        check_classes(cells, member.task.train, f"{member.task.name} train")
    return [*members, Member(final, None)]


class Scored(NamedTuple):
    """Scores of one model for the cells of its parts."""

    table: pd.DataFrame
    embeddings: NDArray[np.float32]
    seconds_per_image: float | None
    """None where kept activations were used."""


def _score_member(tuner: Finetuner, member: Member, folder: Path) -> Scored:
    """Score the cells of a member: an inner model its held-out fold, the final one all parts."""
    cells = tuner.cells
    views = tuner.batch_sources.of_scores()
    if member.number is not None:
        wanted = [("validation", member.task.validation, str(member.number))]
    else:
        test = cells.rows(read_splits(folder / "splits.json", cells.table).splits[0].test)
        sides = {"train": member.task.train, "validation": member.task.validation, "test": test}
        wanted = [(part, rows, "") for part, rows in sides.items()]
    some = next(rows for _, rows, _ in reversed(wanted) if len(rows))
    views[-1].prepare(some[:1], PLAIN_VIEW)  # an engine compiles before the clock runs
    tables, embeddings = [], []
    begin = time.perf_counter()
    for part, rows, inner_fold in wanted:
        if len(rows):
            logits, embedding = score_rows(
                tuner.fabric,
                tuner.network,
                rows,
                views=views,
                batch_size=tuner.settings.score.batch_size,
                callback=tuner.callback,
            )
            tables.append(score_table(cells, rows, part, inner_fold, logits))
            embeddings.append(embedding)
    seconds = time.perf_counter() - begin
    kept = isinstance(views[0], ActivationBatchSource)
    if isinstance(views[0], ActivationBatchSource):
        views[0].keep()
    table = pd.concat(tables, ignore_index=True)
    return Scored(table, np.concatenate(embeddings), None if kept else seconds / len(table))


def _tidy(task: Task, folder: Path, training_state: TrainingState, member: Member) -> None:
    name = "curves.png" if member.number is None else f"curves-inner-{member.number}.png"
    if training_state.history:
        draw_curves(training_state.history, folder / name, f"{folder.name}, {task.name} model")
    for cache in task.folder.glob("cache-*"):
        shutil.rmtree(cache, ignore_errors=True)


def _describe_model(network: CellNetwork, origin: Origin) -> dict[str, Any]:
    return {
        "parameters": network.used_parameters(),
        "flops": count_flops(network),
        "initial_weights": origin._asdict(),
        "checkpoint": f"checkpoints/{FINAL}",
    }
