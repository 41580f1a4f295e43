"""The review mode: one case after the other, by keyboard; and the form for browsers without JavaScript."""

from dataclasses import replace
from typing import Any

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from pydantic import Field
from werkzeug.wrappers import Response as BaseResponse

from leukoscope.web.api import case_id
from leukoscope.web.context import services
from leukoscope.web.pages import panel_context
from leukoscope.web.parsing import own_address, parse_form, parse_query
from leukoscope.web.schemas import Cursor, HistoryQuery, ReviewInput
from leukoscope.web.storage.history import CaseRecord, Search

blueprint = Blueprint("review", __name__)
REVIEWER_COOKIE = "reviewer"
_YEAR_S = 365 * 86400


class ReviewQuery(HistoryQuery):
    """Which cases to review: the history's filters, and where to go on."""

    review: str | None = Field(default="none", pattern="^(agree|disagree|unsure|none|any)$")
    after: Cursor | None = None
    back: Cursor | None = Field(default=None, description="Go to the case before this number.")

    def queue(self) -> Search:
        """Return the search over all cases of this queue."""
        search = self.search()
        return replace(search, review=None if self.review == "any" else self.review, oldest_first=True)


class ReviewForm(ReviewInput):
    """A review with the address to go back to."""

    then: str = Field(default="", max_length=500)


@blueprint.get("/review")
def review_page() -> str:
    """Show the next case of the queue."""
    query = parse_query(ReviewQuery, request, lenient=True)
    record = _next_case(query)
    filters = query.model_dump(exclude_none=True, exclude={"after", "back", "before", "limit"}, mode="json")
    waiting = sum(services().history.count(query.queue()).values())
    panel: dict[str, Any] = panel_context(record) if record else {}
    return render_template(
        "review.html",
        filters=filters,
        query=query,
        waiting=waiting,
        reviewer=request.cookies.get(REVIEWER_COOKIE, "")[:60],
        **panel,
    )


@blueprint.post("/cases/<case>/review")
def review_case(case: str) -> BaseResponse:
    """Store a review and go on; the reviewer's code is remembered in the browser."""
    given = parse_form(ReviewForm, request)
    note = given.note.replace("\r\n", "\n").strip()
    record = services().history.review(case_id(case), given.verdict, note, given.reviewer.strip(), "page")
    services().metrics.reviews.labels(given.verdict.value).inc()
    target = own_address(given.then) or url_for("pages.case_page", case=record.case)
    response = make_response(redirect(target, 303))
    response.set_cookie(
        REVIEWER_COOKIE,
        given.reviewer.strip(),
        max_age=_YEAR_S,
        httponly=True,
        samesite="Strict",
        secure=services().settings.https,
    )
    return response


def _next_case(query: ReviewQuery) -> CaseRecord | None:
    queue = query.queue()
    history = services().history
    if query.back is not None:
        # Reviewed or not: the previous case was usually reviewed a moment ago.
        found = history.find(replace(queue, review=None, before=query.back, oldest_first=False), 1)
    else:
        found = history.find(replace(queue, after=query.after), 1)
    return found[0] if found else None
