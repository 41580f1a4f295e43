"""The OpenAPI 3.1 document, generated from the routes and from the pydantic models they use.

pydantic writes JSON Schema 2020-12, which is the schema dialect of OpenAPI 3.1. ``operation`` names the models
of each route.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import leukoscope
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.web import metrics, problems
from leukoscope.web.problems import ProblemDetails
from leukoscope.web.storage.history import PICTURE_KINDS

ViewT = TypeVar("ViewT", bound=Callable[..., Any])
_TEMPLATE = "#/components/schemas/{model}"
_PATH_TEXTS = {
    "case": "Id of a stored case, such as `LK-7F3K9-2QD4M`.",
    "job": "Id of a job, from the answer that opened it.",
    "kind": "`cell`, or `heat`: the heat map at full opacity.",
    "subject": "Code of a subject, as given with its images.",
}
_TAGS = ("predict", "jobs", "history", "model", "operation")
_ALWAYS = (400, 401, 403, 421, 429, 500, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """Description of one route in the document."""

    summary: str
    tag: str
    answer: type[BaseModel] | str
    """A model, or a media type."""
    status: int = 200
    query: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    files: bool = False
    body: type[BaseModel] | None = None
    problems: tuple[int, ...] = ()
    also: tuple[tuple[int, type[BaseModel]], ...] = ()
    """Further answers that are not problems."""


def operation(description: Operation) -> Callable[[ViewT], ViewT]:
    """Attach the description to a view."""

    def attach(view: ViewT) -> ViewT:
        view.operation = description  # type: ignore[attr-defined]
        return view

    return attach


def build_document(app: Flask, with_token: bool) -> dict[str, Any]:
    """Return the document of all described routes of ``app``."""
    operations = sorted(_described(app), key=lambda item: (_TAGS.index(item[3].tag), item[0], item[1]))
    schemas = _schemas(described for _, _, _, described in operations)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, view, described in operations:
        paths.setdefault(path, {})[method] = _operation(path, view, described, schemas, with_token)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "leukoscope",
            "version": "1",
            "summary": RESEARCH_USE,
            "description": "Classifies single-cell blood-smear images. " + (leukoscope.__doc__ or "").strip(),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if with_token:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document


def _described(app: Flask) -> Iterable[tuple[str, str, str, Operation]]:
    for rule in app.url_map.iter_rules():
        described = getattr(app.view_functions[rule.endpoint], "operation", None)
        if isinstance(described, Operation):
            path = rule.rule.replace("<", "{").replace(">", "}")
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield path, method.lower(), rule.endpoint, described


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    answers: set[type[BaseModel]] = {ProblemDetails}
    questions: set[type[BaseModel]] = set()
    for described in operations:
        answers |= {described.answer} if isinstance(described.answer, type) else set()
        answers |= {model for _, model in described.also}
        questions |= {model for model in (described.query, described.form, described.body) if model}
    modes: list[tuple[type[BaseModel], Any]] = [(model, "serialization") for model in answers]
    modes += [(model, "validation") for model in questions]
    _, definitions = models_json_schema(
        sorted(modes, key=lambda item: item[0].__name__), ref_template=_TEMPLATE
    )
    found: dict[str, Any] = definitions["$defs"]
    return dict(sorted(found.items()))


def _operation(
    path: str, endpoint: str, described: Operation, schemas: dict[str, Any], with_token: bool
) -> dict[str, Any]:
    parameters = [_path_parameter(part[1:-1]) for part in path.split("/") if part.startswith("{")]
    if described.query is not None:
        parameters += _query_parameters(schemas[described.query.__name__])
    entry: dict[str, Any] = {
        "operationId": endpoint.replace(".", "_"),
        "summary": described.summary,
        "tags": [described.tag],
        "responses": _responses(described),
    }
    if parameters:
        entry["parameters"] = parameters
    if described.files and described.form is not None:
        entry["requestBody"] = _multipart(schemas[described.form.__name__])
    elif described.body is not None:
        entry["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref(described.body)}},
        }
    if with_token and endpoint in ("api.health", "api.ready"):
        entry["security"] = []
    return entry


def _path_parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    if name == "kind":
        schema["enum"] = list(PICTURE_KINDS)
    return {"name": name, "in": "path", "required": True, "description": _PATH_TEXTS[name], "schema": schema}


def _query_parameters(schema: dict[str, Any]) -> list[dict[str, Any]]:
    parameters = []
    for name, field in schema["properties"].items():
        described = {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _no_null(field),
        }
        if "description" in field:
            described["description"] = field["description"]
        parameters.append(described)
    return parameters


def _no_null(field: dict[str, Any]) -> dict[str, Any]:
    """A query or form field is absent or a value; it cannot be null."""
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    kept = {key: value for key, value in field.items() if key not in ("anyOf", "title")}
    if kept.get("default", 0) is None:
        del kept["default"]
    return {**(options[0] if len(options) == 1 else {"anyOf": options} if options else {}), **kept}


def _multipart(schema: dict[str, Any]) -> dict[str, Any]:
    files = {
        "type": "array",
        "items": {"type": "string", "contentMediaType": "application/octet-stream"},
        "minItems": 1,
        "description": "Images (BMP, PNG, JPEG, TIFF, WebP), or ZIP archives of them.",
    }
    fields = {name: _no_null(field) for name, field in schema["properties"].items()}
    form = {
        "type": "object",
        "properties": {"files": files, **fields},
        "required": ["files"],
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def _responses(described: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in ((described.status, described.answer), *described.also):
        content = (
            {answer: {"schema": {"type": "string"} if answer == metrics.MEDIA_TYPE else {}}}
            if isinstance(answer, str)
            else {"application/json": {"schema": _ref(answer)}}
        )
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    for status in sorted({*_ALWAYS, *described.problems}):
        if str(status) in responses:
            continue
        entry: dict[str, Any] = {
            "description": HTTPStatus(status).phrase,
            "content": {problems.MEDIA_TYPE: {"schema": _ref(ProblemDetails)}},
        }
        if status in (429, 503):
            entry["headers"] = {
                "Retry-After": {
                    "description": "Seconds to wait.",
                    "schema": {"type": "string", "pattern": "^[0-9]+$"},
                }
            }
        responses[str(status)] = entry
    return responses


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}
