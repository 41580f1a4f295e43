"""``leukoscope train`` and ``leukoscope tune``."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leukoscope.core.errors import UsageError
from leukoscope.core.limits import LARGEST_COUNT, LARGEST_SEED, LARGEST_WORKERS
from leukoscope.core.terms import RESEARCH_USE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from leukoscope.training.fit.callbacks import EpochRecord

INTERRUPTED = 130

Cells = Annotated[Path | None, typer.Option(help="Cell table, as written by 'leukoscope data import'.")]
Splits = Annotated[Path | None, typer.Option(help="splits.json, as written by 'leukoscope data split'.")]
SplitName = Annotated[
    str | None, typer.Option("--split", help="Name of the split; required if there are several.")
]
Config = Annotated[
    Path | None, typer.Option(help="TOML file of differences from the defaults, e.g. configs/paper.toml.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value; may be repeated, overrides the file.")
]
Devices = Annotated[
    int | None, typer.Option(min=1, max=LARGEST_WORKERS, help="Processes or GPUs on this machine.")
]
Nodes = Annotated[int | None, typer.Option(min=1, max=LARGEST_WORKERS, help="Machines.")]
Precision = Annotated[str | None, typer.Option(help="32-true, bf16-mixed, 16-mixed, ...")]
Accelerator = Annotated[str | None, typer.Option(help="auto, cpu, cuda, mps.")]
Threads = Annotated[int | None, typer.Option(min=1, max=LARGEST_WORKERS, help="Threads of torch on the CPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end, no progress.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(
        epilog="Example: leukoscope train --cells cells.csv --splits splits.json --split hold-out-fold_1 "
        "--config configs/paper.toml --out runs"
    )(train)
    app.command(
        epilog="Example: leukoscope tune --cells cells.csv --splits splits.json --split hold-out-fold_1 "
        "--config configs/fine-tune.toml --trials 20"
    )(tune)


def train(
    *,
    cells: Cells = None,
    splits: Splits = None,
    split: SplitName = None,
    config: Config = None,
    out: Annotated[Path, typer.Option(help="Parent of the run folder.")] = Path("runs"),
    name: Annotated[
        str | None,
        typer.Option(help="Name of the run, part of its folder's name; default: name of the configuration."),
    ] = None,
    set_: Set = None,
    seed: Annotated[int | None, typer.Option(min=0, max=LARGEST_SEED, help="Random seed.")] = None,
    devices: Devices = None,
    nodes: Nodes = None,
    precision: Precision = None,
    accelerator: Accelerator = None,
    threads: Threads = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder to resume; with --set score.KEY=VALUE a finished run is scored again."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a network on one split and write a run folder: scores, embeddings, checkpoints, curves."""
    machine = {
        "devices": devices,
        "nodes": nodes,
        "precision": precision,
        "accelerator": accelerator,
        "threads": threads,
    }
    overrides = [f"engine.{key}={json.dumps(value)}" for key, value in machine.items() if value is not None]
    overrides += [] if seed is None else [f"seed={seed}"]
    if resume is not None and (cells or splits or split or config or name or overrides):
        raise UsageError(
            "--resume takes all settings from the run folder; leave out all other options except --set score.*"
        )
    if resume is None and (cells is None or splits is None):
        raise UsageError(
            "name the table and the splits: --cells cells.csv --splits splits.json (or --resume RUN)"
        )

    from leukoscope.models.session import OpenVinoGraphs
    from leukoscope.training.recipe import read_settings
    from leukoscope.training.run import resume_run, start_run

    callback, engine = make_callback(quiet=as_json), OpenVinoGraphs()
    try:
        if resume is not None:
            folder = resume_run(resume, callback, engine, set_ or [])
        else:
            assert cells is not None  # noqa: S101  (checked above, with splits)
            assert splits is not None  # noqa: S101
            settings = read_settings(config, [*(set_ or []), *overrides])
            folder = start_run(
                cells,
                splits,
                split,
                settings,
                out=out,
                run_name=name or (config.stem if config is not None else "default"),
                callback=callback,
                engine=engine,
            )
    except KeyboardInterrupt:
        typer.secho("Stopped. Finished epochs are kept; resume with: leukoscope train --resume RUN", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        callback.close()
    if int(os.environ.get("LOCAL_RANK", "0")) == 0 and int(os.environ.get("NODE_RANK", "0")) == 0:
        _show_result(folder, as_json)


def tune(
    *,
    cells: Cells = None,
    splits: Splits = None,
    split: SplitName = None,
    config: Config = None,
    set_: Set = None,
    trials: Annotated[
        int,
        typer.Option(
            min=1, max=LARGEST_COUNT, help="Total number of trials, including those of earlier calls."
        ),
    ] = 20,
    study: Annotated[Path, typer.Option(help="SQLite file of the study; continued if it exists.")] = Path(
        "study.db"
    ),
    folds: Annotated[
        int, typer.Option(min=2, max=LARGEST_COUNT, help="Inner folds over the training side.")
    ] = 3,
    space: Annotated[Path | None, typer.Option(help="TOML file with the search space; see docs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search hyper-parameters on inner folds of the training side; the test part is never used."""
    if cells is None or splits is None:
        raise UsageError("name the table and the splits: --cells cells.csv --splits splits.json")

    from leukoscope.models.session import OpenVinoGraphs
    from leukoscope.training.recipe import read_settings
    from leukoscope.training.tune import default_space, read_space, search

    callback = make_callback(quiet=as_json)
    settings = read_settings(config, set_ or [])
    try:
        result = search(
            cells,
            splits,
            split,
            settings,
            default_space(settings) if space is None else read_space(space),
            trials=trials,
            study_path=study,
            folds=folds,
            callback=callback,
            engine=OpenVinoGraphs(),
        )
    except KeyboardInterrupt:
        typer.secho(
            f"Stopped. Finished trials are kept in {study}; run the same command to continue.", err=True
        )
        raise typer.Exit(INTERRUPTED) from None
    finally:
        callback.close()
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(
        f"Best of {result['trials']} trials: mean AUC by cell over the inner folds {result['best_value']:.4f}"
    )
    for key, value in result["best_parameters"].items():
        typer.echo(f"  --set {key}={json.dumps(value)}")
    typer.echo(RESEARCH_USE)


def make_callback(quiet: bool) -> Any:
    """Return a callback with progress bars on stderr, or one without output."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from leukoscope.training.fit.callbacks import TrainingCallback

    class Silent(TrainingCallback):
        def close(self) -> None:
            """Nothing is open."""

    class Bars(TrainingCallback):
        def __init__(self) -> None:
            self.console = Console(stderr=True)
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.progress.start()
            self.task: Any = None
            self.losses: list[float] = []

        def begin(self, task: str, total: int) -> None:
            self.end()
            self.losses = []
            self.task = self.progress.add_task(task, total=total, figures="")

        def advance(self, count: int, loss: float | None = None) -> None:
            if self.task is None:
                return
            self.progress.advance(self.task, count)
            figures = []
            if loss is not None:
                self.losses.append(loss)
                figures.append(f"loss {sum(self.losses) / len(self.losses):.3f}")
            speed = self.progress.tasks[-1].speed
            if speed:
                figures.append(f"{speed:.0f} images/s")
            self.progress.update(self.task, figures=", ".join(figures))

        def end(self) -> None:
            if self.task is not None:
                self.progress.remove_task(self.task)
                self.task = None

        def epoch(self, record: "EpochRecord") -> None:
            _print_epoch(self.console, record)

        def say(self, message: str) -> None:
            self.console.print(message)

        def close(self) -> None:
            self.end()
            self.progress.stop()

    secondary = os.environ.get("LOCAL_RANK", "0") != "0"
    return Silent() if quiet or secondary else Bars()


def _print_epoch(console: "Console", record: "EpochRecord") -> None:
    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    console.print(
        f"{record.model}  stage {record.stage}  epoch {record.epoch:>2}  "
        f"loss {record.loss:.4f}  AUC {figure(record.auc)}  "
        f"validation loss {figure(record.validation_loss)}  AUC {figure(record.validation_auc)}  "
        f"{record.seconds:.1f} s  {record.images_per_second:.0f} images/s",
        highlight=False,
    )


def _show_result(folder: Path, as_json: bool) -> None:
    summary = summarize_run(folder)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    for part, figures in summary["parts"].items():
        auc = "-" if figures["auc"] is None else f"{figures['auc']:.4f}"
        typer.echo(f"{part}: {figures['cells']} cells of {figures['groups']} groups, AUC by cell {auc}")
    typer.echo(f"Run: {folder}")
    typer.echo(f"Next: leukoscope evaluate {folder}, or leukoscope export {folder}")
    typer.echo(RESEARCH_USE)


def _likeliest(logits: "NDArray[np.float64]") -> "NDArray[np.intp]":
    """Return the class of the largest logit; for ties the last, so that log-odds of 0 are called blast."""
    last: NDArray[np.intp] = logits.shape[1] - 1 - logits[:, ::-1].argmax(axis=1)
    return last


def summarize_run(folder: Path) -> dict[str, Any]:
    """Return the folder of a finished run and the cell-level metrics of its parts."""
    import pandas as pd

    from leukoscope.data.table import read_classes
    from leukoscope.decision.calibration import class_log_odds
    from leukoscope.evaluation.scores import logit_matrix
    from leukoscope.stats.metrics import accuracy, class_auc, confusion

    classes = read_classes(folder / "cells.csv")
    scores = pd.read_csv(
        folder / "scores.csv", dtype={"subject": str, "group": str, "fold": str, "inner_fold": str}
    )
    parts: dict[str, Any] = {}
    for part, rows in scores.groupby("part", sort=False):
        logits = logit_matrix(rows, classes)
        areas = class_auc(rows["label"], class_log_odds(logits))  # of two classes both are the same
        parts[str(part)] = {
            "cells": len(rows),
            "groups": int(rows["group"].nunique()),
            "auc": float(areas.mean()) if rows["label"].nunique() == classes.size else None,
            "accuracy": float(accuracy(confusion(rows["label"], _likeliest(logits), size=classes.size))),
        }
    return {"run": str(folder), "parts": parts, "notice": RESEARCH_USE}
