"""Hyper-parameter search on inner folds of the training side, with Optuna; the study lives in an SQLite file."""

import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from lightning_fabric import Fabric
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from leukoscope.core.config import apply_overrides, build, read_toml, to_mapping
from leukoscope.core.errors import ConfigError, DivergedError, TrainingError, UsageError
from leukoscope.core.io import check_output_file
from leukoscope.core.limits import LARGEST_COUNT
from leukoscope.data.split_plan import read_splits, select_rows
from leukoscope.data.splits import InnerFold, inner_folds
from leukoscope.data.table import read_cells, read_classes
from leukoscope.training.batches.activation_cache import ActivationBatchSource
from leukoscope.training.batches.dataset import CellSet, load_cells
from leukoscope.training.batches.frozen_source import GraphEngine
from leukoscope.training.fit.callbacks import TrainingCallback
from leukoscope.training.fit.prediction import area_under_curve, explain_failures
from leukoscope.training.fit.scoring import score_rows
from leukoscope.training.fit.state import Task
from leukoscope.training.fit.trainer import Finetuner
from leukoscope.training.networks.network import check_architecture, outputs_of
from leukoscope.training.run import launch, make_network, one_split
from leukoscope.training.settings import STAGE_NAMES, TrainSettings

Range = Mapping[str, Any]

DEFAULT_SPACE: dict[str, Range] = {
    "stage1.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "stage2.learning_rate": {"low": 1e-6, "high": 3e-4, "log": True},
    "stage2.unfreeze_layers": {"choices": [0, 30, 90, -1]},
    "network.drop_rate": {"low": 0.0, "high": 0.6},
    "optimizer.weight_decay": {"low": 1e-4, "high": 0.1, "log": True},
    "augment.stain": {"low": 0.0, "high": 0.2},
    "loss.label_smoothing": {"low": 0.0, "high": 0.15},
    "head_fit.penalty": {"low": 1e-3, "high": 1.0, "log": True},
}
_OF_STEPS = (
    "network.drop_rate",
    "network.drop_path_rate",
    "data.epoch_cells",
    "loss.group_robust_rate",
    "batch_norm.unfrozen",
    "engine.batch_size",
)


def default_space(settings: TrainSettings) -> dict[str, Range]:
    """Return the default search space: the part of ``DEFAULT_SPACE`` that the recipe uses."""
    space = {key: entry for key, entry in DEFAULT_SPACE.items() if not _why_idle(key, settings, {})}
    if not settings.head_fit.penalty:
        del space["head_fit.penalty"]
    return space


def read_space(path: Path) -> dict[str, Range]:
    """Return a search space: ``"section.key" = {low, high, log}`` or ``{choices}``, from TOML.

    Raises
    ------
    ConfigError
        An entry is neither a range of finite numbers nor a choice of plain values.
    """
    space = read_toml(path)
    if not space:
        raise ConfigError(
            f'{path}: the search space is empty; give entries such as "network.drop_rate" = {{...}}'
        )
    for key, entry in space.items():
        if not isinstance(entry, Mapping) or not ("choices" in entry or {"low", "high"} <= entry.keys()):
            raise ConfigError(
                f"{path}: {key} = {entry!r}: expected {{low = ..., high = ...}} or {{choices = [...]}}"
            )
        if reason := _why_no_range(entry):
            raise ConfigError(f"{path}: {key} = {dict(entry)!r}: {reason}")
    return space


def _why_no_range(entry: Range) -> str | None:
    """Say why nothing can be drawn from an entry of a space; None if it can."""
    if "choices" in entry:
        choices = entry["choices"]
        plain = isinstance(choices, list) and all(
            isinstance(one, bool | int | float | str) for one in choices
        )
        return (
            None
            if plain and choices
            else "expected choices = [...] of one or more numbers, texts or booleans"
        )
    ends = (entry["low"], entry["high"])
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        return "expected numbers for low and high"
    if not all(abs(end) <= LARGEST_COUNT for end in ends):  # so is one that is no number
        return f"expected finite numbers up to {LARGEST_COUNT:,}"
    if not isinstance(entry.get("log", False), bool):
        return "expected log = true or false"
    if ends[0] > ends[1]:
        return "expected low <= high"
    if entry.get("log") and ends[0] <= 0:
        return "expected low above 0 with log = true"
    return None


