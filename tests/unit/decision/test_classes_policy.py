"""The decision layer for K classes: the same code path as for two, and what is new with three."""

from collections import Counter

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from leukoscope.core.classes import BINARY, ClassSchema
from leukoscope.core.errors import BundleError
from leukoscope.core.terms import Reason, Status
from leukoscope.decision import calibration
from leukoscope.decision.conformal import fit_quantiles, prediction_sets
from leukoscope.decision.fit import fit_decision
from leukoscope.decision.parameters import DecisionParameters
from leukoscope.decision.policy import called_class, decide, pool_logits, pool_subject
from leukoscope.imaging.decode import decode_image
from leukoscope.imaging.descriptors import describe_cell
from small_bundle import make_decision, sample_paths
from unit.decision.test_fit import make_rows

KINDS = ClassSchema.of_names(["lymphoblast", "myeloblast", "neutrophil"], ["lymphoblast", "myeloblast"])
PLAIN = ClassSchema.of_names(["eosinophil", "lymphocyte", "monocyte", "neutrophil"])
CELL = describe_cell(decode_image(sample_paths()[0]))


def parameters(classes: ClassSchema = KINDS) -> DecisionParameters:
    return make_decision(temperature=1.0, classes=classes)


def test_softmax_and_group_odds_of_two_classes_are_the_sigmoid_bit_for_bit() -> None:
    z = np.concatenate([np.random.default_rng(0).normal(size=1000) * 20, [0.0, -745.0, 745.0, 1e-300]])
    two = calibration.as_matrix(z)
    assert np.array_equal(calibration.softmax(two)[:, 1], calibration.sigmoid(z))
    assert np.array_equal(calibration.group_log_odds(two, [1]), z)
    assert np.array_equal(calibration.class_log_odds(two), np.stack([-z, z], axis=1))


def test_class_log_odds_are_those_of_the_probabilities() -> None:
    logits = np.random.default_rng(1).normal(size=(200, 5)) * 3
    shares = softmax(logits, axis=1)
    np.testing.assert_allclose(calibration.softmax(logits), shares, rtol=1e-12)
    np.testing.assert_allclose(expit(calibration.class_log_odds(logits)), shares, rtol=1e-9)
    pair = expit(calibration.group_log_odds(logits, [1, 3]))
    np.testing.assert_allclose(pair, shares[:, 1] + shares[:, 3], rtol=1e-9)


@pytest.mark.parametrize("with_bias", [False, True])
def test_temperature_and_bias_vector_are_scipys_optimum(with_bias: bool) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 1500)
    logits = 2.5 * np.eye(4)[labels] + rng.normal(size=(1500, 4)) * 2 + [0.0, 0.8, -0.5, 0.2]

    def loss(x: np.ndarray) -> float:
        bias = np.concatenate([[0.0], x[1:]]) if with_bias else 0.0
        return -log_softmax(logits * np.exp(-x[0]) + bias, axis=1)[np.arange(1500), labels].mean()

    best = minimize(loss, np.zeros(4 if with_bias else 1), method="BFGS", options={"gtol": 1e-9})
    got = calibration.fit_temperature(logits, labels, with_bias=with_bias)
    assert got.reason is None
    assert got.temperature == pytest.approx(np.exp(best.x[0]), rel=1e-4)
    assert got.bias == pytest.approx((0.0, *best.x[1:]) if with_bias else (), abs=1e-4)


def test_the_threshold_stands_on_the_group_and_the_likeliest_member_is_called() -> None:
    shares = np.array([0.25, 0.3, 0.45])
    assert called_class(shares, KINDS, 0.5) == "myeloblast"
    assert called_class(shares, KINDS, 0.6) == "neutrophil"
    assert called_class(shares, KINDS, None) == "neutrophil"
    verdict = decide([0.0, 6.0, -3.0], 1.0, CELL, parameters(), classes=KINDS)
    assert (verdict.status, verdict.label, verdict.decision) == (Status.CALLED, "myeloblast", "myeloblast")
    assert verdict.prediction_set == ("myeloblast",) and not verdict.reasons
    assert verdict.probability == pytest.approx(sum(verdict.probabilities[:2]))
    assert sum(verdict.probabilities) == pytest.approx(1)


