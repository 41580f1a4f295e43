"""What the pages say of the model, of people and of cases that an earlier model judged."""

import io
from dataclasses import replace

import pytest

from leukoscope.assets import default_bundle_path
from leukoscope.models.bundle import Bundle
from leukoscope.web.application import close_app, create_app
from leukoscope.web.model import KnownModel
from leukoscope.web.prediction import judge_with
from leukoscope.web.settings import MEBIBYTE, Limits, WebSettings
from web_fixtures import cells, form


@pytest.fixture
def make_client(tmp_path, web_predictor):
    """A client of an application that speaks of another model than the one that judges."""
    opened = []

    def make(**changes):
        model = replace(KnownModel.from_bundle(web_predictor.bundle), **changes)
        settings = WebSettings(data=tmp_path / "data", keep_images=True)
        opened.append(create_app(settings, model, judge_with(web_predictor)))
        return opened[-1].test_client(use_cookies=False)

    yield make
    for app in opened:
        close_app(app)


def read(client, address: str) -> str:
    page = client.get(address, headers={"Accept": "text/html"})
    assert page.status_code == 200
    return " ".join(page.get_data(as_text=True).split())


def test_a_person_is_worded_by_the_threshold_and_its_measured_errors(make_client):
    client = make_client(report=Bundle.open(default_bundle_path()).report)
    results = client.post("/api/v1/predict", data=form(cells(6), subject="S-1", heat_map="true")).get_json()
    for address in ("/subjects/S-1", "/report?subject=S-1"):
        page = read(client, address)
        part = page[page.index('<section class="subject"') : page.index("</section>")]
        assert (
            "Pooled: at or above the blast threshold 0.50" in part
            or "Pooled: below the blast threshold 0.50" in part
        )
        assert "Leukemic blast" not in part
        assert "Measured for such pooled calls: sensitivity 100.0 % (88.6 to 100.0)" in page
        assert "and specificity 58.3 % (32.0 to 80.7) over 42 people" in page
    page = read(client, f"/cases/{results[0]['case']}")
    assert "both removals raise it" in page


def test_a_form_without_a_file_opens_no_job(client):
    answer = client.post("/jobs", data={"files": (io.BytesIO(b""), "")}, headers={"Accept": "text/html"})
    assert answer.status_code == 422
    assert "No file was chosen" in answer.get_data(as_text=True)


def test_what_is_too_large_is_told_with_the_limit(make_app):
    client = make_app(limits=Limits(request_mb=1)).test_client(use_cookies=False)
    answer = client.post("/jobs", data=b"x" * (3 * MEBIBYTE), content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 413
    assert "has 3 MB; at most 1 MB" in answer.get_json()["detail"]


def test_a_report_names_the_models_that_judged(make_client, web_predictor):
    old = web_predictor.model
    client = make_client()
    case = client.post("/api/v1/predict", data=form(cells(2), subject="S-1", heat_map="true")).get_json()[0][
        "case"
    ]
    new = old.model_copy(update={"version": "9.9.9", "sha256": "f" * 64})
    later = make_client(reference=new, report=Bundle.open(default_bundle_path()).report)
    for address in (f"/report?q={case}", f"/cases/{case}"):
        before, after = read(client, address), read(later, address)
        assert "Plausible at 10 % error" in before
        assert "Plausible at" not in after
        assert "both removals raise it" not in after
    page = read(later, "/report?subject=S-1")
    head = page[page.index('<dl class="report__meta">') : page.index("</dl>")]
    assert old.sha256[:16] in head
    assert "9.9.9" not in head
    assert "2 of 2 cells were judged by another model than" in page
    assert "judged by another model" not in read(client, "/report?subject=S-1")