def search(
    table: Path,
    splits: Path,
    split_name: str | None,
    settings: TrainSettings,
    space: Mapping[str, Range],
    *,
    trials: int,
    study_path: Path,
    folds: int,
    callback: TrainingCallback | None = None,
    engine: GraphEngine | None = None,
) -> dict[str, Any]:
    """Run trials until the study holds ``trials`` of them, in this process alone.

    Parameters
    ----------
    table, splits, split_name
        As for training; only the split's training side is used.
    settings
        What every trial starts from.
    space
        The search space.
    study_path
        SQLite file; an existing study is continued. An interrupted trial is run again.
    folds
        Inner folds, by group; a trial's value is the mean over them of the AUC by cell of the model that training
        would keep, pruned below the median or where the loss is no longer a number.
    callback, engine
        As in ``run.start_run``.

    Returns
    -------
    dict
        ``best_value`` (0..1), ``best_parameters``, ``trials`` finished or pruned, ``study``.

    Raises
    ------
    UsageError
        The study was made with another configuration, split or space; the space holds a setting that changes nothing;
        the settings ask for several processes.
    """
    _check_study_file(study_path)
    _check_search(settings, space)
    callback = callback or TrainingCallback()
    cells = read_cells(table)
    plan = one_split(read_splits(splits, cells), split_name, cells)
    split = plan.splits[0]
    side = select_rows(cells, (*split.train, *split.validation))
    check_architecture(settings.network, outputs_of(read_classes(table)))
    fabric = launch(settings.engine)
    folder = study_path.with_name(f"{study_path.name}.files")
    paths = [table.parent / cell for cell in side["cell"]]
    inner = inner_folds(side, tuple(side["cell"]), folds, settings.seed)
    is_new = not study_path.exists() and not folder.exists()
    study = _open_study(study_path, settings, space, plan.cells_sha256, folds)

    def objective(trial: Trial) -> float:
        chosen = _suggest(trial, space)
        overrides = [f"{key}={json.dumps(value)}" for key, value in chosen.items()]
        tried = build(TrainSettings, apply_overrides(to_mapping(settings), overrides))
        return _predict(
            fabric,
            load_cells(side, paths, tried.network.input_px, folder / "cache", classes=read_classes(table)),
            inner,
            settings=tried,
            folder=folder,
            trial=trial,
            callback=callback,
            engine=engine,
        )

    try:
        _run_missing(study, objective, trials, callback)
    except Exception:
        if is_new and not _finished(study):  # a search that did not start leaves no file
            study_path.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return {
        "best_value": study.best_value,
        "best_parameters": study.best_params,
        "trials": len(_finished(study)),
        "study": str(study_path),
    }


def _check_search(settings: TrainSettings, space: Mapping[str, Range]) -> None:
    processes = settings.engine.devices * settings.engine.nodes
    if processes > 1:
        raise UsageError(
            f"engine.devices x engine.nodes = {processes}: a search runs in one process; leave both at 1"
        )
    for key in space:
        if reason := _why_idle(key, settings, space):
            raise UsageError(f"searching {key} would change nothing: {reason}; leave it out of the space")


def _why_idle(key: str, settings: TrainSettings, space: Mapping[str, Range]) -> str | None:
    """Return why a setting does not affect the model of a trial; None if it does."""
    section, _, name = key.partition(".")
    stages = {stage: getattr(settings, stage).epochs or f"{stage}.epochs" in space for stage in STAGE_NAMES}
    if key == "data.inner_folds":
        return "the search makes its own inner folds (--folds)"
    if key == "score.batch_size" or (section == "engine" and name != "batch_size"):
        return "it is about the machine, not about the model"
    if section in stages and name != "epochs" and not stages[section]:
        return f"{section}.epochs is 0"
    if not any(stages.values()) and (section in ("augment", "optimizer") or key in _OF_STEPS):
        return "the recipe has no epochs"
    return None


