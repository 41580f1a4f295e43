"""The test rows of a run, classified by rules that were fitted only on its validation rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import UsageError
from leukoscope.decision.calibration import Calibration, group_log_odds, softmax
from leukoscope.decision.conformal import prediction_sets
from leukoscope.decision.fit import DecisionFit, DecisionSettings, fit_decision
from leukoscope.decision.input_checks import check_descriptors
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.decision.policy import called_members
from leukoscope.evaluation.baselines import BASELINES
from leukoscope.evaluation.scores import DESCRIPTOR_NAMES, PARTS, Run, logit_matrix, scored_rows
from leukoscope.imaging.descriptors import Descriptors
from leukoscope.models.report import Fitted, PartCounts


def fit_rules(run: Run, settings: DecisionSettings | None = None) -> DecisionFit:
    """Fit the decision layer of a run; the test rows are left out before the fit sees anything.

    Raises
    ------
    CohortError
        Validation rows lack a class, or no operating point can be met.
    """
    rows = run.scores[run.scores["part"] != "test"]
    scored = scored_rows(rows, run.cells, run.embeddings[rows["row"].to_numpy()], run.classes)
    return fit_decision(scored, settings or DecisionSettings(), run.classes)


@dataclass(frozen=True)
class ScoredSplitCells:
    """Test rows of one split, or of several pooled, with all scores and decisions.

    Attributes
    ----------
    rows
        Test cells: score columns, descriptors, ``split``, ``calibrated_logit``, ``probability``, ``threshold``,
        ``subject_threshold``, ``called``, ``margin`` (calibrated logit minus that of the threshold), ``set_blast``,
        ``set_normal``, ``novel``, ``unfit`` (an input check refuses it) and one ``called:<operating point>`` for each
        point.
    validation
        Validation rows with ``probability`` and ``split``.
    baselines
        Scores of each baseline for the test rows, by its name.
    """

    name: str
    protocol: str
    leaks: bool
    rows: pd.DataFrame
    validation: pd.DataFrame
    baselines: dict[str, npt.NDArray[np.float64]]
    parts: dict[str, PartCounts]
    parameters: tuple[DecisionParameters, ...]
    fitted: tuple[Fitted, ...]
    remarks: tuple[str, ...]
    classes: ClassSchema = BINARY


def score_baselines(run: Run) -> dict[str, npt.NDArray[np.float64]]:
    """Return each baseline's probabilities for the rows of ``run.part("test")``, fitted on the training side."""
    learned = run.scores.loc[run.scores["part"] != "test", "cell"].unique().tolist()
    of_two = run.cells["label"].map(lambda name: "blast" if run.classes.is_positive(name) else "normal")
    cells = run.cells.assign(label=of_two.where(run.cells["label"] != "", ""))
    tested = run.part("test")["cell"].tolist()
    scores = {"all_positive": np.ones(len(tested))}
    # The trees are small: threads cost more than they save, on a busy machine minutes.
    with threadpool_limits(limits=1):
        for name, baseline in BASELINES.items():
            scores[name] = baseline(cells, learned, tested).probability
    return scores


def score_run(run: Run, fit: DecisionFit, baselines: dict[str, npt.NDArray[np.float64]]) -> ScoredSplitCells:
    """Apply fitted rules to the test rows of a run.

    Parameters
    ----------
    baselines
        Scores for the rows of ``run.part("test")``, in that order.
    """
    parameters, classes = fit.parameters, run.classes
    if not classes.positive:
        raise UsageError(
            f"{run.folder}: its classes have no positive group, which the report measures against the others; name one "
            "in cells.classes.json"
        )
    validation, _ = _with_probabilities(run.part("validation").assign(split=run.split), parameters, classes)
    rows, calibrated = _with_probabilities(run.part("test").assign(split=run.split), parameters, classes)
    threshold = parameters.operating_point().threshold
    if threshold is None:
        raise UsageError("the default operating point has no threshold: measures of two classes need one")
    rows["threshold"] = threshold
    rows["subject_threshold"] = parameters.subject_threshold()
    rows["called"] = rows["probability"] >= threshold
    rows["margin"] = rows["calibrated_logit"] - _logit(threshold)
    for point in parameters.operating_points:
        rows[f"called:{point.name}"] = rows["probability"] >= point.threshold
    called = called_members(softmax(calibrated), classes, threshold)
    sets = prediction_sets(calibrated, parameters.conformal, classes, called)
    positive = np.isin(np.arange(classes.size), classes.positive_members)
    rows["set_blast"] = np.asarray(sets[:, positive].any(axis=1))
    rows["set_normal"] = np.asarray(sets[:, ~positive].any(axis=1))
    if classes.size > 2:
        rows["called_class"] = called.astype(np.int64)
        rows["set_covers"] = sets[np.arange(len(rows)), rows["class"].to_numpy(dtype=np.intp)]
        rows["set_size"] = sets.sum(axis=1)
    novelty = fit.novelty.score(run.embeddings[rows["row"].to_numpy()])
    rows["novel"] = novelty > parameters.novelty.limit
    rows["unfit"] = [
        bool(check_descriptors(_descriptors(row), parameters.input_limits)) for row in _records(rows)
    ]
    return ScoredSplitCells(
        name=run.split,
        protocol=run.protocol,
        leaks=run.leaks,
        rows=rows,
        validation=validation,
        baselines=baselines,
        parts={
            part: count_part(run.scores[run.scores["part"] == part], classes.positive_members)
            for part in PARTS
        },
        parameters=(parameters,),
        fitted=(record_fit(fit, validation),),
        remarks=run.remarks,
        classes=classes,
    )


