"""Nested, grouped, repeated cross-validation of a recipe, and the final model on all subjects.

The outer folds hold whole subjects out; everything that is chosen or fitted (penalty, calibration, operating points,
prediction sets, novelty limit) comes from inner folds of the other subjects. The final model is trained on every cell
by the same recipe; the cross-validated scores are the evidence for it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leukoscope.core.errors import UsageError
from leukoscope.core.io import write_text
from leukoscope.core.text import TextError, read_json

if TYPE_CHECKING:
    from leukoscope.evaluation.split_report import EvaluationSettings
    from leukoscope.models.report import Measurement, Report, Supplement
    from leukoscope.training.settings import TrainSettings

STATE = "cross-validation.json"
FINAL = "final"


@dataclass(frozen=True)
class CrossValidation:
    """Where the runs of a cross-validation are.

    Attributes
    ----------
    repeats
        Run folders of the outer folds, one tuple per repeat; each repeat tests every cell once.
    final
        Run folder of the model trained on every cell.
    """

    repeats: tuple[tuple[Path, ...], ...]
    final: Path


def cross_validate(
    table: Path,
    settings: "TrainSettings",
    *,
    out: Path,
    name: str,
    folds: int = 7,
    repeats: int = 1,
    resume: bool = False,
    make_callback: Callable[[str], Any],
) -> CrossValidation:
    """Train the recipe on every outer fold of every repeat and on all cells.

    Parameters
    ----------
    table
        Cell table.
    settings
        The recipe; it needs ``data.inner_folds``.
    out
        Folder of the runs and of ``cross-validation.json``, which records them.
    name
        Part of the names of the run folders.
    folds
        Outer folds, from 2.
    repeats
        How often the subjects are divided, from 1.
    resume
        Continue in a folder that an earlier call left: finished runs are kept, a started one goes on.
    make_callback
        Takes what is trained, for instance ``repeat 1, part-2-of-7``, and returns the ``TrainingCallback`` of that
        training; its ``close()`` is called at the end.

    Raises
    ------
    UsageError
        The recipe has no inner folds, the folder is one of another cross-validation, or it exists without ``resume``.
    SplitError
        A class has fewer subjects than folds.
    """
    from leukoscope.data.splits import make_splits, write_splits
    from leukoscope.data.table import read_cells, table_sha256
    from leukoscope.models.session import OpenVinoGraphs
    from leukoscope.training.run import resume_run, start_run
    from leukoscope.training.run_folder import check_run_name

    check_run_name(name)
    if not settings.data.inner_folds:
        raise UsageError(
            "data.inner_folds is 0: the rules of each fold are fitted on inner folds; set data.inner_folds=5"
        )
    cells = read_cells(table)
    identity = {
        "cells_sha256": table_sha256(cells),
        "settings_sha256": hashlib.sha256(repr(settings).encode()).hexdigest(),
        "folds": folds,
        "repeats": repeats,
        "name": name,
    }
    runs: dict[str, str] = _read_state(out, identity, resume)
    plans = [
        make_splits(cells, "grouped", k=folds, seed=settings.seed + repeat, validation_share=0.0)
        for repeat in range(repeats)
    ]
    final = make_splits(cells, "all", seed=settings.seed, validation_share=0.0)
    jobs = [
        (f"repeat {repeat + 1}, {split.name}", plan, split.name, f"{name}-repeat-{repeat + 1}")
        for repeat, plan in enumerate(plans)
        for split in plan.splits
    ]
    jobs.append((FINAL, final, final.splits[0].name, f"{name}-final"))
    engine = OpenVinoGraphs()
    for number, (job, plan, split_name, run_name) in enumerate(jobs, start=1):
        callback = make_callback(f"{number} of {len(jobs)}: {job}")
        try:
            started = _started(out, run_name, split_name) if job not in runs else out / runs[job]
            if started is not None:
                folder = resume_run(started, callback, engine)
            else:
                splits = out / f"splits-{run_name}.json"
                write_splits(plan, cells, splits)
                folder = start_run(
                    table,
                    splits,
                    split_name,
                    settings,
                    out=out,
                    run_name=run_name,
                    callback=callback,
                    engine=engine,
                )
        finally:
            callback.close()
        runs[job] = folder.name
        write_text(out / STATE, json.dumps({**identity, "runs": runs}, indent=1) + "\n")
    return read_cross_validation(out)


def read_cross_validation(out: Path) -> CrossValidation:
    """Return the runs of a finished cross-validation.

    Raises
    ------
    UsageError
        The folder holds none, or one that is not finished.
    """
    try:
        state = read_json(out / STATE)
        runs, repeats, folds = state["runs"], int(state["repeats"]), int(state["folds"])
    except (OSError, TextError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{out}: no cross-validation: expected a folder that `leukoscope cross-validate` wrote, with {STATE}"
        ) from None
    names = [
        [f"repeat {repeat}, part-{part}-of-{folds}" for part in range(1, folds + 1)]
        for repeat in range(1, repeats + 1)
    ]
    missing = [name for name in (*(name for row in names for name in row), FINAL) if name not in runs]
    if missing:
        raise UsageError(
            f"{out}: {len(missing)} of its runs are not finished, the first is {missing[0]!r}; continue with --resume"
        )
    return CrossValidation(tuple(tuple(out / runs[name] for name in row) for row in names), out / runs[FINAL])


def report_cross_validation(
    found: CrossValidation,
    *,
    title: str | None = None,
    settings: "EvaluationSettings | None" = None,
    progress: Callable[[str], None] = lambda _: None,
) -> "Report":
    """Measure the first repeat, its outer folds pooled, and the AUC of every repeat.

    Parameters
    ----------
    found
        A finished cross-validation.
    settings
        Of the evaluation.
    progress
        Called with the name of each step.
    """
    from leukoscope.evaluation.protocol import evaluate

    report = evaluate(
        found.repeats[0],
        pooled=True,
        splits=False,
        title=title or "Nested cross-validation by subject",
        settings=settings,
        progress=progress,
    )
    first = report.headline.cell.measures["roc_auc"].model_copy(update={"split": "repeat 1"})
    return report.model_copy(update={"supplements": (_measure_repeats(found, first, settings, progress),)})


def _measure_repeats(
    found: CrossValidation,
    first: "Measurement",
    settings: "EvaluationSettings | None",
    progress: Callable[[str], None],
) -> "Supplement":
    """Return the pooled AUC of each repeat: how much it depends on the division of the subjects."""
    from leukoscope.evaluation.metrics_table import Context, measure_some, score_cells
    from leukoscope.evaluation.scored_split import fit_rules, pool_splits, score_run
    from leukoscope.evaluation.scores import read_run
    from leukoscope.evaluation.split_report import EvaluationSettings
    from leukoscope.models.report import Supplement

    settings = settings or EvaluationSettings()
    measures = {"repeat_1_roc_auc": first}
    for number, folders in enumerate(found.repeats[1:], start=2):
        progress(f"repeat {number} of {len(found.repeats)}")
        runs = [read_run(folder) for folder in folders]
        pooled = pool_splits([score_run(run, fit_rules(run), {}) for run in runs])
        context = Context(f"repeat {number}", settings.bootstrap, settings.bins)
        scored = score_cells(pooled.rows)
        measures[f"repeat_{number}_roc_auc"] = measure_some(scored, context, ("roc_auc",))["roc_auc"]
    return Supplement(
        name="repeats",
        title="Repeats of the cross-validation",
        text="Each repeat divides the subjects again and tests every cell once. Only the first is reported in full.",
        measures=measures,
    )


def _read_state(out: Path, identity: dict[str, Any], resume: bool) -> dict[str, str]:
    path = out / STATE
    if not path.is_file():
        return {}
    if not resume:
        raise UsageError(f"{path} exists: continue it with --resume, or choose another folder with --out")
    try:
        state = read_json(path)
        different = [key for key, value in identity.items() if state.get(key) != value]
        runs = dict(state["runs"])
    except (TextError, KeyError, TypeError, ValueError, AttributeError):
        raise UsageError(f"{path}: not written by `leukoscope cross-validate`, or damaged") from None
    if different:
        raise UsageError(
            f"{path} belongs to a cross-validation with other {', '.join(different)}; choose another folder with --out"
        )
    return runs


def _started(out: Path, run_name: str, split_name: str) -> Path | None:
    """Return the folder of a run that was started and not recorded, to resume it."""
    from leukoscope.data.splits import read_splits
    from leukoscope.data.table import read_cells

    for folder in sorted(out.glob(f"*-{run_name}-*")):
        if (folder / "splits.json").is_file():
            plan = read_splits(folder / "splits.json", read_cells(folder / "cells.csv"))
            if [split.name for split in plan.splits] == [split_name]:
                return folder
    return None
