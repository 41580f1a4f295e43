"""HTML pages: upload, results, one case, a subject, the model, the API. They work without JavaScript."""

from functools import lru_cache
from itertools import pairwise
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    flash,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from markdown_it import MarkdownIt
from werkzeug.wrappers import Response as BaseResponse

from leukoscope.core.terms import GLOSSARY
from leukoscope.web import pictures
from leukoscope.web.api import case_id, uploaded_files
from leukoscope.web.class_style import render_class_style
from leukoscope.web.context import services
from leukoscope.web.memory import reservation
from leukoscope.web.openapi import build_document
from leukoscope.web.parsing import own_address, parse_form, parse_query
from leukoscope.web.problems import Problem, invalid
from leukoscope.web.schemas import HistoryQuery, JobForm, ResultsQuery
from leukoscope.web.storage.history import CaseRecord, Search
from leukoscope.web.subjects import by_subject, subject_result
from leukoscope.web.uploads import clean_subject, receive

blueprint = Blueprint("pages", __name__)
SHOWN_AT_ONCE = 200
ALL_OF_A_JOB = 100_000


@blueprint.get("/classes.css")
def class_style() -> Response:
    """Send the colors of the model's classes."""
    return current_app.response_class(render_class_style(services().model.classes), mimetype="text/css")


@blueprint.get("/")
def index() -> str:
    """Offer the upload."""
    return render_template("index.html", limits=services().settings.limits, settings=services().settings)


@blueprint.post("/jobs")
def create_job() -> BaseResponse:
    """Take the upload form of a browser without JavaScript."""
    queue, limits = services().jobs, services().settings.limits
    files = [file for file in uploaded_files() if file.filename]
    if not files:
        raise invalid("No file was chosen. Go back and choose one or more images, or a ZIP archive.")
    form = parse_form(JobForm, request)
    uploads = receive(files, limits, limits.job_files)
    subject = clean_subject(form.subject)
    job = queue.create(uploads, reservation(), subject=subject, more=False, heat_map=True)
    return redirect(url_for("pages.job_page", job=job.job), 303)


@blueprint.get("/jobs/<job>")
def job_page(job: str) -> str:
    """Show the results of a job as far as they are ready; those of an old job come from the history."""
    state = _job_state(job)
    records = services().history.find(Search(job=job, oldest_first=True), SHOWN_AT_ONCE)
    if state is None and not records:
        raise Problem(404, "not-found", "Not found", "There is no such job; it may have been deleted.")
    return render_template(
        "job.html",
        job=job,
        state=state,
        rows=_rows(records),
        following=records[-1].number if records else 0,
        counts=services().history.count(Search(job=job)),
        subjects=_subjects_of(job),
        **(panel_context(records[0]) if records else {}),
    )


@blueprint.get("/jobs/<job>/rows")
def job_rows(job: str) -> Response:
    """Return the rows that came after a cursor, with the job's state in headers, for a page that is open."""
    query = parse_query(ResultsQuery, request)
    state = _job_state(job)
    records = services().history.find(Search(job=job, after=query.after, oldest_first=True), query.limit)
    response = make_response(render_template("rows.html", rows=_rows(records)))
    response.headers["X-Next"] = str(records[-1].number if records else query.after)
    response.headers["X-Rows"] = str(len(records))
    response.headers["X-State"] = state["state"] if state else "done"
    response.headers["X-Done"] = str(state["done"] if state else 0)
    response.headers["X-Total"] = str(state["total"] if state else 0)
    return response


@blueprint.post("/jobs/<job>/cancel")
def cancel_job(job: str) -> BaseResponse:
    """Stop a job; its results so far are kept."""
    services().jobs.cancel(job)
    return redirect(url_for("pages.job_page", job=job), 303)


@blueprint.get("/jobs/<job>/subjects")
def job_subjects(job: str) -> str:
    """Return the subject summaries of a job."""
    return render_template("subjects.html", subjects=_subjects_of(job))


@blueprint.get("/cases/<case>")
def case_page(case: str) -> str:
    """Show one case."""
    return render_template("case.html", **panel_context(services().history.get(case_id(case))))


@blueprint.get("/cases/<case>/panel")
def case_panel(case: str) -> str:
    """Return one case as a part of a page."""
    return render_template("panel.html", **panel_context(services().history.get(case_id(case))))


@blueprint.get("/cases/<case>/<any(cell, heat):kind>.png")
def case_picture(case: str, kind: str) -> Response:
    """Return a picture of a case."""
    png = services().service.picture(case_id(case), kind)
    if png is None:
        raise Problem(404, "not-found", "Not found", "This picture is not kept.")
    return current_app.response_class(png, mimetype="image/png")


@blueprint.post("/cases/<case>/delete")
def delete_case(case: str) -> BaseResponse:
    """Delete a case and go to the history."""
    record = services().history.get(case_id(case))
    services().history.delete([record.case], actor="page")
    flash(f"Case {record.case} was deleted with its reviews and pictures.")
    return redirect(url_for("pages.history_page"), 303)


