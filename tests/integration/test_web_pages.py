"""What the pages say of the model, of people and of cases that an earlier model classified."""

import io
import re
from dataclasses import replace

import pytest

from leukoscope.assets import default_bundle_path
from leukoscope.core.classes import BINARY
from leukoscope.models.bundle import Bundle
from leukoscope.web.application import close_app, create_app
from leukoscope.web.model import ServedModel
from leukoscope.web.prediction import make_predict_fn
from leukoscope.web.settings import MEBIBYTE, Limits, WebSettings
from web_fixtures import cells, form


@pytest.fixture
def make_client(tmp_path, web_predictor):
    """A client of an application that speaks of another model than the one that classifies."""
    opened = []

    def make(**changes):
        model = replace(ServedModel.from_bundle(web_predictor.bundle), **changes)
        settings = WebSettings(data=tmp_path / "data", keep_images=True)
        opened.append(create_app(settings, model, make_predict_fn(web_predictor)))
        return opened[-1].test_client(use_cookies=False)

    yield make
    for app in opened:
        close_app(app)


def read(client, address: str) -> str:
    page = client.get(address, headers={"Accept": "text/html"})
    assert page.status_code == 200
    return " ".join(page.get_data(as_text=True).split())


def shipped_removals() -> str:
    """What the shipped model's report lets one say of its heat maps; other models have another text or none."""
    model = ServedModel.from_bundle(Bundle.open(default_bundle_path()))
    assert model.faithfulness is not None and model.faithfulness.removals
    return model.faithfulness.removals.strip(" ;")


def test_subject_results_state_threshold_and_measured_errors(make_client):
    client = make_client(report=Bundle.open(default_bundle_path()).report)
    results = client.post("/api/v1/predict", data=form(cells(6), subject="S-1", heat_map="true")).get_json()
    for address in ("/subjects/S-1", "/report?subject=S-1"):
        page = read(client, address)
        part = page[page.index('<section class="subject"') : page.index("</section>")]
        assert re.search(r"\b0\.50\b", part)
        assert BINARY.title("blast") not in part
        assert re.search(r"100\.0 % \(88\.6 to 100\.0\).*58\.3 % \(32\.0 to 80\.7\).*\b42\b", page)
    page = read(client, f"/cases/{results[0]['case']}")
    assert shipped_removals() in page


def test_a_form_without_a_file_opens_no_job(client):
    answer = client.post("/jobs", data={"files": (io.BytesIO(b""), "")}, headers={"Accept": "text/html"})
    assert answer.status_code == 422


def test_too_large_uploads_name_the_limit(make_app):
    client = make_app(limits=Limits(request_mb=1)).test_client(use_cookies=False)
    answer = client.post("/jobs", data=b"x" * (3 * MEBIBYTE), content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 413
    assert re.search(r"\b3 MB\b.*\b1 MB\b", answer.get_json()["detail"])


def test_a_report_names_the_models_that_classified(make_client, web_predictor):
    old = web_predictor.model
    client = make_client()
    case = client.post("/api/v1/predict", data=form(cells(2), subject="S-1", heat_map="true")).get_json()[0][
        "case"
    ]
    new = old.model_copy(update={"version": "9.9.9", "sha256": "f" * 64})
    later = make_client(reference=new, report=Bundle.open(default_bundle_path()).report)
    for address in (f"/report?q={case}", f"/cases/{case}"):
        before, after = read(client, address), read(later, address)
        assert re.search(r"\b10 %", before)
        assert not re.search(r"\b10 %", after)
        assert shipped_removals() not in after
    page = read(later, "/report?subject=S-1")
    head = page[page.index('<dl class="report__meta">') : page.index("</dl>")]
    assert old.sha256[:16] in head
    assert "9.9.9" not in head
    assert re.search(r"\b2 of 2\b", page)
    assert not re.search(r"\b2 of 2\b", read(client, "/report?subject=S-1"))