def _open_study(
    path: Path, settings: TrainSettings, space: Mapping[str, Range], cells_sha256: str, folds: int
) -> optuna.Study:
    path.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its warnings are tracebacks of errors that we report
    sampler = optuna.samplers.TPESampler(seed=settings.seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
    try:
        study = optuna.create_study(
            study_name="leukoscope",
            storage=f"sqlite:///{path.resolve()}",
            direction="maximize",
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
    except (optuna.exceptions.StorageInternalError, RuntimeError, SQLAlchemyError) as error:
        first = str(error).partition("\n")[0]
        raise UsageError(
            f"{path}: the study cannot be opened: {first}; name another file with --study"
        ) from None
    identity = json.dumps([to_mapping(settings), dict(space), cells_sha256, folds], sort_keys=True)
    known = study.user_attrs.get("identity")
    if known is None:
        study.set_user_attr("identity", identity)
    elif known != identity:
        raise UsageError(
            f"{path}: the study was made with another configuration, search space, table or number of folds; "
            "name a new file with --study"
        )
    return study


def _check_study_file(path: Path) -> None:
    """Refuse a file that is no study of Optuna: its tables would be written into it."""
    check_output_file(path)
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error:
        tables = set()
    if "studies" not in tables:
        raise UsageError(f"{path}: exists and is no study; name another file with --study")


def _run_missing(study: optuna.Study, objective: Any, trials: int, callback: TrainingCallback) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # cut off by a kill; its parameters are drawn again
        study.enqueue_trial(trial.params)
    while (done := len(_finished(study))) < trials:
        study.optimize(objective, n_trials=1)
        last = study.trials[-1]
        value = f"{last.value:.4f}" if last.state is TrialState.COMPLETE else "pruned"
        callback.say(f"trial {done + 1} of {trials}: {value}  {last.params}")
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise TrainingError("no trial was finished; widen the search space or allow more trials")


def _finished(study: optuna.Study) -> list[Any]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _suggest(trial: Trial, space: Mapping[str, Range]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for key, entry in space.items():
        if "choices" in entry:
            chosen[key] = trial.suggest_categorical(key, entry["choices"])
        elif isinstance(entry["low"], int) and isinstance(entry["high"], int):
            chosen[key] = trial.suggest_int(key, entry["low"], entry["high"], log=bool(entry.get("log")))
        else:
            chosen[key] = trial.suggest_float(key, entry["low"], entry["high"], log=bool(entry.get("log")))
    return chosen


def _predict(
    fabric: Fabric,
    cells: CellSet,
    inner: list[InnerFold],
    *,
    settings: TrainSettings,
    folder: Path,
    trial: Trial,
    callback: TrainingCallback,
    engine: GraphEngine | None,
) -> float:
    """Return the mean over inner folds of the kept model's AUC on the held-out fold."""
    values = []
    for number, fold in enumerate(inner):
        task = Task(
            f"trial {trial.number}, fold {number}",
            cells.rows(fold.train),
            cells.rows(fold.validation),
            folder / f"trial-{trial.number}" / str(number),
        )
        network, _ = make_network(settings, cells.classes)
        tuner = Finetuner(
            fabric,
            network,
            cells,
            task,
            settings=settings,
            callback=callback,
            shared=folder / "cache",
            engine=engine,
        )
        try:
            tuner.fit()
            values.append(_score_fold(tuner))
        except DivergedError as error:
            raise optuna.TrialPruned(str(error)) from None
        finally:
            shutil.rmtree(task.folder, ignore_errors=True)
        trial.report(float(np.mean(values)), number)
        if number + 1 < len(inner) and trial.should_prune():
            raise optuna.TrialPruned
    return float(np.mean(values))


def _score_fold(tuner: Finetuner) -> float:
    """Return the AUC by cell of a trained model on the cells that were held out."""
    rows, views = tuner.task.validation, tuner.batch_sources.of_scores()
    batch_size = tuner.settings.score.batch_size
    with explain_failures(batch_size):
        logits, _ = score_rows(
            tuner.fabric, tuner.network, rows, views=views, batch_size=batch_size, callback=tuner.callback
        )
    if isinstance(views[0], ActivationBatchSource):
        views[0].keep()
    found = area_under_curve(logits, tuner.cells.labels[rows])
    return float("nan") if found is None else found
