"""Names, limits, memory of recent pictures, words, and who may listen where."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from leukoscope.assets import default_bundle_path
from leukoscope.core.errors import ConfigError, UsageError
from leukoscope.core.terms import RESEARCH_USE, Reason
from leukoscope.inference.results import CellResult, ModelReference
from leukoscope.models.bundle import Bundle
from leukoscope.models.report import Measurement, Supplement
from leukoscope.web.artifacts import Artifacts
from leukoscope.web.model import Faithfulness, ServedModel
from leukoscope.web.parsing import own_address
from leukoscope.web.problems import Problem
from leukoscope.web.security import FailureLimiter, secret_key
from leukoscope.web.settings import Limits, WebSettings, check_exposure, is_loopback
from leukoscope.web.storage.history import NewCase
from leukoscope.web.texts import (
    SHORT_REASONS,
    digits_apart,
    probability,
    schema_type,
    sentence,
    ticks,
)
from leukoscope.web.uploads import clean_name, clean_subject


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cell.bmp", "cell.bmp"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\jane\\cell.bmp", "cell.bmp"),
        ("a\x00b\nc\u202ed.png", "abcd.png"),
        ("", "unnamed"),
        (None, "unnamed"),
        ("folder/", "unnamed"),
        ("x" * 400, "x" * 255),
        ("e\u0301.png", "\u00e9.png"),
    ],
)
def test_names_are_cleaned_for_display(given, shown):
    assert clean_name(given) == shown


def test_subject_codes_are_trimmed_or_refused():
    assert clean_subject("  S-17 ") == "S-17"
    assert clean_subject(" ") is None
    for wrong in ("x" * 121, "a\nb", "a\x00"):
        with pytest.raises(Problem) as caught:
            clean_subject(wrong)
        assert caught.value.status == 422


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("lab-server", False),
        ("127.0.0.1.evil.example", False),
    ],
)
def test_a_public_address_needs_a_token(host, alone, tmp_path):
    assert is_loopback(host) is alone
    settings = WebSettings(host=host, data=tmp_path)
    if alone:
        check_exposure(settings)
    else:
        with pytest.raises(UsageError, match="LEUKOSCOPE_TOKEN"):
            check_exposure(settings)
    check_exposure(WebSettings(host=host, data=tmp_path, token="t" * 16))


@pytest.mark.parametrize(
    "changes",
    [{"token": "short"}, {"port": 70000}, {"retention_days": 0}, {"batch": 0}, {"lock_wait_s": -1}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match=r"\d"):
        WebSettings(**changes)


def test_limits_come_from_toml_and_unknown_ones_are_errors():
    from leukoscope.core.config import build

    settings = build(WebSettings, {"port": 9000, "limits": {"file_mb": 3}})
    assert (settings.port, settings.limits) == (9000, Limits(file_mb=3))
    with pytest.raises(ConfigError, match="file_mb"):
        build(WebSettings, {"limits": {"file_mbb": 3}})
    with pytest.raises(ConfigError, match=r"file_mb.*\b0\b"):
        build(WebSettings, {"limits": {"file_mb": 0}})


def test_the_session_key_stays_and_is_private(tmp_path):
    key = secret_key(tmp_path / "data")
    assert len(key) == 32
    assert secret_key(tmp_path / "data") == key
    file = tmp_path / "data" / "session.key"
    assert file.stat().st_mode & 0o077 == 0
    file.write_bytes(b"short")
    with pytest.raises(UsageError, match=r"session\.key.*\b5\b"):
        secret_key(tmp_path / "data")


def test_an_unusable_folder_is_a_usage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--data"):
        secret_key(tmp_path / "file" / "data")


def test_guessing_is_slowed_down_by_address(monkeypatch):
    now = 100.0
    monkeypatch.setattr("leukoscope.web.security.time.monotonic", lambda: now)
    limiter = FailureLimiter(limit=3, window_s=60)
    for _ in range(3):
        assert limiter.wait_s("10.0.0.66") == 0
        limiter.failed("10.0.0.66")
    assert 0 < limiter.wait_s("10.0.0.66") <= 61
    assert limiter.wait_s("10.0.0.2") == 0  # who fails does not shut out others
    now = 161.0
    assert limiter.wait_s("10.0.0.66") == 0


def test_pictures_in_memory_are_bounded_in_bytes():
    memory = Artifacts(limit_bytes=10_000, keep_s=60)
    for number in range(50):
        memory.put(f"c{number}", "name", {"cell": bytes(1000)})
        assert memory.size <= 10_000 + 2000
    assert memory.get("c0") is None
    newest = memory.get("c49")
    assert newest is not None
    assert newest.pictures["cell"] == bytes(1000)
    memory.forget("c49")
    assert memory.get("c49") is None


def test_pictures_in_memory_expire(monkeypatch):
    now = 0.0
    monkeypatch.setattr("leukoscope.web.artifacts.time.monotonic", lambda: now)
    memory = Artifacts(limit_bytes=10_000, keep_s=60)
    memory.put("a", "name", {})
    now = 59.0
    assert memory.get("a") is not None
    now = 61.0
    assert memory.get("a") is None
    assert memory.size == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "< 0.01"),
        (0.004, "< 0.01"),
        (0.005, "0.01"),
        (0.5, "0.50"),
        (0.995, "0.99"),
        (1.0, "> 0.99"),
    ],
)
def test_no_probability_is_written_as_certain(value, text):
    assert probability(value) == text


def test_messages_become_sentences():
    assert sentence("the file is empty") == "The file is empty."
    assert sentence("Done!") == "Done!"
    assert sentence("") == ""


def test_code_in_descriptions_is_escaped():
    assert str(ticks("<b>`x<y`</b>")) == "&lt;b&gt;<code>x&lt;y</code>&lt;/b&gt;"


def test_types_are_described():
    assert schema_type({"anyOf": [{"type": "number"}, {"type": "null"}]}) == "number or null"
    assert schema_type({"type": "array", "items": {"$ref": "#/components/schemas/Cell"}}) == "array of Cell"


def export(client, parts, subjects: list[str]) -> list[dict[str, str]]:
    """Record a case of each subject, and return the rows of the exported table."""
    model = ModelReference(name="m", version="1.0.0", sha256="a" * 64)
    for subject in subjects:
        result = CellResult(source="a", decision="blast", probability=0.5, subject=subject, model=model)
        parts.history.record([NewCase(result, "b" * 64, "api")], "api")
    text = client.get("/export.csv").data.decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_no_cell_of_an_export_is_a_formula(client, parts):
    formulas, plain = (
        ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"],
        ["LK-1", "large; round\nsmudged-border = no"],
    )
    rows = export(client, parts, [*formulas, *plain])
    assert {row["subject"] for row in rows} == {*(f"'{text}" for text in formulas), *plain}
    assert {row["probability"] for row in rows} == {"0.5"}


def test_no_part_that_a_spreadsheet_takes_for_a_cell_is_a_formula(client, parts):
    beginnings = ["seen;", "seen; ", "seen\t", "seen\n", "seen\r\n", "\t"]
    rows = export(client, parts, [f"{before}=HYPERLINK(1)" for before in beginnings])
    assert len(rows) == len(beginnings)
    for row in rows:
        assert "=HYPERLINK(1)" in row["subject"]
        assert not any(part.lstrip().startswith("=") for part in re.split("[;\t\r\n]", row["subject"]))


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("/review?after=3&subject=S-1", True),
        ("//evil.example", False),
        ("/\\evil.example", False),
        ("/\t/evil.example", False),
        ("/\n/evil.example", False),
        ("/\x00", False),
        ("https://evil.example/", False),
        ("", False),
    ],
)
def test_redirects_stay_on_this_site(given, ours):
    assert own_address(given) == (given if ours else None)


def test_the_data_folder_can_be_named(monkeypatch, tmp_path):
    from leukoscope.web.settings import default_data_folder

    monkeypatch.setenv("LEUKOSCOPE_DATA", str(tmp_path))
    assert default_data_folder() == tmp_path
    monkeypatch.delenv("LEUKOSCOPE_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_folder() == Path("/somewhere/leukoscope")


@pytest.mark.parametrize(
    ("value", "threshold", "written", "beside"),
    [
        (0.81, 0.4006, "0.81", "0.40"),
        (0.3957, 0.4006, "0.396", "0.401"),
        (0.40051, 0.4006, "0.4005", "0.4006"),
        (0.4006, 0.4006, "0.40", "0.40"),
        (0.42, 0.4006, "0.42", "0.40"),
    ],
)
def test_a_probability_below_its_threshold_is_not_written_like_it(value, threshold, written, beside):
    result = CellResult(
        source="a",
        decision="blast" if value >= threshold else "normal",
        probability=value,
        threshold=threshold,
        model=ModelReference(name="m", version="1.0.0", sha256="a" * 64),
    )
    digits = digits_apart(result)
    assert (probability(value, digits), f"{threshold:.{digits}f}") == (written, beside)


def test_every_reason_has_a_short_form_that_fits_a_table():
    assert set(SHORT_REASONS) == set(Reason)
    assert max(map(len, SHORT_REASONS.values())) <= 28


@pytest.mark.parametrize(
    ("value", "low", "high", "holds", "words"),
    [
        (-0.53, -0.96, -0.001, False, "\N{MINUS SIGN}0.53, \N{MINUS SIGN}0.96 to 0.00"),
        (0.4, 0.0, 0.9, False, "0.40, 0.00 to 0.90"),
        (0.4, 0.1, 0.9, True, "0.40, 0.10 to 0.90"),
        (0.4, None, None, False, "0.40"),
    ],
)
def test_heat_map_faithfulness_is_described(value, low, high, holds, words):
    model = ServedModel.from_bundle(Bundle.open(default_bundle_path()))
    assert model.report is not None
    gap = Measurement(
        value=value,
        low=low,
        high=high,
        n_cells=60,
        n_subjects=42,
        split="given cells",
        unit="cell",
        method="bootstrap",
        not_estimable=None if low is not None else "one subject",
    )
    part = Supplement(name="explanations", title="", text="", measures={"relevance_gap": gap})
    measured = replace(model, report=model.report.model_copy(update={"supplements": (part,)}))
    assert measured.faithfulness is not None
    assert (measured.faithfulness.holds, measured.faithfulness.words) == (holds, words)
    assert replace(model, report=model.report.model_copy(update={"supplements": ()})).faithfulness is None
    assert replace(model, report=None).faithfulness is None


def test_effects_of_removals_are_described_by_their_sign():
    def measured(low: float, high: float) -> Measurement:
        fields = {
            "n_cells": 60,
            "n_subjects": 42,
            "split": "given cells",
            "unit": "cell",
            "method": "bootstrap",
        }
        return Measurement(value=(low + high) / 2, low=low, high=high, **fields)

    def describe(most: tuple[float, float], least: tuple[float, float]) -> str:
        return Faithfulness(measured(0.1, 2), measured(*most), measured(*least)).removals

    signs = [((-1.6, -1.0), (-3.8, -3.3)), ((2.0, 3.0), (0.1, 0.4)), ((0.5, 1.0), (-2.0, -1.0))]
    texts = [describe(*pair) for pair in signs]
    assert all(texts) and len(set(texts)) == 3  # each pair of signs has a text of its own
    assert describe((-1.9, -0.1), (-9.0, -5.0)) == texts[0]
    assert describe((-0.5, 1.0), (-2.0, -1.0)) == "" == Faithfulness(measured(0.1, 2)).removals


def test_the_notice_is_in_the_footer_of_every_printed_page():
    import leukoscope.web

    style = (Path(leukoscope.web.__file__).parent / "static" / "print.css").read_text("utf-8")
    assert f'@bottom-center {{ content: "{RESEARCH_USE}"' in style
