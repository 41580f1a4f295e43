"""Run folders without a network: subjects with effects of their own, sizes that tell the class in part."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from leukoscope.data.splits import Split, make_plan, write_splits
from leukoscope.data.table import write_cells


@dataclass(frozen=True)
class Cohort:
    """How many people and cells there are, and how much they differ."""

    blast_subjects: int = 10
    normal_subjects: int = 6
    mean_cells: float = 40.0
    subject_spread: float = 0.7
    separation: float = 0.9
    size_effect: float = 0.22


def make_cells(cohort: Cohort, fold: str, rng: np.random.Generator, first: int = 1) -> pd.DataFrame:
    """Return a cell table of one fold; the column ``evidence`` is the true logit, to be dropped before writing."""
    rows = []
    for number in range(cohort.blast_subjects + cohort.normal_subjects):
        blast = number < cohort.blast_subjects
        subject = str(first + number) if blast else f"H{first + number}"
        effect = rng.normal(0, cohort.subject_spread)
        size = rng.normal(0, 0.12)
        for count in range(max(4, int(rng.gamma(2.0, cohort.mean_cells / 2)))):
            log_area = rng.normal(0, 0.2) + size + (cohort.size_effect if blast else -cohort.size_effect)
            area = int(33000 * np.exp(log_area))
            side = int(np.sqrt(area) * 1.15)
            key = f"{fold}/{subject}_{count + 1}.bmp"
            sign = 1 if blast else -1
            rows.append(
                {
                    "cell": key,
                    "sha256": hashlib.sha256(f"{key}{first}".encode()).hexdigest(),
                    "label": "blast" if blast else "normal",
                    "subject": subject,
                    "group": subject,
                    "fold": fold,
                    "width_px": 450,
                    "height_px": 450,
                    "area_px": area,
                    "box_height_px": side + int(rng.integers(-8, 9)),
                    "box_width_px": side + int(rng.integers(-8, 9)),
                    "mean_r": 120 - 4 * sign + 6 * effect + rng.normal(0, 6),
                    "mean_g": 80 - 4 * sign + 6 * effect + rng.normal(0, 6),
                    "mean_b": 150 + 6 * effect + rng.normal(0, 6),
                    "std_r": 30 + rng.normal(0, 3),
                    "std_g": 28 + rng.normal(0, 3),
                    "std_b": 20 + rng.normal(0, 3),
                    "focus": 100 + rng.normal(0, 10),
                    "border_contact_px": 0,
                    "foreground_share": area / 450**2,
                    "components": 1,
                    "evidence": sign * cohort.separation + 1.5 * log_area + effect + rng.normal(0, 1.3),
                }
            )
    return pd.DataFrame(rows)


def write_run(
    folder: Path,
    *,
    train: Cohort = Cohort(),
    test: Cohort = Cohort(7, 4),
    seed: int = 0,
    split: str = "fold_0 to fold_1",
    leaks: bool = False,
    sharpness: float = 2.0,
    test_first: int = 101,
    arch: str = "efficientnet_b3",
) -> Path:
    """Write one run folder and return it; ``sharpness`` is the over-confidence that calibration must undo."""
    rng = np.random.default_rng(seed)
    learned = make_cells(train, "fold_0", rng)
    tested = make_cells(test, "fold_1", rng, first=test_first)
    if leaks:
        mixed = rng.permutation(pd.concat([learned, tested], ignore_index=True).index)
        everything = pd.concat([learned, tested], ignore_index=True)
        learned, tested = everything.loc[mixed[: len(learned)]], everything.loc[mixed[len(learned) :]]
    folder.mkdir(parents=True)
    cells = pd.concat([learned, tested], ignore_index=True)
    write_cells(cells.drop(columns="evidence"), folder / "cells.csv")
    one = Split(split, tuple(learned["cell"]), (), tuple(tested["cell"]))
    protocol = "paper" if leaks else "official"
    plan = make_plan(cells.drop(columns="evidence"), protocol, seed, leaks, [one])
    write_splits(plan, cells.drop(columns="evidence"), folder / "splits.json")
    groups = sorted(learned["group"].unique())
    fold_of = {group: str(index % 3) for index, group in enumerate(groups)}
    parts = [
        _scores(
            learned, "train", sharpness * (learned["evidence"] + np.where(learned["label"] == "blast", 2, -2))
        ),
        _scores(learned, "validation", sharpness * learned["evidence"], learned["group"].map(fold_of)),
        _scores(tested, "test", sharpness * tested["evidence"]),
    ]
    scores = pd.concat(parts)
    embeddings = np.tanh(scores["logit"].to_numpy()[:, None] * rng.normal(size=(1, 12)) / 4)
    embeddings += rng.normal(0, 0.5, embeddings.shape)
    save_file({"embeddings": embeddings.astype(np.float32)}, folder / "embeddings.safetensors")
    scores.to_csv(folder / "scores.csv", index=False, lineterminator="\n")
    (folder / "config.toml").write_text(f'seed = {seed}\n[network]\narch = "{arch}"\nweights = "none"\n')
    provenance = {
        "git": {"commit": "0" * 40, "dirty": False},
        "versions": {"leukoscope": "0.1.0", "torch": "2.14.0"},
        "parameters": 10_700_000,
        "training_seconds": 1234.5,
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def _scores(
    cells: pd.DataFrame, part: str, logit: pd.Series, inner_fold: pd.Series | str = ""
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "cell": cells["cell"],
            "sha256": cells["sha256"],
            "subject": cells["subject"],
            "group": cells["group"],
            "fold": cells["fold"],
            "part": part,
            "inner_fold": inner_fold,
            "label": (cells["label"] == "blast").astype(int),
            "logit": logit,
        }
    )
