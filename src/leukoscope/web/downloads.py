"""Exports: CSV, JSON, and a report of one page for printing. Each contains the research-use notice."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from typing import Any

from flask import Blueprint, Response, current_app, render_template, request

from leukoscope.core.terms import RESEARCH_USE
from leukoscope.web.context import services
from leukoscope.web.pages import panel_context
from leukoscope.web.parsing import parse_query
from leukoscope.web.problems import not_found
from leukoscope.web.schemas import HistoryQuery, case_entry
from leukoscope.web.storage.history import CaseRecord, Search
from leukoscope.web.subjects import by_subject

blueprint = Blueprint("downloads", __name__)
_PAGE = 500
REPORT_CELLS = 30
"""Cells listed on the printed page; the counts and the summary are over all of them."""
REPORT_SUBJECTS = 3
"""Subjects summed up on it."""

_FORMULA_BEGINS = re.compile(r"^(?=[\t\r])|(?:^|(?<=[;\t\r\n]))(?= *[=+\-@])")

COLUMNS = (
    "case",
    "name",
    "created_at",
    "subject",
    "decision",
    "probability",
    "threshold",
    "prediction_set",
    "reasons",
    "novelty",
    "review",
    "note",
    "reviewer",
    "file_sha256",
    "model",
    "model_version",
    "model_sha256",
    "notice",
    "probabilities",
    "warnings",
)


@blueprint.get("/export.csv")
def export_csv() -> Response:
    """Return matching cases, one per line; the notice is a column, so that it survives sorting and filtering."""
    records = _matching()
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_harmless(value) for value in _row(record)] for record in records)
    _trace("csv", len(records))
    # The mark at the beginning tells spreadsheets that this is UTF-8.
    return _download("\ufeff" + stream.getvalue(), "text/csv; charset=utf-8", "csv")


@blueprint.get("/export.json")
def export_json() -> Response:
    """Return matching cases as the API describes them."""
    records = _matching()
    content = {
        "notice": RESEARCH_USE,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": services().model.reference.model_dump(mode="json"),
        "cases": [case_entry(record).model_dump(mode="json") for record in records],
    }
    _trace("json", len(records))
    return _download(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "application/json", "json")


@blueprint.get("/report")
def report() -> str:
    """Show matching cases as one printable page."""
    records = list(reversed(_matching()))
    if not records:
        raise not_found("There is no stored case that matches; nothing to report.")
    _trace("report", len(records))
    search = _query().search()
    name_of = services().service.name_of
    sha256 = services().model.reference.sha256
    subjects = by_subject([record.result for record in records], services().model)
    return render_template(
        "report.html",
        cells=[(record, name_of(record)) for record in records[:REPORT_CELLS]],
        left_out=max(0, len(records) - REPORT_CELLS),
        total=len(records),
        counts=services().history.count(replace(search, decision=None)),
        subjects=subjects[:REPORT_SUBJECTS],
        subjects_left_out=max(0, len(subjects) - REPORT_SUBJECTS),
        only=panel_context(records[0]) if len(records) == 1 else None,
        models=Counter(record.result.model for record in records),
        not_pooled=sum(
            record.result.subject is not None and record.result.model.sha256 != sha256 for record in records
        ),
        made_at=datetime.now(UTC),
    )


def _query() -> HistoryQuery:
    return parse_query(HistoryQuery, request, lenient=True)


def _matching() -> list[CaseRecord]:
    return list(_walk(_query().search()))


def _walk(search: Search) -> Iterator[CaseRecord]:
    while True:
        records = services().history.find(search, _PAGE)
        yield from records
        if len(records) < _PAGE:
            return
        search = replace(search, before=records[-1].number)


def _row(record: CaseRecord) -> tuple[Any, ...]:
    result, review = record.result, record.review
    return (
        record.case,
        services().service.name_of(record),
        record.created_at.isoformat(timespec="seconds"),
        result.subject,
        result.decision,
        result.probability,
        result.threshold,
        " ".join(result.prediction_set),
        " ".join(reason.code.value for reason in result.reasons),
        result.novelty,
        review.verdict.value if review else None,
        review.note if review else None,
        review.reviewer if review else None,
        record.file_sha256,
        result.model.name,
        result.model.version,
        result.model.sha256,
        RESEARCH_USE,
        " ".join(f"{name}={share!r}" for name, share in result.probabilities.items()),
        " ".join(warning.code.value for warning in result.warnings),
    )


def _harmless(value: Any) -> Any:
    """Prevent a spreadsheet from evaluating a text, or a part of it that it splits off, as a formula.

    Where a comma is the decimal sign, spreadsheets divide cells at semicolons.
    """
    return _FORMULA_BEGINS.sub("'", value) if isinstance(value, str) else value


def _trace(kind: str, count: int) -> None:
    services().history.note("exported", "page", kind=kind, cases=count)


def _download(text: str, content_type: str, ending: str) -> Response:
    response = current_app.response_class(text, content_type=content_type)
    day = datetime.now(UTC).strftime("%Y%m%d-%H%M")
    response.headers["Content-Disposition"] = f'attachment; filename="leukoscope-{day}.{ending}"'
    return response
