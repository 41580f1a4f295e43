"""The order of the checks and their reasons."""

import dataclasses
import math

import numpy as np
import pytest

from leukoscope.core.errors import BundleError, EngineError, UsageError
from leukoscope.core.terms import Reason, Status
from leukoscope.decision.input_checks import check_descriptors, fit_input_limits
from leukoscope.decision.parameters import (
    ClassQuantile,
    ConformalQuantiles,
    DecisionParameters,
    InputLimits,
    NoveltyLimit,
    OperatingPoint,
    SubjectRule,
)
from leukoscope.decision.policy import SubjectVerdict, Verdict, decide, pool_subject
from leukoscope.imaging.descriptors import Descriptors, describe_cell

LIMITS = InputLimits(
    blank_area_px=200,
    min_area_px=8_000,
    max_area_px=60_000,
    max_foreground_share=0.4,
    min_focus=0.05,
    max_border_contact_px=20,
    max_components=2,
)


def make_parameters(
    quantile: float | None = 1.0, threshold: float = 0.5, temperature: float = 2.0, bias: float = 0.0
) -> DecisionParameters:
    limit = ClassQuantile(quantile=quantile, subjects=20, cells=400)
    return DecisionParameters(
        temperature=temperature,
        bias={"blast": bias},
        operating_points=(
            OperatingPoint(name="youden", threshold=threshold, rule="largest sensitivity + specificity"),
            OperatingPoint(name="strict", threshold=0.9, rule="fixed"),
        ),
        default_operating_point="youden",
        conformal=ConformalQuantiles(alpha=0.1, classes={"normal": limit, "blast": limit}),
        novelty=NoveltyLimit(limit=2.0, method="Mahalanobis", target_refusal_rate=0.01),
        input_limits=LIMITS,
    )


