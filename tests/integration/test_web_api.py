"""The API over the real predictor: the same results as the library, stored, found, reviewed and exported."""

import csv
import io
import json
import threading
import zipfile

import pytest

from leukoscope.assets import other_images_directory
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.inference.results import CellResult, SubjectResult
from leukoscope.web.storage.audit import verify
from web_fixtures import cells, form, wait_for_job


def predict(client, files, **fields):
    return client.post("/api/v1/predict", data=form(files, **fields))


def test_predict_returns_the_results_of_the_predictor(client, web_predictor):
    given = cells(6)
    answer = predict(client, given)
    assert answer.status_code == 200
    results = [CellResult.model_validate(item) for item in answer.get_json()]
    assert [item.source for item in results] == [name for name, _ in given]
    for result, (name, content) in zip(results, given, strict=True):
        expected = web_predictor.predict(content, name=name).result
        volatile = {"duration_ms", "case", "logit", "probability", "novelty"}
        assert result.model_dump(exclude=volatile) == expected.model_dump(exclude=volatile)
        assert result.probability == pytest.approx(expected.probability, abs=1e-5)
        assert result.case is not None


def test_an_image_that_is_not_a_cell_is_rejected_with_its_reason(client):
    field = next(other_images_directory().rglob("BloodImage_*"))
    given = [(field.name, field.read_bytes()), ("text.bmp", b"hello"), ("empty.png", b"")]
    answer = predict(client, given).get_json()
    assert [item["decision"] for item in answer] == ["rejected"] * 3
    assert "b'" not in answer[1]["reasons"][0]["message"]  # the content is neither reported nor stored
    assert "hello" not in answer[1]["reasons"][0]["message"]
    codes = [item["reasons"][0]["code"] for item in answer]
    assert codes == ["not_segmented", "unknown_format", "empty_file"]
    assert all(item["probability"] is None and item["reasons"][0]["message"] for item in answer)


def test_a_zip_becomes_its_members(client):
    given = cells(3)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in given:
            archive.writestr(f"slide 1/{name}", content)
        archive.writestr("__MACOSX/._junk", b"junk")
        archive.writestr("slide 1/.DS_Store", b"junk")
    answer = predict(client, [("innocent.bmp", stream.getvalue())]).get_json()
    assert [item["source"] for item in answer] == [name for name, _ in given]


def test_heat_maps_are_offered_when_asked_for(client):
    name_content = cells(1)
    plain = predict(client, name_content).get_json()[0]
    drawn = predict(client, name_content, heat_map="true").get_json()[0]
    assert plain["heat_map"] is None
    heat = client.get(drawn["heat_map"])
    cell = client.get(f"/api/v1/history/{drawn['case']}/pictures/cell")
    assert heat.mimetype == cell.mimetype == "image/png"
    assert heat.data[:8] == cell.data[:8] == b"\x89PNG\r\n\x1a\n"
    assert heat.data != cell.data
    assert client.get(f"/api/v1/history/{plain['case']}/pictures/heat").status_code == 404


def test_the_heat_layer_is_the_drawn_overlay(client, web_predictor):
    """A layer of opacity p over the cell is the overlay of the command line at opacity p."""
    import numpy as np
    from PIL import Image

    from leukoscope.imaging.overlay import heat_map_overlay

    name, content = cells(1)[0]
    drawn = predict(client, [(name, content)], heat_map="true").get_json()[0]
    read = lambda kind: np.asarray(  # noqa: E731
        Image.open(io.BytesIO(client.get(f"/api/v1/history/{drawn['case']}/pictures/{kind}").data)),
        dtype=float,
    )
    faded = 0.4 * read("cell") + 0.6 * read("heat")
    prediction = web_predictor.predict(content)
    expected = heat_map_overlay(prediction.canvas, prediction.activation_map, opacity=0.6)
    assert np.abs(faded - expected).max() <= 2


