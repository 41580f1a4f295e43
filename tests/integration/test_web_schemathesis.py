"""Schemathesis draws requests from the OpenAPI document and holds every answer against it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from leukoscope.inference.predictor import Predictor
from leukoscope.web.application import close_app, open_app
from leukoscope.web.settings import WebSettings
from web_fixtures import TOKEN, cells, form

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
)


@pytest.fixture(scope="module")
def drawn_app(tmp_path_factory: pytest.TempPathFactory, web_predictor: Predictor):
    app = open_app(WebSettings(data=tmp_path_factory.mktemp("drawn")), web_predictor)
    app.test_client(use_cookies=False).post("/api/v1/predict", data=form(cells(3), subject="S-1"))
    yield app
    close_app(app)


def checks_for(operation, mode):
    """In a form everything is text: a wrong type drawn for a text field arrives as a right one."""
    is_form = any(body.media_type == "multipart/form-data" for body in operation.body)
    if mode is GenerationMode.NEGATIVE and is_form:
        return tuple(check for check in CHECKS if check is not negative_data_rejection)
    return CHECKS


@pytest.mark.slow
def test_answers_are_as_described(drawn_app):
    """For each operation valid and invalid requests are drawn; a failure names the operation."""
    document = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", drawn_app)
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 15
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _hold(operation.as_strategy(generation_mode=mode), checks_for(operation, mode))
            except Unsatisfiable:  # an operation without parameters has no wrong ones
                assert mode is GenerationMode.NEGATIVE


def _hold(strategy, checks) -> None:
    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=strategy)
    def check(case) -> None:
        case.call_and_validate(checks=checks)

    check()


def test_the_document_names_the_token_where_one_is_needed(make_app):
    client = make_app(token=TOKEN).test_client(use_cookies=False)
    document = client.get("/api/v1/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).get_json()
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
