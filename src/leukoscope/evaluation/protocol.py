"""From run folders to a report: data of each fit, pooling, and caveats."""

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leukoscope.core.errors import CohortError, UsageError
from leukoscope.evaluation.scored_split import (
    ScoredSplitCells,
    fit_rules,
    pool_splits,
    score_baselines,
    score_run,
)
from leukoscope.evaluation.scores import Run, read_run
from leukoscope.evaluation.split_report import EvaluationSettings, Progress, report_split
from leukoscope.models.report import Report, RunRecord, SplitReport, format_measurement


def evaluate(
    folders: Sequence[Path],
    *,
    pooled: bool = False,
    splits: bool = True,
    title: str | None = None,
    settings: EvaluationSettings | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """Evaluate finished runs.

    Parameters
    ----------
    folders
        Run folders, one split each.
    pooled
        Add the estimate over all test parts together; each cell must then be tested once only.
    splits
        Report each split, too; without them the pooled estimate is the report's only one.
    progress
        Called with the name of each step.

    Raises
    ------
    UsageError
        No run was given, a folder is not a finished run, ``pooled`` with a single run, or an impossible
        ``SOURCE_DATE_EPOCH``.
    CohortError
        A run's tables are inconsistent, two runs have the same split, or runs to be pooled test the same cell.
    """
    if not folders:
        raise UsageError("no run given; name at least one run folder")
    if pooled and len(folders) < 2:
        raise UsageError("--pooled needs at least two runs with different test parts")
    created = _now()
    settings = settings or EvaluationSettings()
    runs = [read_run(folder) for folder in folders]
    _check_together(runs, pooled)
    scored: list[ScoredSplitCells] = []
    for run in runs:
        progress(f"{run.split}: decision rules")
        rules = fit_rules(run)
        progress(f"{run.split}: baselines")
        scored.append(score_run(run, rules, score_baselines(run)))
    parts = [_report(split, settings, progress) for split in scored] if splits or not pooled else []
    whole = _report(pool_splits(scored), settings, progress) if pooled else None
    if whole is not None and not parts:
        parts, whole = [whole], None
    return Report(
        title=title or f"Evaluation of {', '.join(run.name for run in runs)}",
        created=created,
        level=settings.bootstrap.level,
        resamples=settings.bootstrap.replicates,
        seed=settings.bootstrap.seed,
        protocol=protocol_sentences(scored, pooled),
        caveats=caveat_sentences([*parts, *([whole] if whole else [])]),
        runs=tuple(record_run(run) for run in runs),
        splits=tuple(parts),
        pooled=whole,
    )


def _report(split: ScoredSplitCells, settings: EvaluationSettings, progress: Progress) -> SplitReport:
    return report_split(split, settings, lambda section: progress(f"{split.name}: {section}"))


def _check_together(runs: Sequence[Run], pooled: bool) -> None:
    names = [run.split for run in runs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CohortError(
            f"split {repeated[0]!r} occurs in {names.count(repeated[0])} runs; evaluate them one by one and put the "
            "reports side by side with `leukoscope compare`"
        )
    if not pooled:
        return
    seen: dict[str, str] = {}
    for run in runs:
        for cell in run.scores.loc[run.scores["part"] == "test", "sha256"].unique():
            if seen.setdefault(cell, run.split) != run.split:
                raise CohortError(
                    f"runs {seen[cell]!r} and {run.split!r} both test the image {cell[:12]}: pooled cells must be "
                    "tested once; leave --pooled out"
                )


def protocol_sentences(scored: Sequence[ScoredSplitCells], pooled: bool) -> tuple[str, ...]:
    """Return sentences about the rows that each part was fitted on."""
    leaking = any(split.leaks for split in scored)
    acquaintance = "seen other cells of its subject" if leaking else "not seen its group"
    sentences = [
        "Temperature, operating points and conformal quantiles were fitted on validation rows: cells of the training "
        f"side, each scored by a model that had {acquaintance} ("
        + "; ".join(
            f"{s.name}: {s.fitted[0].cells:,} cells of {s.fitted[0].subjects} subjects" for s in scored
        )
        + ").",
        "Baselines were fitted on the cells of the training side.",
        "In this evaluation the test part was scored once; temperature, thresholds and prediction sets were fitted "
        "without it. Whether the recipe was chosen with it in view is not recorded here. Rates at a held sensitivity "
        "or specificity are read off its curve and are no thresholds to use.",
        "Intervals resample subjects (merged groups count as one), not cells; differences are paired on the same "
        "resampled subjects.",
    ]
    if pooled:
        sentences.append(
            "The pooled estimate joins the test parts: each cell is classified once, by the rules of its own split."
        )
    return tuple(sentences)


def caveat_sentences(splits: Sequence[SplitReport]) -> tuple[str, ...]:
    """Return the caveats of the report."""
    sentences = []
    leaking = [split.name for split in splits if split.leaks]
    if leaking:
        sentences.append(
            f"LEAKING SPLIT ({', '.join(leaking)}): subjects are on both sides. These results are inflated and are no "
            "evidence for unseen subjects."
        )
    if all(row.label != "mixed" for split in splits for row in split.subjects):
        sentences.append(
            "Every subject has only one label: cell labels are the diagnosis of the subject. Stain, camera session "
            "and subject are confounded with the class, and the effective sample size is the number of subjects."
        )
    for split in splits:
        test = split.parts["test"]
        fewest = min(test.blast_subjects, test.normal_subjects)
        if fewest < 10:
            sentences.append(
                f"{split.name}: {test.blast_subjects} subjects with blasts and {test.normal_subjects} with normal "
                "cells in the test part; differences of a few points are within the noise of so few subjects."
            )
    area = next((b.measures["roc_auc"] for b in splits[-1].baselines if b.name == "area"), None)
    if area is not None and area.value is not None:
        sentences.append(
            f"Cell size alone reaches an AUC of {format_measurement(area)}; compare every result with the baselines."
        )
    sentences.append(
        "Laboratories, stains, cameras and segmentations other than those of the test part were not tested."
    )
    return tuple(sentences)


def record_run(run: Run) -> RunRecord:
    """Record the run and its costs, as far as its provenance contains them."""
    network = run.config.get("network", {})
    network = network if isinstance(network, Mapping) else {}
    git = run.provenance.get("git", {})
    git = git if isinstance(git, Mapping) else {}
    return RunRecord(
        name=run.name,
        split=run.split,
        protocol=run.protocol,
        leaks=run.leaks,
        architecture=_text(network.get("arch")),
        initial_weights=_weights_name(network.get("weights")),
        seed=_whole(run.config.get("seed", run.provenance.get("seed"))),
        git_commit=_text(git.get("commit", run.provenance.get("git_commit"))),
        git_dirty=_truth(git.get("dirty", run.provenance.get("git_dirty"))),
        config_sha256=run.hashes["config.toml"],
        scores_sha256=run.hashes["scores.csv"],
        cells_sha256=run.hashes["cells.csv"],
        versions={
            str(name): str(version) for name, version in dict(run.provenance.get("versions", {})).items()
        },
        penalty=_chosen_penalty(run.provenance.get("penalty_choice")),
        parameters=_whole(run.provenance.get("parameters")),
        flops=_number(run.provenance.get("flops")),
        training_seconds=_number(run.provenance.get("training_seconds")),
        milliseconds_per_image=_number(run.provenance.get("milliseconds_per_image")),
        peak_memory_mb=_number(run.provenance.get("peak_memory_mb")),
    )


def _chosen_penalty(choice: Any) -> float | None:
    return _number(choice.get("penalty")) if isinstance(choice, Mapping) else None


def _weights_name(value: Any) -> str | None:
    """Keep the name of a weights file without its folder on the machine of the training."""
    return None if value is None else Path(str(value)).name


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _truth(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


LAST_SECOND = 253_402_300_799
"""The last second of the year 9999, from 1970."""


def _now() -> str:
    """Return the time of the report in UTC; ``SOURCE_DATE_EPOCH`` makes it reproducible (reproducible-builds.org).

    Raises
    ------
    UsageError
        ``SOURCE_DATE_EPOCH`` is no whole number of seconds from 1970 to the year 9999.
    """
    stated = os.environ.get("SOURCE_DATE_EPOCH")
    if not stated:
        return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    digits = stated.isascii() and stated.isdigit() and len(stated) <= len(str(LAST_SECOND))
    if not digits or int(stated) > LAST_SECOND:
        raise UsageError(
            f"SOURCE_DATE_EPOCH = {stated[:40]!r}: expected seconds since 1970 in digits, at most {LAST_SECOND}; "
            "correct or unset it"
        )
    return datetime.datetime.fromtimestamp(int(stated), datetime.UTC).isoformat(timespec="seconds")