def draw_disc(
    radius: int = 90, size: int = 450, center: tuple[int, int] | None = None, detail: float = 30
) -> np.ndarray:
    """A textured disc on black: what passes the input checks, without being a cell."""
    row, column = center or (size // 2, size // 2)
    y, x = np.ogrid[:size, :size]
    rgb = np.full((size, size, 3), 120.0) + np.random.default_rng(0).normal(size=(size, size, 1)) * detail
    rgb = np.clip(rgb, 40, 255).astype(np.uint8)
    rgb[(y - row) ** 2 + (x - column) ** 2 > radius**2] = 0
    return rgb


CELL = describe_cell(draw_disc())


@pytest.mark.parametrize(
    ("logit", "expected", "members"),
    [
        (6.0, "blast", ("blast",)),
        (-6.0, "normal", ("normal",)),
        (0.4, "uncertain", ("blast", "normal")),
    ],
)
def test_a_good_cell_is_called_or_uncertain(logit: float, expected: str, members: tuple) -> None:
    verdict = decide(logit, 1.0, CELL, make_parameters())
    assert verdict.decision is expected
    assert verdict.prediction_set == members
    assert verdict.probability == pytest.approx(1 / (1 + math.exp(-logit / 2)))
    assert verdict.novelty == 0.5 and verdict.threshold == 0.5
    assert [finding.code for finding in verdict.reasons] == (
        [Reason.BOTH_PLAUSIBLE] if expected == "uncertain" else []
    )


def test_bias_shifts_the_probability() -> None:
    verdict = decide(0.0, None, CELL, make_parameters(bias=-1.0, quantile=None))
    assert verdict.probability == pytest.approx(1 / (1 + math.e))
    assert verdict.novelty is None


def test_a_cell_unusual_for_both_classes_is_uncertain() -> None:
    verdict = decide(0.0, 1.0, CELL, make_parameters(quantile=-1.0))
    assert verdict.decision == "uncertain" and verdict.prediction_set == ()
    assert verdict.reasons[0].code is Reason.NEITHER_PLAUSIBLE


def test_the_called_class_joins_a_set_that_would_contradict_it() -> None:
    parameters = make_parameters(quantile=0.1)
    assert decide(2.0, 1.0, CELL, parameters).decision == "blast"
    verdict = decide(2.0, 1.0, CELL, parameters, "strict")
    assert verdict.probability < 0.9 == verdict.threshold
    assert verdict.prediction_set == ("blast", "normal")
    assert [finding.code for finding in verdict.reasons] == [Reason.BOTH_PLAUSIBLE]
    assert verdict.decision == "uncertain"


def test_too_few_subjects_leave_every_cell_uncertain() -> None:
    parameters = make_parameters(quantile=None)
    assert {decide(z, 1.0, CELL, parameters).decision for z in (-50, 0, 50)} == {"uncertain"}


def test_novelty_comes_before_the_evidence_and_after_the_checks() -> None:
    novel = decide(6.0, 2.01, CELL, make_parameters())
    assert novel.decision == "rejected" and [r.code for r in novel.reasons] == [Reason.NOVEL]
    assert novel.probability is None and novel.calibrated_logits == () and novel.prediction_set == ()
    assert novel.novelty > 1
    assert decide(6.0, 2.0, CELL, make_parameters()).decision == "blast"

    blank = decide(6.0, 99.0, describe_cell(np.zeros((450, 450, 3), np.uint8)), make_parameters())
    assert [r.code for r in blank.reasons] == [Reason.BLANK]


def flood(rgb: np.ndarray) -> np.ndarray:
    return np.maximum(rgb, 180)


@pytest.mark.parametrize(
    ("rgb", "codes"),
    [
        (draw_disc(), []),
        (np.zeros((450, 450, 3), np.uint8), [Reason.BLANK]),
        (draw_disc(5), [Reason.BLANK]),
        (flood(draw_disc()), [Reason.NOT_SEGMENTED]),
        (draw_disc(30), [Reason.WRONG_SCALE]),
        (draw_disc(150), [Reason.WRONG_SCALE]),
        (draw_disc(center=(40, 225)), [Reason.CUT_OFF]),
        (
            draw_disc(60) | draw_disc(50, center=(80, 80)) | draw_disc(50, center=(370, 370)),
            [Reason.SEVERAL_OBJECTS],
        ),
        (draw_disc(detail=0), [Reason.BLURRED]),
        (draw_disc(150, center=(40, 225), detail=0), [Reason.CUT_OFF, Reason.BLURRED]),
    ],
)
def test_input_checks_name_each_failure(rgb: np.ndarray, codes: list[Reason]) -> None:
    findings = check_descriptors(describe_cell(rgb), LIMITS)
    assert [finding.code for finding in findings] == codes
    assert all(
        finding.message.endswith(".") and any(c.isdigit() for c in finding.message) for finding in findings
    )


def test_input_limits_accept_training_cells_and_are_robust_to_one_outlier() -> None:
    rng = np.random.default_rng(0)
    columns = {
        "area_px": rng.normal(32_000, 4_000, 3_000),
        "foreground_share": rng.normal(0.16, 0.02, 3_000),
        "focus": rng.gamma(20, 0.05, 3_000),
        "border_contact_px": np.zeros(3_000),
        "components": np.ones(3_000),
    }
    limits = fit_input_limits(columns)
    kept = (columns["area_px"] >= limits.min_area_px) & (columns["area_px"] <= limits.max_area_px)
    assert kept.all() and (columns["focus"] >= limits.min_focus).all()
    odd = {name: values.copy() for name, values in columns.items()}
    odd["area_px"][0], odd["focus"][1] = 200_000, 1e-9
    again = fit_input_limits(odd)
    assert again.max_area_px < 1.1 * limits.max_area_px and again.min_focus > 0.8 * limits.min_focus
    del odd["focus"]
    with pytest.raises(ValueError, match="focus"):
        fit_input_limits(odd)


@pytest.mark.parametrize(("logit", "novelty"), [(math.nan, 1.0), (math.inf, 1.0), (0.0, math.nan)])
def test_an_engine_without_an_answer_is_an_error(logit: float, novelty: float) -> None:
    with pytest.raises(EngineError, match=r"\b(nan|inf)\b"):
        decide(logit, novelty, CELL, make_parameters())


def test_unknown_operating_point_lists_the_known() -> None:
    with pytest.raises(UsageError, match="youden, strict"):
        decide(0.0, 1.0, CELL, make_parameters(), "yuoden")


def scored(*logits: float) -> list[Verdict]:
    return [decide(z, 1.0, CELL, make_parameters()) for z in logits]


def test_pooling_takes_the_mean_logit_of_classified_cells() -> None:
    refused = decide(50.0, 99.0, CELL, make_parameters())
    pooled = pool_subject([*scored(6.0, 6.0, 0.4, -6.0), refused], make_parameters())
    assert (pooled.cells, pooled.classified, pooled.rejected, pooled.uncertain, pooled.blasts) == (
        5,
        4,
        1,
        1,
        3,
    )
    assert pooled.probability == pytest.approx(1 / (1 + math.exp(-6.4 / 2 / 4)))
    assert pooled.decision == "blast"
    assert pooled.blast_share == 0.75
    assert pooled.blast_share_low < 0.75 < pooled.blast_share_high
    assert pool_subject(scored(6.0), make_parameters(), "strict").decision == "blast"
    # The mean is below the threshold, but no cell is called normal.
    assert pool_subject(scored(6.0, 2.1), make_parameters(), "strict").decision == "uncertain"


def test_pooling_without_classified_cells_has_a_reason() -> None:
    nothing = pool_subject([], make_parameters())
    assert nothing.decision == "rejected" and nothing.probability is None and nothing.blast_share is None
    doubt = pool_subject(scored(0.1, 0.3), make_parameters())
    assert doubt.decision == "uncertain" and doubt.probability is not None


def test_parameters_survive_json_exactly() -> None:
    parameters = make_parameters(quantile=0.1 + 0.2, temperature=1 / 3)
    assert DecisionParameters.from_json(parameters.to_json()) == parameters
    assert (
        DecisionParameters.from_json(make_parameters(None).to_json()).conformal.classes["blast"].quantile
        is None
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema_version": 2', '"schema_version": 3', "schema_version 3"),
        ('"temperature": 2.0', '"temperature": 0.0', "temperature"),
        ('"temperature": 2.0', '"temperature": NaN', "temperature"),
        ('"bias": {', '"bais": {', "bais"),
        ('"default_operating_point": "youden"', '"default_operating_point": "none"', "none"),
        ('"min_area_px": 8000', '"min_area_px": 80000', "min_area_px"),
        ("{", "[", "JSON"),
    ],
)
def test_altered_parameters_are_refused(old: str, new: str, message: str) -> None:
    text = make_parameters().to_json()
    assert old in text
    with pytest.raises(BundleError, match=message):
        DecisionParameters.from_json(text.replace(old, new, 1))


