"""Errors as RFC 9457 problem details for programs and as a page for browsers, without paths, traces and versions."""

import logging
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, current_app, render_template, request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from leukoscope.core.errors import EngineError
from leukoscope.web.settings import MEBIBYTE
from leukoscope.web.storage.database import StorageBusyError, StorageError, StorageFullError
from leukoscope.web.storage.history import UnknownCaseError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MACHINE_PATHS = ("/api/", "/healthz", "/readyz", "/metrics")


class ProblemDetails(BaseModel):
    """What went wrong, after RFC 9457."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="Stable name of the kind of problem, a URN.")
    title: str = Field(description="Title of the kind of problem.")
    status: int = Field(ge=400, le=599, description="HTTP status code.")
    detail: str = Field(description="This occurrence: the value, the limit and the remedy.")


@dataclass
class Problem(Exception):  # noqa: N818 - the RFC's own word
    """Raised anywhere below a route to end the request with a clear answer."""

    status: int
    code: str
    title: str
    detail: str
    headers: dict[str, str] = field(default_factory=dict)

    def details(self) -> ProblemDetails:
        """Return the problem as data."""
        return ProblemDetails(
            type=f"urn:leukoscope:problem:{self.code}",
            title=self.title,
            status=self.status,
            detail=self.detail,
        )


def busy(detail: str, retry_after_s: int) -> Problem:
    """The polite refusal under load."""
    return Problem(503, "busy", "Busy", detail, {"Retry-After": str(max(1, retry_after_s))})


def invalid(detail: str) -> Problem:
    """The request itself is wrong."""
    return Problem(422, "invalid-request", "Invalid request", detail)


def too_large(detail: str) -> Problem:
    """More than a limit allows."""
    return Problem(413, "too-large", "Too large", detail)


def not_found(detail: str) -> Problem:
    """The resource does not exist or no longer exists."""
    return Problem(404, "not-found", "Not found", detail)


_HTTP_DETAILS = {
    400: ("malformed-request", "Malformed request", "The request cannot be understood."),
    404: ("not-found", "Not found", "There is nothing at this address."),
    405: ("method-not-allowed", "Method not allowed", "This address does not take this kind of request."),
    408: ("timeout", "Timeout", "The request took too long to arrive."),
    415: (
        "unsupported-media-type",
        "Unsupported media type",
        "Send multipart/form-data with the field 'files'.",
    ),
}


def from_exception(error: Exception) -> Problem:
    """Return the problem of an exception; unknown exceptions are logged and reveal no internals."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UnknownCaseError):
        return not_found("There is no case of this id; it may have been deleted.")
    if isinstance(error, StorageFullError):
        return Problem(
            507, "storage-full", "Storage full", f"{error} Free space on the server and try again."
        )
    if isinstance(error, StorageBusyError):
        return busy(f"{error} Try again in a moment.", 2)
    if isinstance(error, StorageError):
        logger.error("the records failed: %s", type(error.__cause__).__name__)
        return Problem(503, "storage-failed", "Records not available", str(error), {"Retry-After": "10"})
    if isinstance(error, EngineError):
        logger.error("the engine failed: %s", error)
        return Problem(503, "engine-failed", "Engine not available", "The engine gave no usable answer.")
    if isinstance(error, RequestEntityTooLarge):
        return too_large(_what_is_too_large())
    if isinstance(error, HTTPException) and error.code is not None:
        code, title, detail = _HTTP_DETAILS.get(
            error.code, ("refused", error.name, "The request was refused.")
        )
        headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
        return Problem(error.code, code, title, detail, headers)
    logger.error("unexpected failure in %s", request.endpoint, exc_info=error)
    return Problem(500, "internal", "Internal error", "Something failed that should not; it has been logged.")


def _what_is_too_large() -> str:
    sent, most = request.content_length or 0, request.max_content_length or 0
    if sent > most:
        return f"The request has {_as_text(sent)}; at most {_as_text(most)} are taken. Send fewer or smaller files."
    parts, field = request.max_form_parts, request.max_form_memory_size or 0
    return f"The form has more than {parts} parts or a field above {_as_text(field)}; send fewer at a time."


def _as_text(size_bytes: int) -> str:
    if size_bytes < MEBIBYTE:
        return f"{size_bytes / 1024:.0f} KB"
    return f"{size_bytes / MEBIBYTE:.1f}".removesuffix(".0") + " MB"


def answer(problem: Problem) -> Response:
    """Render a problem for a browser or a program."""
    if _wants_page():
        response = current_app.make_response(render_template("error.html", problem=problem))
    else:
        response = current_app.response_class(problem.details().model_dump_json(), mimetype=MEDIA_TYPE)
    response.status_code = problem.status
    response.headers.extend(problem.headers)
    return response


def register(app: Flask) -> None:
    """Let every exception end as a problem."""

    def handle(error: Exception) -> Response | HTTPException:
        if isinstance(error, HTTPException) and (error.code is None or error.code < 400):
            return error  # a redirect is no failure
        return answer(from_exception(error))

    handlers: dict[type[Exception], Any] = {Exception: handle, HTTPException: handle}
    for kind, handler in handlers.items():
        app.register_error_handler(kind, handler)


def _wants_page() -> bool:
    if request.path.startswith(_MACHINE_PATHS):
        return False
    best = request.accept_mimetypes.best_match(["text/html", MEDIA_TYPE, "application/json"])
    return best == "text/html"