def test_uncertain_cells_name_the_plausible_classes() -> None:
    several = decide([0.1, 0.0, -9.0], 1.0, CELL, parameters(), classes=KINDS)
    assert several.status is Status.UNCERTAIN and several.label is None
    assert several.reasons[0].code is Reason.SEVERAL_PLAUSIBLE
    assert several.prediction_set == ("lymphoblast", "myeloblast")
    none = decide([0.0, 0.0, 0.0], 1.0, CELL, parameters(), classes=KINDS)
    assert none.prediction_set == () and none.reasons[0].code is Reason.NONE_PLAUSIBLE


def test_without_a_positive_group_the_likeliest_class_is_called() -> None:
    verdict = decide([0.0, 0.0, 7.0, 1.0], None, CELL, parameters(PLAIN), classes=PLAIN)
    assert verdict.label == "monocyte" and verdict.probability is None and verdict.threshold is None


def test_a_subject_is_pooled_by_its_mean_logits_and_counts_its_classes() -> None:
    logits = [[0.0, 6.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 9.0], [0.2, 0.1, 0.0]]
    verdicts = [decide(row, 1.0, CELL, parameters(), classes=KINDS) for row in logits]
    pooled = pool_subject(verdicts, parameters(), classes=KINDS)
    assert pooled.probabilities == pytest.approx(softmax(np.mean(logits, axis=0)))
    assert pooled.label == "neutrophil" or pooled.probability >= 0.5
    assert pooled.counts == {"lymphoblast": 1, "myeloblast": 1, "neutrophil": 1}
    assert (pooled.cells, pooled.classified, pooled.uncertain, pooled.blasts) == (4, 4, 1, 3)
    assert pooled == pool_logits(logits, Counter(v.decision for v in verdicts), parameters(), classes=KINDS)


def test_sets_of_k_classes_cover_each_class_of_new_cells() -> None:
    rng = np.random.default_rng(7)
    labels = np.repeat(np.arange(3), 40 * 30)
    subjects = np.repeat(np.arange(120), 30)
    logits = 2 * np.eye(3)[labels] + rng.normal(size=(len(labels), 3))
    quantiles = fit_quantiles(logits, labels, subjects, 0.2, KINDS)
    fresh = rng.integers(0, 3, 6000)
    sets = prediction_sets(2 * np.eye(3)[fresh] + rng.normal(size=(6000, 3)), quantiles, KINDS)
    covered = [sets[fresh == member, member].mean() for member in range(3)]
    assert min(covered) > 0.75 and max(covered) < 0.9


def test_parameters_of_schema_1_are_read_as_those_of_two_classes() -> None:
    old = {
        "schema_version": 1, "temperature": 1.5, "bias": 0.25,
        "operating_points": [{"name": "p", "threshold": 0.4, "rule": "r"}], "default_operating_point": "p",
        "conformal": {
            "alpha": 0.2, "blast": {"quantile": -0.5, "subjects": 19, "cells": 100},
            "normal": {"quantile": None, "subjects": 3, "cells": 50},
        },
        "novelty": {"limit": 1.5, "method": "m", "target_refusal_rate": 0.01},
        "input_limits": parameters().input_limits.model_dump(),
    }  # fmt: skip
    import json

    read = DecisionParameters.from_json(json.dumps(old))
    assert read.bias_of(BINARY) == (0.0, 0.25)
    assert (
        read.conformal.classes["blast"].quantile == -0.5 and read.conformal.classes["normal"].quantile is None
    )
    assert DecisionParameters.from_json(read.to_json()) == read
    read.check_classes(BINARY)
    with pytest.raises(BundleError, match="lymphoblast"):
        read.check_classes(KINDS)
    with pytest.raises(BundleError, match="positive group"):
        make = parameters(KINDS)
        make.check_classes(KINDS.model_copy(update={"positive": ()}))


def test_the_whole_layer_is_fitted_for_three_classes() -> None:
    rows = make_rows(11)
    rng = np.random.default_rng(2)
    third = (rows.label == 1) & (np.char.str_len(rows.group) > 0) & (rng.random(len(rows.label)) < 0.5)
    labels = np.where(third, 2, rows.label)
    logits = 3 * np.eye(3)[labels] + rng.normal(size=(len(labels), 3)) * 2
    import dataclasses

    fit = fit_decision(dataclasses.replace(rows, label=labels, logit=logits), classes=KINDS)
    assert set(fit.parameters.conformal.classes) == set(KINDS.names)
    assert all(point.threshold is not None for point in fit.parameters.operating_points)
    plain = ClassSchema.of_names(KINDS.names)
    fit = fit_decision(dataclasses.replace(rows, label=labels, logit=logits), classes=plain)
    assert [(point.name, point.threshold) for point in fit.parameters.operating_points] == [("argmax", None)]