def test_descriptors_of_the_checks_exist() -> None:
    names = {field.name for field in dataclasses.fields(Descriptors)}
    assert {"area_px", "foreground_share", "focus", "border_contact_px", "components"} <= names


SUBJECT_RULE = SubjectRule(threshold=0.7, cells_needed=3, subjects=20, rule="made for the test")


def pooled(logits: list[float], **changes) -> SubjectVerdict:
    parameters = make_parameters(quantile=0.1).model_copy(update={"subject": SUBJECT_RULE, **changes})
    verdicts = [decide(logit, 1.0, CELL, parameters) for logit in logits]
    return pool_subject(verdicts, parameters)


def test_a_subject_with_too_few_cells_is_not_decided() -> None:
    assert pooled([2.0, 2.0]).decision == "uncertain"
    enough = pooled([2.0, 2.0, 2.0])
    assert (enough.decision, enough.cells_needed) == ("blast", 3)


def test_a_subjects_threshold_is_its_own() -> None:
    between = pooled([0.5, 0.5, 0.5])  # a probability of 0.56
    assert between.probability > 0.5
    assert between.label != "blast"
    assert pooled([0.5, 0.5, 0.5], subject=None).decision == "blast"


def test_a_subject_is_not_called_without_one_called_cell_on_that_side() -> None:
    parameters = make_parameters(quantile=0.1).model_copy(update={"subject": SUBJECT_RULE})
    blast, normal = (decide(logit, 1.0, CELL, parameters) for logit in (9.0, -2.0))
    unsure = dataclasses.replace(blast, status=Status.UNCERTAIN, label=None)
    assert pool_subject([unsure, unsure, unsure, normal], parameters).decision == "uncertain"
    assert pool_subject([unsure, unsure, blast, normal], parameters).decision == "blast"
