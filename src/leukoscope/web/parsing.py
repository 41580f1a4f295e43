"""Parse requests into pydantic models; an invalid request is a 422 that names the field and the reason."""

from collections.abc import Mapping
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ValidationError
from werkzeug.datastructures import MultiDict

from leukoscope.web.problems import Problem, invalid

ModelT = TypeVar("ModelT", bound=BaseModel)


def own_address(text: str) -> str | None:
    """Return an address to go on to if it is one of ours, else None.

    Browsers drop tabs and line breaks from an address and read a backslash as a slash: any of them is refused.
    """
    ours = text.startswith("/") and not text.startswith("//")
    return text if ours and "\\" not in text and text.isprintable() else None


def parse_query(schema: type[ModelT], request: Request, lenient: bool = False) -> ModelT:
    """Read the query string. ``lenient`` drops empty fields, as a page's search form sends them."""
    return _validate(schema, _single(request.args, lenient), "query")


def parse_form(schema: type[ModelT], request: Request) -> ModelT:
    """Read the text fields of a form; the form token is not one of them."""
    fields = _single(request.form, drop_empty=True)
    fields.pop("csrf_token", None)
    return _validate(schema, fields, "form")


def parse_json(schema: type[ModelT], request: Request) -> ModelT:
    """Read a JSON body."""
    if request.mimetype != "application/json":
        raise Problem(415, "unsupported-media-type", "Unsupported media type", "Send application/json.")
    try:
        return schema.model_validate_json(request.get_data())
    except ValidationError as error:
        raise invalid(_explain(error, "body")) from None


def _single(values: "MultiDict[str, str]", drop_empty: bool) -> dict[str, str]:
    fields = {}
    for name, given in values.lists():
        if len(given) > 1:
            raise invalid(f"{name} is given {len(given)} times; give it once.")
        if given[0] or not drop_empty:
            fields[name] = given[0]
    return fields


def _validate(schema: type[ModelT], fields: Mapping[str, Any], where: str) -> ModelT:
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        raise invalid(_explain(error, where)) from None


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for item in error.errors(include_url=False, include_context=False)[:5]:
        place = ".".join(str(part)[:40] for part in item["loc"])
        lines.append(f"{where} {place}: {item['msg']}" if place else f"{where}: {item['msg']}")
    return "; ".join(lines)[:1000]