@blueprint.get("/history")
def history_page() -> str:
    """Search stored cases."""
    query = parse_query(HistoryQuery, request, lenient=True)
    records = services().history.find(query.search(), query.limit + 1)
    shown = records[: query.limit]
    filters = query.model_dump(exclude_none=True, exclude={"before", "limit"}, mode="json")
    return render_template(
        "history.html",
        query=query,
        filters=filters,
        rows=_rows(shown),
        counts=services().history.count(query.search()),
        following=shown[-1].number if len(records) > query.limit else None,
        total=services().history.total(),
    )


@blueprint.get("/subjects/<subject>")
def subject_page(subject: str) -> str:
    """Show the pooled result of one subject with its cells."""
    search = Search(subject=clean_subject(subject) or "")
    records = services().history.find(search, ALL_OF_A_JOB)
    if not records:
        raise Problem(404, "not-found", "Not found", "There is no stored cell of this subject.")
    pooled = subject_result(subject, [record.result for record in records], services().model)
    return render_template(
        "subject.html",
        subject=pooled,
        rows=_rows(records[:SHOWN_AT_ONCE]),
        counts=services().history.count(search),
        stored=len(records),
    )


@blueprint.get("/about")
def about_page() -> str:
    """Show the bundle's card and measured results."""
    model = services().model
    card, headings = _card_html(model.card)
    return render_template("about.html", model=model, card=card, headings=headings, glossary=GLOSSARY)


@blueprint.get("/api")
def api_page() -> str:
    """Show the OpenAPI document as a page."""
    document = build_document(current_app, services().settings.token is not None)
    return render_template("api.html", document=document, base=request.host_url.rstrip("/"))


@blueprint.get("/legend.png")
def legend() -> Response:
    """Return the heat map's color scale."""
    response = current_app.response_class(pictures.legend_bar(), mimetype="image/png")
    response.headers["Cache-Control"] = "public, max-age=3600"
    return response


@blueprint.get("/sign-in")
def sign_in() -> str | BaseResponse:
    """Ask for the token."""
    if services().access.digest is None or services().access.is_signed_in():
        return redirect(url_for("pages.index"))
    return render_template("sign_in.html", failure=None, following=own_address(request.args.get("next", "")))


@blueprint.post("/sign-in")
def sign_in_send() -> BaseResponse:
    """Check the token and go to where the visitor was sent away from."""
    following = own_address(request.form.get("next", ""))
    try:
        services().access.verify(request.form.get("token", "").strip())
    except Problem as problem:
        page = render_template("sign_in.html", failure=problem.detail, following=following)
        response = make_response(page, problem.status)
        response.headers.extend({k: v for k, v in problem.headers.items() if k == "Retry-After"})
        return response
    services().access.sign_in()
    services().history.note("signed in", "page")
    return redirect(following or url_for("pages.index"), 303)


@blueprint.post("/sign-out")
def sign_out() -> BaseResponse:
    """End the session."""
    session.clear()
    return redirect(url_for("pages.sign_in"), 303)


def panel_context(record: CaseRecord) -> dict[str, Any]:
    """Return the template context of the panel of one case."""
    service, model = services().service, services().model
    # Measured faithfulness is that of the current model; it does not apply to cases of an earlier model.
    predicted_by_it = record.result.model.sha256 == model.reference.sha256
    return {
        "record": record,
        "result": record.result,
        "name": service.name_of(record),
        "pictures": service.pictures_of(record.case),
        "predicted_by_it": predicted_by_it,
        "method": model.details.attribution if predicted_by_it else "as the earlier model drew it",
        "faithfulness": model.faithfulness if predicted_by_it else None,
        "alpha": model.decision.conformal.alpha if predicted_by_it else None,
        "opacity": pictures.DEFAULT_OPACITY_PERCENT,
    }


def _rows(records: list[CaseRecord]) -> list[dict[str, Any]]:
    service = services().service
    shown = service.cases_with_cell([record.case for record in records])
    return [
        {"record": record, "name": service.name_of(record), "has_picture": record.case in shown}
        for record in records
    ]


def _job_state(name: str) -> dict[str, Any] | None:
    try:
        job = services().jobs.get(name)
    except Problem:
        return None
    return {
        "state": job.state.value,
        "done": job.done,
        "total": job.total,
        "open": job.is_open,
        "failure": job.failure,
    }


def _subjects_of(job: str) -> list[Any]:
    records = services().history.find(Search(job=job, oldest_first=True), ALL_OF_A_JOB)
    return by_subject([record.result for record in records], services().model)


@lru_cache(maxsize=4)
def _card_html(card: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the card as HTML, and its sections as (anchor, heading)."""
    # "js-default" does not allow HTML in the text itself; its output is safe to include in a page.
    # Library versions are of use to developers, who have the bundle; a service does not tell them.
    lines = [line for line in card.splitlines() if not line.startswith("| Libraries |")]
    reader = MarkdownIt("js-default")
    tokens = reader.parse("\n".join(lines))
    headings = []
    for opening, content in pairwise(tokens):
        if opening.type == "heading_open" and opening.tag == "h2":
            anchor = "card-" + "".join(c if c.isalnum() else "-" for c in content.content.lower())
            opening.attrSet("id", anchor)
            headings.append((anchor, content.content))
    return str(reader.renderer.render(tokens, reader.options, {})), tuple(headings)