def _with_probabilities(
    rows: pd.DataFrame, parameters: DecisionParameters, classes: ClassSchema
) -> tuple[pd.DataFrame, npt.NDArray[np.float64]]:
    """Return rows as those of two classes, the positive group against the others, and the calibrated logits (N, K).

    Of more classes ``class`` holds the true one, ``probability_<class>`` each one's probability, and ``logit`` the
    log-odds of the group.
    """
    raw = logit_matrix(rows, classes)
    calibrated = Calibration(parameters.temperature, parameters.bias_of(classes)).logits(raw)
    shares, members = softmax(calibrated), list(classes.positive_members)
    more: dict[str, Any] = {}
    if classes.size > 2:
        more = {f"probability_{name}": shares[:, number] for number, name in enumerate(classes.names)}
        more |= {"class": rows["label"], "logit": group_log_odds(raw, members)}
    rows = rows.assign(
        **more,
        label=rows["label"].isin(members).astype(np.int64),
        calibrated_logit=group_log_odds(calibrated, members),
        probability=np.minimum(shares[:, members].sum(axis=1), 1.0),
    )
    return rows, calibrated


def record_fit(fit: DecisionFit, validation: pd.DataFrame) -> Fitted:
    """Record the fitted parameters with the number of cells and subjects."""
    conformal = fit.parameters.conformal
    quantiles = {name: limit.quantile for name, limit in conformal.classes.items()}
    return Fitted(
        cells=validation["cell"].nunique(),
        subjects=validation["subject"].nunique(),
        temperature=fit.parameters.temperature,
        bias=fit.parameters.bias.get("blast", 0.0) if len(conformal.classes) == 2 else 0.0,
        class_bias=fit.parameters.bias if len(conformal.classes) > 2 else {},
        conformal_alpha=conformal.alpha,
        conformal_quantiles={name: value for name, value in quantiles.items() if value is not None},
        notes=fit.notes,
    )


def pool_splits(splits: list[ScoredSplitCells]) -> ScoredSplitCells:
    """Put the test parts of several splits together, each cell once."""
    common = set.intersection(*(set(split.baselines) for split in splits))
    rows = pd.concat([split.rows for split in splits], ignore_index=True)
    return ScoredSplitCells(
        name=f"pooled over {len(splits)} splits",
        protocol=" + ".join(sorted({split.protocol for split in splits})),
        leaks=any(split.leaks for split in splits),
        rows=rows,
        validation=pd.concat([split.validation for split in splits], ignore_index=True),
        baselines={
            name: np.concatenate([split.baselines[name] for split in splits])
            for name in splits[0].baselines
            if name in common
        },
        parts={"test": count_part(rows)},
        parameters=tuple(one for split in splits for one in split.parameters),
        fitted=tuple(fitted for split in splits for fitted in split.fitted),
        remarks=(),
        classes=splits[0].classes,
    )


def count_part(rows: pd.DataFrame, positive: Sequence[int] = (1,)) -> PartCounts:
    """Count cells and subjects of one part; blasts are the cells of the positive classes."""
    blast = rows["label"].isin(positive)
    return PartCounts(
        cells=rows["cell"].nunique(),
        subjects=rows["subject"].nunique(),
        groups=rows["group"].nunique(),
        blasts=rows.loc[blast, "cell"].nunique(),
        normals=rows.loc[~blast, "cell"].nunique(),
        blast_subjects=rows.loc[blast, "subject"].nunique(),
        normal_subjects=rows.loc[~blast, "subject"].nunique(),
    )


def _records(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    return rows[list(DESCRIPTOR_NAMES)].to_dict("records")


def _descriptors(row: dict[Any, Any]) -> Descriptors:
    return Descriptors(**row)


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-12), 1 - 1e-12)
    return float(np.log(inside) - np.log1p(-inside))
