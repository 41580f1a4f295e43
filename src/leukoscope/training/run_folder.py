"""The folder of one run: files written before the first step and after the last."""

import hashlib
import json
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from safetensors.numpy import save_file

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.config import to_mapping
from leukoscope.core.errors import TrainingError, UsageError
from leukoscope.core.io import replacing, write_text
from leukoscope.data.split_plan import SplitPlan, make_plan, read_splits, select_rows, write_splits
from leukoscope.data.table import read_cells, table_sha256, write_cells
from leukoscope.training.fit.callbacks import EpochRecord
from leukoscope.training.settings import TrainSettings

RECORDED_PACKAGES = (
    "leukoscope",
    "lightning-fabric",
    "numpy",
    "pandas",
    "pillow",
    "safetensors",
    "timm",
    "torch",
)
SCORE_COLUMNS = ("cell", "sha256", "subject", "group", "fold", "part", "inner_fold", "label")
"""Columns of ``scores.csv`` before those of the logits."""


class Inputs(NamedTuple):
    """Paths of a run's cells; needed only to resume it on this machine."""

    table: str
    images: str


def to_toml(settings: Mapping[str, Any]) -> str:
    """Write nested mappings of plain values as TOML; JSON's strings, numbers and lists are TOML's."""
    lines = [
        f"{key} = {json.dumps(value)}" for key, value in settings.items() if not isinstance(value, Mapping)
    ]
    for key, value in settings.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{key}]", to_toml(value).rstrip()]
    return "\n".join(lines) + "\n"


def create_run_folder(
    out: Path,
    run_name: str,
    settings: TrainSettings,
    *,
    plan: SplitPlan,
    cells: pd.DataFrame,
    inputs: Inputs,
    classes: ClassSchema = BINARY,
) -> Path:
    """Make ``<date>-<config>-<hash8>/`` with the files that do not depend on training.

    Parameters
    ----------
    out
        Parent folder.
    run_name
        Part of the name.
    settings, plan, cells
        Of the run; the plan holds one split.
    inputs
        Where the images are.
    classes
        Of the cells.

    Raises
    ------
    UsageError
        The folder exists: the same run was started today.
    """
    split = plan.splits[0]
    used = select_rows(cells, (*split.train, *split.validation, *split.test))
    folder = out / f"{datetime.now(UTC):%Y%m%d}-{run_name}-{_identify(settings, split.name, used)}"
    if folder.exists():
        raise UsageError(
            f"{folder} exists: the same run was started before; resume it with 'leukoscope train --resume {folder}', "
            "or delete it, or set another seed"
        )
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    write_config(part, settings)
    write_cells(used, part / "cells.csv", classes)
    write_splits(
        make_plan(used, plan.protocol, plan.seed, plan.leaks, plan.splits), used, part / "splits.json"
    )
    write_json(part / "inputs.json", inputs._asdict())
    part.replace(folder)
    return folder


def check_run_name(name: str) -> None:
    """Raise ``UsageError`` where a name cannot be part of a folder's name on every system."""
    if not re.fullmatch(r"[^\W_][\w .+-]{0,63}", name) or name != name.strip():
        raise UsageError(
            f"run name {name!r}: expected at most 64 letters, digits, spaces or .+-_, a letter or digit first"
        )


def write_config(folder: Path, settings: TrainSettings) -> None:
    """Write ``config.toml``: every setting, those left at their default too."""
    write_text(folder / "config.toml", to_toml(to_mapping(settings)))


def check_identity(folder: Path, settings: TrainSettings) -> None:
    """Refuse to resume a run whose settings, split or cells differ from those in its name.

    Raises
    ------
    UsageError
        Something was edited, or the folder renamed.
    """
    cells = read_cells(folder / "cells.csv")
    found = _identify(settings, read_splits(folder / "splits.json", cells).splits[0].name, cells)
    named = folder.resolve().name.rpartition("-")[2]
    if found != named:
        raise UsageError(
            f"{folder}: its name ends in {named}, but its config.toml, cells.csv and splits.json give {found}: they "
            "were edited, or the folder renamed, since the run was started; put them back, or start a new run"
        )


def _identify(settings: TrainSettings, split_name: str, cells: pd.DataFrame) -> str:
    """Return 8 digits of a digest of everything that the models of a run depend on, without score settings."""
    learned = {name: value for name, value in to_mapping(settings).items() if name != "score"}
    return hashlib.sha256(f"{to_toml(learned)}{split_name}{table_sha256(cells)}".encode()).hexdigest()[:8]


def read_inputs(folder: Path) -> Inputs:
    """Return where the cells of a run lie.

    Raises
    ------
    UsageError
        The folder is no run.
    """
    try:
        return Inputs(**json.loads((folder / "inputs.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(f"{folder}: not a run folder; give a folder that 'leukoscope train' made") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise TrainingError(f"{folder / 'inputs.json'}: damaged ({error}); start the run again") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON by way of a ``.part`` sibling."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_log(folder: Path, records: Sequence[EpochRecord | Mapping[str, Any]]) -> None:
    """Write ``log.jsonl``, one line per epoch of every model, and the same as ``log.csv``; nothing without epochs."""
    rows = [asdict(record) if isinstance(record, EpochRecord) else dict(record) for record in records]
    if not rows:  # a head that is fitted in closed form has none
        return
    write_text(folder / "log.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    write_text(folder / "log.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def write_scores(folder: Path, scores: pd.DataFrame, embeddings: Any) -> None:
    """Write ``scores.csv`` and ``embeddings.safetensors``, rows in the same order."""
    with replacing(folder / "embeddings.safetensors") as part:
        save_file({"embeddings": embeddings}, part)
    logits = [name for name in scores.columns if name.startswith("logit")]
    text = scores[[*SCORE_COLUMNS, *logits]].to_csv(index=False, lineterminator="\n", float_format="%.9g")
    write_text(folder / "scores.csv", text)


def describe_environment() -> dict[str, Any]:
    """Return git commit, library versions, machine: the part of ``provenance.json`` that is not the run's."""
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"git": _git_state(), "versions": versions, "machine": f"{platform.system()} {platform.machine()}"}


def describe_cells(cells: pd.DataFrame) -> dict[str, Any]:
    """Return the digest and the size of a run's table."""
    return {"cells_sha256": table_sha256(cells), "cells": len(cells), "groups": int(cells["group"].nunique())}


def peak_memory_mb() -> float:
    """Return the largest resident size of this process so far, MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _git_state() -> dict[str, Any]:
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return {
            "commit": commit,
            "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no").strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout
