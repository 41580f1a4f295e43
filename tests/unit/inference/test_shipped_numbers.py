"""The shipped binary bundle answers through the K-class path what it answered through the binary one."""

import json
import math

import pytest

from leukoscope.assets import default_bundle_path
from leukoscope.core.classes import BINARY
from leukoscope.inference.predictor import Predictor
from leukoscope.inference.sample import predict_sample


@pytest.fixture(scope="module")
def shipped() -> Predictor:
    return Predictor.open(threads=1)


def test_a_manifest_of_version_1_is_read_as_the_binary_schema(shipped: Predictor) -> None:
    assert json.loads((default_bundle_path() / "manifest.json").read_text())["schema_version"] == 1
    manifest = shipped.bundle.manifest
    assert manifest.classes == BINARY and shipped.classes is manifest.classes
    assert (manifest.task, manifest.domain.form, manifest.domain.stain) == ("cell", "cut_out", None)


def test_logits_probabilities_decisions_and_maps_are_those_of_the_bundle(shipped: Predictor) -> None:
    """``expected.json`` was written by the binary code; decisions are at least as old as the bundle."""
    expected = shipped.bundle.expected
    decision = shipped.bundle.decision
    for cell, prediction in zip(expected.cells, predict_sample(shipped), strict=True):
        result = prediction.result
        assert result.decision == cell.decision
        if result.logit is None:
            continue
        assert result.logit == pytest.approx(cell.logit, abs=expected.logit_tolerance)
        assert result.probability == pytest.approx(cell.probability, abs=1e-3)
        # The formula of the binary code, on this machine's own logit.
        old = 1 / (1 + math.exp(-(result.logit / decision.temperature)))
        assert result.probability == pytest.approx(old, abs=1e-15)
        assert result.probabilities == {"normal": pytest.approx(1 - old), "blast": result.probability}
        assert result.explained_class == "blast" and prediction.class_maps.shape[0] == 1
        blast = -result.logit <= decision.conformal.classes["blast"].quantile
        normal = result.logit <= decision.conformal.classes["normal"].quantile
        if blast or normal:  # the called class joins a set that is not empty
            called = result.probability >= result.threshold
            blast, normal = blast or called, normal or not called
        assert (("blast" in result.prediction_set), ("normal" in result.prediction_set)) == (blast, normal)
