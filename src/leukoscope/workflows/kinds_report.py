"""The report of the bundle of kinds: two halves of what was held out, laboratories left out, non-cells, shortcuts."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from leukoscope.core.classes import ClassSchema
from leukoscope.decision.fit import DecisionSettings
from leukoscope.evaluation.protocol import caveat_sentences, protocol_sentences, record_run
from leukoscope.evaluation.scored_split import fit_rules, pool_splits, score_baselines, score_run
from leukoscope.evaluation.scores import Run
from leukoscope.evaluation.split_report import EvaluationSettings, report_split
from leukoscope.imaging.descriptors import NINE_SCALARS
from leukoscope.models.report import Measurement, Measurements, Report, Supplement
from leukoscope.stats.intervals import clopper_pearson

_EXACT = "exact binomial interval, every cell by itself"
_SELECTION = "a selection figure: it chose the recipe, so it is no test"
_STUDY_PARTS = (
    ("munich", "left_out_context", "auc_blast", "Munich left out: AUC of blasts against mature cells"),
    (
        "munich",
        "left_out_context",
        "auc_immature",
        "Munich left out: AUC of blasts and immature granulocytes",
    ),
    ("munich", "left_out_context", "recall_mature", "Munich left out: mean recall of mature kinds"),
    ("pbc", "left_out_context", "recall_mean", "PBC left out: mean recall of eight kinds"),
    ("pbc", "left_out_context", "recall_mature", "PBC left out: mean recall of mature kinds"),
    ("cnmc", "cnmc_left_out_pasted", "auc", "C-NMC left out, pasted: AUC of lymphoblasts"),
)


def kinds_report(
    table: pd.DataFrame,
    logits: NDArray[np.float32],
    embeddings: NDArray[np.float32],
    classes: ClassSchema,
    *,
    settings: DecisionSettings,
    study: Path,
    record: Mapping[str, Any],
    created: str,
    evaluation: EvaluationSettings | None = None,
) -> Report:
    """Measure the held-out crops, each half with the rules fitted on the other.

    Parameters
    ----------
    table, logits, embeddings
        As in ``kinds_bundle.ScoredCrops``.
    classes
        Of the bundle.
    settings
        Of the decision layer.
    study
        ``results.json`` of a study: laboratories left out.
    record
        Of the weights: recipe, steps.
    created
        UTC, ISO 8601.
    evaluation
        Resamples and bins.
    """
    evaluation = evaluation or EvaluationSettings()
    runs = [half_run(table, logits, embeddings, classes, test=test, record=record) for test in ("a", "b")]
    scored = [score_run(run, fit_rules(run, settings), score_baselines(run)) for run in runs]
    splits = tuple(report_split(split, evaluation, lambda _: None) for split in scored)
    pooled = report_split(pool_splits(scored), evaluation, lambda _: None)
    return Report(
        title="Kinds of white cells",
        created=created,
        level=evaluation.bootstrap.level,
        resamples=evaluation.bootstrap.replicates,
        seed=evaluation.bootstrap.seed,
        protocol=protocol_sentences(scored, True),
        caveats=(*_caveats(table), *caveat_sentences([*splits, pooled])),
        runs=tuple(record_run(run) for run in runs),
        splits=splits,
        pooled=pooled,
        supplements=(
            by_laboratory(table, logits, classes),
            left_out(json.loads(study.read_text(encoding="utf-8"))),
            non_cells(table, logits, classes),
            shortcuts(table, classes),
        ),
    )


def half_run(
    table: pd.DataFrame,
    logits: NDArray[np.float32],
    embeddings: NDArray[np.float32],
    classes: ClassSchema,
    *,
    test: str,
    record: Mapping[str, Any],
) -> Run:
    """Return a run in memory: one half is ``test``, the other ``validation``."""
    kept = table[table["part"] != ""]
    numbers = kept.index.to_numpy()
    parts = kept["part"].map(
        lambda part: "train" if part == "train" else "test" if part == test else "validation"
    )
    scores = pd.DataFrame(
        {
            "cell": kept["cell"],
            "sha256": kept["sha256"],
            "subject": kept["subject"],
            "group": kept["cell"],
            "fold": kept["laboratory"],
            "part": parts,
            "inner_fold": "",
            "label": [classes.index(name) for name in kept["kind"]],
            "row": numbers,
        }
    )
    for column, name in enumerate(classes.names):
        scores[f"logit_{name}"] = logits[numbers, column].astype(np.float64)
    cells = kept.assign(label=kept["kind"], group=kept["cell"], fold=kept["laboratory"])
    digest = hashlib.sha256("".join(kept["sha256"]).encode()).hexdigest()
    return Run(
        folder=Path("kinds"),
        name=f"kinds-half-{test}",
        split=f"half {test} of what was held out",
        protocol="held out by image, people of C-NMC and fields as wholes",
        leaks=False,
        split_seed=0,
        scores=scores.reset_index(drop=True),
        embeddings=embeddings.astype(np.float32),
        cells=cells.set_index("cell", drop=False).rename_axis(None),
        classes=classes,
        config={"network": {"arch": record["recipe"]["arch"]}},
        provenance={},
        hashes=dict.fromkeys(("config.toml", "scores.csv", "cells.csv"), digest),
    )


def by_laboratory(table: pd.DataFrame, logits: NDArray[np.float32], classes: ClassSchema) -> Supplement:
    """Measure the likeliest class of held-out cells, laboratory by laboratory."""
    held = table[table["held_out"] & (table["kind"] != "")]
    called = np.array(classes.names)[logits.argmax(axis=1)]
    measures: Measurements = {}
    for laboratory, cells in held.groupby("laboratory", sort=True):
        right = called[cells.index] == cells["kind"].to_numpy()
        measures[f"{laboratory} accuracy"] = _share(right, cells, str(laboratory))
        recalls = [right[cells["kind"] == kind].mean() for kind in sorted(set(cells["kind"]))]
        measures[f"{laboratory} mean recall, kinds: {len(recalls)}"] = _plain(
            float(np.mean(recalls)), cells, str(laboratory), "a mean of recalls; the counts of kinds differ"
        )
    return Supplement(
        name="by_laboratory",
        title="By laboratory, cells not trained on",
        text="The likeliest class, without calibration or refusal. Every laboratory is one that was trained on.",
        measures=measures,
    )


def left_out(study: Mapping[str, Any]) -> Supplement:
    """Return what the study measured with whole laboratories left out, for the recipe that was chosen."""
    chosen = study["chosen"]["name"]
    folds = study["runs"][chosen]
    measures: Measurements = {}
    for fold, part, name, words in _STUDY_PARTS:
        found = folds[fold]["measures"][part]
        if found.get(name) is not None:
            measures[words] = Measurement(
                value=found[name],
                low=None,
                high=None,
                n_cells=found["cells"],
                n_subjects=found.get("people", 0),
                split=f"laboratory left out: {fold}",
                unit="cell",
                method="none",
                not_estimable=_SELECTION,
            )
    steps = ", ".join(f"{fold} {run['steps']}" for fold, run in folds.items() if fold != "none")
    scores = ", ".join(f"{name} {value:.3f}" for name, value in study["scores"].items() if value is not None)
    return Supplement(
        name="laboratory_left_out",
        title="Laboratories left out",
        text="Networks of the same recipe that never saw the laboratory they are measured on. These figures chose the "
        "recipe among six, so they are selection figures. Each network was trained for less than a tenth of the steps "
        f"of the shipped one ({steps}), so they say less than the recipe can do. Scores of the recipes: {scores}.",
        measures=measures,
    )


def non_cells(table: pd.DataFrame, logits: NDArray[np.float32], classes: ClassSchema) -> Supplement:
    """Measure how often what is no white cell is called one, and how often white cells are called none."""
    white = list(classes.members("white_cell"))
    is_white = np.isin(logits.argmax(axis=1), white)
    held = table[table["held_out"]]
    parts = {
        "no white cell of fields, not called a white cell": (held["kind"] == "not_a_white_cell", False),
        "platelets, not called a white cell": (held["kind"] == "platelet", False),
        "white cells of any kind, called a white cell": (
            held["kind"].isin([classes.names[index] for index in white])
            | held["label"].isin(["mature_white_cell", "white_cell"]),
            True,
        ),
        "atypical lymphocytes of Munich (a kind never shown), called a white cell": (
            held["label"] == "unseen",
            True,
        ),
    }
    measures = {}
    for words, (mask, wanted) in parts.items():
        cells = held[mask]
        if len(cells):
            measures[words] = _share(is_white[cells.index] == wanted, cells, "held out")
    return Supplement(
        name="non_cells",
        title="What is no white cell",
        text="By the likeliest class, on crops that were not trained on: red cells, glass and dirt of BCCD, Chula and "
        "draaslan fields, platelets, and white cells.",
        measures=measures,
    )


def shortcuts(table: pd.DataFrame, classes: ClassSchema) -> Supplement:
    """Measure what nine scalars of size and color tell of the kinds: gradient boosting on cut-out cells."""
    known = table[table["kind"] != ""]
    trained, held = known[~known["held_out"]], known[known["held_out"]]
    measures: Measurements = {}
    columns = {"nine scalars": list(NINE_SCALARS), "area alone": ["area_px"]}
    for words, names in columns.items():
        with threadpool_limits(1):
            model = HistGradientBoostingClassifier(random_state=0, class_weight="balanced", max_iter=60)
            model.fit(trained[names].to_numpy(np.float64), trained["kind"])
            called = model.predict(held[names].to_numpy(np.float64))
        cells = held[held["laboratory"] == "pbc"]
        right = (called == held["kind"].to_numpy())[(held["laboratory"] == "pbc").to_numpy()]
        recalls = [right[(cells["kind"] == kind).to_numpy()].mean() for kind in sorted(set(cells["kind"]))]
        measures[f"PBC, mean recall of {len(recalls)} kinds, {words}"] = _plain(
            float(np.mean(recalls)), cells, "pbc", "a mean of recalls; the counts of kinds differ"
        )
    return Supplement(
        name="shortcuts",
        title="Size and color alone",
        text=f"Gradient boosting over {classes.size} classes on the cells cut out, trained on the same cells as the "
        "network. The network's figure beside it is the mean recall of PBC above.",
        measures=measures,
    )


def _share(right: NDArray[np.bool_], cells: pd.DataFrame, split: str) -> Measurement:
    low, high = clopper_pearson(int(right.sum()), len(right))
    return Measurement(
        value=float(right.mean()),
        low=low,
        high=high,
        n_cells=len(right),
        n_subjects=cells["subject"].nunique(),
        split=split,
        unit="cell",
        method=_EXACT,
    )


def _plain(value: float, cells: pd.DataFrame, split: str, why: str) -> Measurement:
    return Measurement(
        value=value,
        low=None,
        high=None,
        n_cells=len(cells),
        n_subjects=cells["subject"].nunique(),
        split=split,
        unit="cell",
        method="none",
        not_estimable=why,
    )


def _caveats(table: pd.DataFrame) -> tuple[str, ...]:
    trained = table[~table["held_out"]]
    myeloid = trained["label"].isin(["myeloblast", "monoblast"])
    lymphoid = trained["label"] == "lymphoblast"
    tested = table[table["held_out"] & (table["kind"] == "blast")]
    return (
        f"Blasts: {int(lymphoid.sum())} lymphoblasts of {trained.loc[lymphoid, 'subject'].nunique()} people of one "
        f"laboratory (C-NMC, pasted into other surroundings) and {int(myeloid.sum())} myeloid blasts of one other "
        f"(Munich, people not known) were trained on. The {len(tested)} blasts tested are lymphoblasts of "
        f"{tested['subject'].nunique()} people of C-NMC; no myeloid blast was left to test.",
        "The decision rules count every cell by itself: only C-NMC names its people, and eight with blasts are too few "
        "for a limit by person. Coverage for a new person is not promised.",
        "Only C-NMC names its people. Elsewhere an image or a field stands for a subject, so intervals are too narrow.",
        "Blasts are measured here against normal B-lymphoid precursors, which are called lymphocytes, and against "
        "mature cells of other laboratories: the laboratory may give some of them away.",
    )
