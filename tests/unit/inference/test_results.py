"""Schema 2 of results: what it says of three classes, and how it reads records of schema 1."""

import json

import pytest
from pydantic import ValidationError

from leukoscope.core.terms import Status
from leukoscope.inference.results import CellResult, SubjectResult

MODEL = {"name": "leukoscope-cnmc", "version": "0.3.0", "sha256": "0" * 64}
OLD = {
    "source": "cell.bmp", "decision": "blast", "probability": 0.75, "reasons": [], "subject": "11", "model": MODEL,
    "logit": 1.25, "threshold": 0.36, "prediction_set": ["blast"], "novelty": 0.8, "width_px": 450, "height_px": 450,
    "area_px": 30000, "heat_map": None, "duration_ms": 5.0, "case": None, "notice": "n",
}  # fmt: skip
OLD_SUBJECT = {
    "subject": "11", "cells": 3, "classified": 2, "rejected": 1, "uncertain": 0, "blasts": 2, "blast_share": 1.0,
    "blast_share_low": 0.3, "blast_share_high": 1.0, "probability": 0.9, "decision": "blast", "model": MODEL,
    "notice": "n",
}  # fmt: skip


def test_a_record_of_schema_1_is_read_whole() -> None:
    result = CellResult.model_validate_json(json.dumps(OLD))
    assert (result.status, result.label, result.decision) == (Status.CALLED, "blast", "blast")
    assert result.probabilities == {"normal": 0.25, "blast": 0.75}
    assert result.logits == {"normal": 0.0, "blast": 1.25} and result.logit == 1.25
    assert result.explained_class == "blast" and result.prediction_set == ("blast",)
    written = json.loads(result.model_dump_json())
    assert {key: written[key] for key in OLD} == OLD
    assert CellResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("decision", ["uncertain", "rejected"])
def test_undecided_records_of_schema_1_have_no_label(decision: str) -> None:
    gone = {"probability": None, "logit": None} if decision == "rejected" else {}
    result = CellResult.model_validate(OLD | {"decision": decision} | gone)
    assert (result.status.value, result.label, result.decision) == (decision, None, decision)
    assert bool(result.probabilities) == bool(result.logits) == (decision == "uncertain")


def test_a_subject_of_schema_1_is_read() -> None:
    result = SubjectResult.model_validate(OLD_SUBJECT)
    assert (result.status, result.label, result.decision) == (Status.CALLED, "blast", "blast")
    assert SubjectResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(
    "change",
    [
        {"decision": "monocyte"},
        {"status": "called", "decision": "uncertain", "label": None},
        {"status": "uncertain", "label": "blast"},
        {"status": "called", "label": "blast", "decision": "normal"},
        {"color": "red"},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change: dict) -> None:
    with pytest.raises(ValidationError):
        CellResult.model_validate(OLD | change)