def test_a_job_returns_all_results_and_its_progress(client):
    given = cells(20)
    answer = client.post("/api/v1/jobs", data=form(given[:12], subject="S-1", more="true"))
    assert answer.status_code == 202
    job = answer.get_json()["job"]
    assert answer.headers["Location"].endswith(job)
    more = client.post(f"/api/v1/jobs/{job}/files", data=form(given[12:]))
    assert more.get_json()["total"] == 20
    state = wait_for_job(client, job)
    assert (state["state"], state["done"], sum(state["decisions"].values())) == ("done", 20, 20)
    results, after = [], 0
    while page := client.get(f"/api/v1/jobs/{job}/results?after={after}&limit=7").get_json():
        results += page["results"]
        if not page["results"]:
            break
        after = page["next"]
    assert [item["source"] for item in results] == [name for name, _ in given]
    assert {item["subject"] for item in results} == {"S-1"}
    closed = client.post(f"/api/v1/jobs/{job}/files", data=form(given[:1]))
    assert (closed.status_code, closed.mimetype) == (409, "application/problem+json")


def test_a_cancelled_job_stops_and_keeps_what_is_stored(client):
    job = client.post("/api/v1/jobs", data=form(cells(4), more="true")).get_json()["job"]
    state = client.delete(f"/api/v1/jobs/{job}").get_json()
    assert state["state"] == "cancelled"
    assert client.get(f"/api/v1/jobs/{job}").get_json()["state"] == "cancelled"
    assert client.post(f"/api/v1/jobs/{job}/files", data=form(cells(1))).status_code == 409


def test_a_subject_is_pooled_by_the_rule_of_the_library(client, web_predictor):
    from leukoscope.decision.policy import pool_subject

    given = cells(9)
    predict(client, given, subject="S-7")
    pooled = SubjectResult.model_validate(client.get("/api/v1/subjects/S-7").get_json())
    verdicts = [web_predictor.predict(content).verdict for _, content in given]
    expected = pool_subject(verdicts, web_predictor.bundle.decision)
    for field in ("decision", "cells", "classified", "rejected", "uncertain", "blasts"):
        assert getattr(pooled, field) == getattr(expected, field)
    assert pooled.probability == pytest.approx(expected.probability, abs=1e-5)
    assert (pooled.blast_share_low, pooled.blast_share_high) == pytest.approx(
        (expected.blast_share_low, expected.blast_share_high)
    )
    assert client.get("/api/v1/subjects/nobody").status_code == 404


def test_review_history_and_deletion(client):
    case = predict(client, cells(1)).get_json()[0]["case"]
    stored = client.post(
        f"/api/v1/history/{case}/reviews",
        json={"verdict": "disagree", "note": " smudge \n", "reviewer": "AB"},
    )
    assert stored.status_code == 201
    assert stored.get_json()["reviews"][0]["note"] == "smudge"
    found = client.get("/api/v1/history?q=smudge&review=disagree").get_json()
    assert [item["case"] for item in found["cases"]] == [case]
    assert found["notice"] == RESEARCH_USE
    assert client.get(f"/api/v1/history/{case.lower()}").status_code == 200
    assert client.delete(f"/api/v1/history/{case}").status_code == 200
    assert client.get(f"/api/v1/history/{case}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"verdict": "maybe"},
        {"verdict": "agree", "note": "x" * 2001},
        {"verdict": "agree", "extra": 1},
        [],
    ],
)
def test_a_wrong_review_is_a_problem(client, body):
    case = predict(client, cells(1)).get_json()[0]["case"]
    answer = client.post(f"/api/v1/history/{case}/reviews", json=body)
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
    assert answer.get_json()["status"] == 422
    assert client.get(f"/api/v1/history/{case}").get_json()["reviews"] == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ({}, 415),
        ({"files": (io.BytesIO(b"x"), "a.png"), "nonsense": "1"}, 422),
        ({"files": (io.BytesIO(b"x"), "a.png"), "heat_map": "perhaps"}, 422),
        ({"files": (io.BytesIO(b"x"), "a.png"), "subject": "x" * 121}, 422),
        ({"other": (io.BytesIO(b"x"), "a.png")}, 422),
        ({"subject": "S", "file": (io.BytesIO(b"x"), "a.png")}, 422),
    ],
)
def test_a_wrong_upload_is_a_problem(client, data, status):
    answer = client.post("/api/v1/predict", data=data)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert set(answer.get_json()) == {"type", "title", "status", "detail"}
    assert client.get("/api/v1/history").get_json()["cases"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "before=-1", "decision=maybe", "since=yesterday", "nope=1"]
)
def test_a_wrong_query_is_a_problem(client, query):
    answer = client.get(f"/api/v1/history?{query}")
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
    assert query.partition("=")[0] in answer.get_json()["detail"]


