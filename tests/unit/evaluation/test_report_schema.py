import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from leukoscope.core.errors import BundleError
from leukoscope.models.metric_info import MEASURES
from leukoscope.models.report import Measurement, format_measurement, read_report, write_report


def measurement(**changes) -> Measurement:
    fields = {
        "value": 0.9,
        "low": 0.8,
        "high": 0.95,
        "n_cells": 100,
        "n_subjects": 10,
        "split": "s",
        "unit": "cell",
        "method": "m",
    }
    return Measurement(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"value": math.nan},
        {"high": math.inf},
        {"low": None},
        {"value": None, "not_estimable": "one class"},
        {"value": None, "low": None, "high": None},
        {"low": None, "high": None},
        {"not_estimable": "although everything is there"},
        {"low": 0.96},
        {"n_cells": -1},
        {"unit": "image"},
        {"surplus": 1},
    ],
)
def test_inconsistent_measurements_are_refused(changes: dict) -> None:
    with pytest.raises(ValidationError):
        measurement(**changes)


def test_numbers_are_written_one_way() -> None:
    assert format_measurement(measurement()) == "0.900 (0.800 to 0.950)"
    assert format_measurement(measurement(), percent=True) == "90.0 % (80.0 to 95.0)"
    assert (
        format_measurement(measurement(value=-0.02, low=-0.1, high=0.05), signed=True)
        == "-0.020 (-0.100 to +0.050)"
    )
    nothing = measurement(value=None, low=None, high=None, not_estimable="one class only")
    assert format_measurement(nothing) == "not estimable"
    zero = measurement(value=-0.0001, low=-0.01, high=0.0003)
    assert format_measurement(zero, signed=True) == "0.000 (-0.010 to 0.000)"
    half = measurement(low=None, high=None, not_estimable="one subject")
    assert format_measurement(half) == "0.900 (interval not estimable)"


def test_a_report_survives_the_file(evaluated, tmp_path: Path) -> None:
    write_report(evaluated.report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == evaluated.report
    assert not list(tmp_path.glob("*.part"))


def test_an_unknown_key_is_named(evaluated, tmp_path: Path) -> None:
    content = json.loads(evaluated.report.model_dump_json())
    content["splits"][0]["celll"] = 1
    (tmp_path / "report.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"splits\.0\.celll"):
        read_report(tmp_path / "report.json")


def test_a_missing_report_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"none\.json"):
        read_report(tmp_path / "none.json")


def test_every_metric_of_a_report_has_a_description(evaluated) -> None:
    for split in evaluated.report.columns():
        for level in (split.cell, split.subject_mean, split.subject_majority):
            assert set(level.measures) <= set(MEASURES)
        assert set(split.abstention.measures) <= set(MEASURES)
