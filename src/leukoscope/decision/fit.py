"""Fit the whole decision layer from the arrays of a run: no image, no network, no test row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import CohortError
from leukoscope.decision.calibration import (
    Infeasible,
    Rule,
    choose_calibration,
    choose_operating_point,
    equal_subject_weights,
)
from leukoscope.decision.conformal import fit_quantiles, subjects_needed
from leukoscope.decision.input_checks import LimitRule, fit_input_limits
from leukoscope.decision.novelty import DEFAULT_COMPONENTS, NoveltyModel
from leukoscope.decision.parameters import (
    ConformalQuantiles,
    DecisionParameters,
    NoveltyLimit,
    OperatingPoint,
)
from leukoscope.decision.subject_rule import fit_subject_rule

TRAIN = "train"
VALIDATION = "validation"


@dataclass(frozen=True)
class DecisionSettings:
    """Settings of the fit.

    Attributes
    ----------
    rules
        Operating points to offer; the first that can be met is the default one. Thresholds are left out where no
        class is positive; the likeliest class is then called.
    alpha : 0..1
        Error rate of the prediction sets, a class. With the nine to twelve normal subjects of C-NMC's folds, 0.1 is
        set by the most extreme subject alone; 0.2 rests on several.
    with_bias
        Fit a bias in addition to the temperature.
    components
        Principal directions of the novelty model.
    novelty_refusal_rate : 0..1
        Share of cells of unseen subjects that may be refused as novel.
    novelty_margin : >= 1
        Factor on the limit, for subjects who differ from all those it was set on.
    novelty_rows
        ``validation``: the limit is set on the validation rows; right where the network that scored them is
        the one that is shipped, or where all networks embed alike (frozen backbone). ``train``: it is set on
        training rows by leaving subjects out of the fit in turn; right where validation rows come from
        several inner networks.
    limit_rule
        How input limits follow from training cells.
    """

    rules: tuple[Rule, ...] = field(
        default=(
            Rule("fixed", 0.5),
            Rule("sensitivity", 0.95, "subject"),
            Rule("youden", unit="subject"),
            Rule("specificity", 0.9, "subject"),
        )
    )
    alpha: float = 0.2
    with_bias: bool = False
    components: int = DEFAULT_COMPONENTS
    novelty_refusal_rate: float = 0.01
    novelty_margin: float = 1.05
    novelty_rows: Literal["validation", "train"] = "validation"
    limit_rule: LimitRule = field(default_factory=LimitRule)


@dataclass(frozen=True)
class DecisionFit:
    """The fitted parameters; ``notes`` are sentences for the report about parts that could not be fitted."""

    parameters: DecisionParameters
    novelty: NoveltyModel
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ScoredRows:
    """The rows of ``scores.csv`` as arrays of one length.

    Attributes
    ----------
    part : (N,) of 'train', 'validation', 'test'
        Test rows may be present; they are dropped first and never used.
    label : (N,) of 0 to K - 1
    logit : (N, K), or (N,) log-odds of the second of two classes
    group : (N,)
        Merged subjects: the unit of every guarantee.
    inner_fold : (N,)
        Which inner network scored the row; empty for the final one.
    embeddings : (N, D)
    descriptors : columns of (N,)
        Those of ``cells.csv`` for the same rows.
    """

    part: npt.NDArray[np.str_]
    label: npt.NDArray[np.int_]
    logit: npt.NDArray[np.float64]
    group: npt.NDArray[np.str_]
    inner_fold: npt.NDArray[np.str_]
    embeddings: npt.NDArray[np.float32]
    descriptors: Mapping[str, npt.NDArray[np.float64]]

    def __post_init__(self) -> None:
        lengths = {
            name: len(getattr(self, name))
            for name in ("part", "label", "logit", "group", "inner_fold", "embeddings")
        } | {name: len(column) for name, column in self.descriptors.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def of(self, part: str) -> "ScoredRows":
        """Return the rows of one part."""
        kept = np.asarray(self.part) == part
        return ScoredRows(
            np.asarray(self.part)[kept],
            np.asarray(self.label)[kept],
            np.asarray(self.logit)[kept],
            np.asarray(self.group)[kept],
            np.asarray(self.inner_fold)[kept],
            np.asarray(self.embeddings)[kept],
            {name: np.asarray(column)[kept] for name, column in self.descriptors.items()},
        )


def fit_decision(
    rows: ScoredRows, settings: DecisionSettings = DecisionSettings(), classes: ClassSchema = BINARY
) -> DecisionFit:
    """Fit calibration, operating points, prediction sets, novelty and input limits.

    Temperature, thresholds and quantiles come from the validation rows: cells of groups that the network
    which scored them did not see. Novelty model and input limits come from the training rows.

    Raises
    ------
    CohortError
        A part is empty, or validation lacks a class.
    """
    train, validation = rows.of(TRAIN), rows.of(VALIDATION)
    for name, part in ((TRAIN, train), (VALIDATION, validation)):
        if not len(part.label):
            raise CohortError(f"no rows of part {name!r}: the decision layer needs train and validation rows")
    missing = [name for number, name in enumerate(classes.names) if number not in validation.label]
    if len(missing) >= classes.size - 1:
        raise CohortError(
            "the validation rows hold one class only: thresholds cannot be chosen; change the inner folds"
        )
    if missing:
        raise CohortError(
            f"the validation rows hold no {', '.join(missing)}: no limit can be set for a class without cells; change "
            "the inner folds, or leave the class out"
        )

    notes = []
    calibration = choose_calibration(
        validation.logit,
        validation.label,
        validation.group,
        validation.inner_fold,
        with_bias=settings.with_bias,
    )
    if calibration.reason:
        notes.append(f"Temperature: {calibration.reason}.")
    points, point_notes = _operating_points(
        settings, calibration.probabilities(validation.logit), validation.label, validation.group, classes
    )
    conformal = fit_quantiles(
        calibration.logits(validation.logit), validation.label, validation.group, settings.alpha, classes
    )
    novelty, limit = _fit_novelty(train, validation, settings)
    parameters = DecisionParameters(
        temperature=calibration.temperature,
        bias=dict(zip(classes.names, calibration.bias, strict=True)) if any(calibration.bias) else {},
        operating_points=points,
        default_operating_point=points[0].name,
        conformal=conformal,
        novelty=limit,
        input_limits=fit_input_limits(train.descriptors, settings.limit_rule),
        subject=fit_subject_rule(
            calibration.logits(validation.logit), validation.label, validation.group, classes
        ),
    )
    return DecisionFit(parameters, novelty, (*notes, *point_notes, *_conformal_notes(conformal)))


def _operating_points(
    settings: DecisionSettings,
    probabilities: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int_],
    groups: npt.NDArray[np.str_],
    classes: ClassSchema,
) -> tuple[tuple[OperatingPoint, ...], list[str]]:
    points, notes = [], []
    members = list(classes.positive_members)
    positive = np.minimum(probabilities[:, members].sum(axis=1), 1.0)
    rules = settings.rules if members else (Rule("argmax"),)
    for rule in rules:
        chosen = choose_operating_point(rule, positive, np.isin(labels, members).astype(int), groups)
        if isinstance(chosen, Infeasible):
            notes.append(f"Operating point left out: {chosen.reason}.")
        else:
            points.append(chosen)
    if not points:
        raise CohortError(f"none of the rules for an operating point can be met: {' '.join(notes)}")
    return tuple(points), notes


def _conformal_notes(conformal: ConformalQuantiles) -> list[str]:
    needed = subjects_needed(conformal.alpha)
    return [
        f"Prediction sets: {limit.subjects} subjects of class {name}, {needed} are needed at an error rate of "
        f"{conformal.alpha:.0%}: {name} is never excluded."
        for name, limit in conformal.classes.items()
        if limit.quantile is None
    ]


def _fit_novelty(
    train: ScoredRows, validation: ScoredRows, settings: DecisionSettings
) -> tuple[NoveltyModel, NoveltyLimit]:
    model = NoveltyModel.fit(train.embeddings, train.group, components=settings.components)
    if settings.novelty_rows == VALIDATION:
        scores, groups = model.score(validation.embeddings).astype(np.float64), validation.group
        where = "validation rows"
    else:
        scores, groups = _left_out_scores(train, settings.components), train.group
        where = "training rows of subjects left out of the fit in turn"
    quantile = _weighted_quantile(scores, equal_subject_weights(groups), 1 - settings.novelty_refusal_rate)
    method = (
        f"Mahalanobis distance, {len(model.scales)} principal directions and a common residual variance; limit: "
        f"{1 - settings.novelty_refusal_rate:.1%} quantile of {where}, every subject counting the same, "
        f"times {settings.novelty_margin:g}"
    )
    limit = NoveltyLimit(
        limit=quantile * settings.novelty_margin,
        method=method,
        target_refusal_rate=settings.novelty_refusal_rate,
    )
    return model, limit


def _left_out_scores(train: ScoredRows, components: int, folds: int = 5) -> npt.NDArray[np.float64]:
    """Score each training row by a model fitted without its group."""
    names, index = np.unique(train.group, return_inverse=True)
    if len(names) < 2:
        raise CohortError("one training subject only: a novelty limit needs subjects left out of the fit")
    scores = np.zeros(len(index))
    for fold in range(min(folds, len(names))):
        held_out = index % folds == fold
        model = NoveltyModel.fit(train.embeddings[~held_out], train.group[~held_out], components=components)
        scores[held_out] = model.score(train.embeddings[held_out])
    return scores


def _weighted_quantile(values: npt.ArrayLike, weights: npt.NDArray[np.float64], share: float) -> float:
    """Return the smallest value below or at which at least ``share`` of the weight lies."""
    numbers = np.asarray(values, dtype=np.float64)
    order = np.argsort(numbers)
    mass = np.cumsum(weights[order]) / weights.sum()
    return float(numbers[order][min(int(np.searchsorted(mass, share - 1e-12)), len(order) - 1)])