def test_pages_of_history_follow_the_cursor(client):
    predict(client, cells(7))
    first = client.get("/api/v1/history?limit=4").get_json()
    second = client.get(f"/api/v1/history?limit=4&before={first['next']}").get_json()
    assert len({item["case"] for item in first["cases"] + second["cases"]}) == 7
    assert second["next"] is None


def test_exports_hold_the_notice_and_no_formula(client):
    results = predict(client, cells(3), subject="=S-1").get_json()
    client.post(
        f"/api/v1/history/{results[0]['case']}/reviews", json={"verdict": "agree", "note": "=HYPERLINK(1)"}
    )
    text = client.get("/export.csv?subject=%3DS-1").data.decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["case"] for row in rows} == {item["case"] for item in results}
    assert {row["notice"] for row in rows} == {RESEARCH_USE}
    assert {row["subject"] for row in rows} == {"'=S-1"}
    assert "'=HYPERLINK(1)" in {row["note"] for row in rows}
    answer = client.get("/export.json")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert answer.get_json()["notice"] == RESEARCH_USE
    assert len(answer.get_json()["cases"]) == 3
    assert RESEARCH_USE in client.get("/report").get_data(as_text=True)


def test_the_model_is_described_without_library_versions(client, web_predictor):
    described = client.get("/api/v1/model").get_json()
    assert described["model"]["sha256"] == web_predictor.model.sha256
    assert described["manifest"]["name"] == web_predictor.bundle.manifest.name
    assert "libraries" not in described["manifest"]


def test_health_readiness_and_metrics(client):
    predict(client, [*cells(3), ("bad.png", b"bad")])
    assert client.get("/healthz").get_json()["status"] == "ok"
    assert client.get("/readyz").get_json()["checks"] == {"engine": True, "records": True}
    text = client.get("/metrics").get_data(as_text=True)
    assert 'leukoscope_rejections_total{reason="unknown_format"} 1.0' in text
    assert 'leukoscope_cells_total{decision="rejected",origin="api"} 1.0' in text
    assert 'leukoscope_queue_images{lane="requests"} 0.0' in text
    assert "python_info" not in text


def test_concurrent_requests_get_their_own_answers(app, web_predictor):
    given = cells(8)
    expected = {name: web_predictor.predict(content).result.probability for name, content in given}
    failures: list[object] = []

    def ask(number: int) -> None:
        client = app.test_client(use_cookies=False)
        for step in range(4):
            name, content = given[(number + step) % len(given)]
            answer = predict(client, [(name, content)])
            got = answer.get_json()[0]
            if got["source"] != name or got["probability"] != pytest.approx(expected[name], abs=1e-5):
                failures.append((name, got))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_all_actions_leave_an_intact_audit_log(client, parts):
    case = predict(client, cells(2)).get_json()[0]["case"]
    client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "agree"})
    client.get("/export.csv")
    client.delete(f"/api/v1/history/{case}")
    with parts.database.read() as session:
        check = verify(session)
    assert check.intact
    assert check.entries == 5  # started, classified, reviewed, exported, deleted


def test_the_openapi_document_is_complete(client, app):
    document = client.get("/api/v1/openapi.json").get_json()
    assert document["openapi"].startswith("3.1")
    text = json.dumps(document)
    references = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(document["components"]["schemas"])
    served = {
        rule.rule.replace("<", "{").replace(">", "}")
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("api.")
    }
    assert served - {"/api/v1/openapi.json"} == set(document["paths"])
    assert document["components"]["schemas"]["CellResult"]["properties"].keys() == {
        *CellResult.model_fields,
        *CellResult.model_computed_fields,
    }
