"""The API for programs: JSON in and out, errors as problem details, every route described for OpenAPI."""

from flask import Blueprint, Response, current_app, jsonify, request
from pydantic import BaseModel
from werkzeug.datastructures import FileStorage

from leukoscope.core.errors import LeukoscopeError
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.inference.results import SubjectResult
from leukoscope.web import metrics as metrics_module
from leukoscope.web.context import services
from leukoscope.web.memory import reservation
from leukoscope.web.openapi import Operation, build_document, operation
from leukoscope.web.parsing import parse_form, parse_json, parse_query
from leukoscope.web.problems import invalid, not_found
from leukoscope.web.schemas import (
    CaseEntry,
    CaseList,
    CellResults,
    Health,
    HistoryQuery,
    JobForm,
    JobResults,
    JobStatus,
    ModelInfo,
    ResultsQuery,
    ReviewInput,
    UploadForm,
    case_entry,
    job_status,
)
from leukoscope.web.storage.history import PICTURE_KINDS, Search
from leukoscope.web.subjects import subject_result
from leukoscope.web.uploads import check_multipart, clean_subject, receive

blueprint = Blueprint("api", __name__)
_UPLOAD_PROBLEMS = (413, 415, 422, 507)


def uploaded_files() -> list[FileStorage]:
    """Return the files of the request; at least one, all of them in the field ``files``."""
    check_multipart(request)
    unknown = sorted(set(request.files) - {"files"})
    if unknown:
        raise invalid(f"unknown file field {unknown[0][:40]!r}; send images as 'files'.")
    files = request.files.getlist("files")
    if not files:
        raise invalid("files: no file was sent; send one or more fields named 'files'.")
    return files


@blueprint.post("/api/v1/predict")
@operation(
    Operation(
        "Classify images and wait for the results",
        "predict",
        CellResults,
        form=UploadForm,
        files=True,
        problems=_UPLOAD_PROBLEMS,
    )
)
def predict() -> Response:
    """Classify the images of one request."""
    limits = services().settings.limits
    files = uploaded_files()
    form = parse_form(UploadForm, request)
    uploads = receive(files, limits, limits.request_files)
    scored = services().service.predict_request(
        uploads, clean_subject(form.subject), form.heat_map, reservation()
    )
    results = [item.result for item in scored]
    if form.heat_map:
        results = [
            result.model_copy(update={"heat_map": f"/api/v1/history/{item.record.case}/pictures/heat"})
            if "heat" in services().service.pictures_of(item.record.case)
            else result
            for result, item in zip(results, scored, strict=True)
        ]
    return _json(CellResults(results))


@blueprint.post("/api/v1/jobs")
@operation(
    Operation(
        "Open a job for many images",
        "jobs",
        JobStatus,
        202,
        form=JobForm,
        files=True,
        problems=_UPLOAD_PROBLEMS,
    )
)
def create_job() -> Response:
    """Take images and answer at once."""
    queue, limits = services().jobs, services().settings.limits
    files = uploaded_files()
    form = parse_form(JobForm, request)
    uploads = receive(files, limits, limits.job_files)
    job = queue.create(
        uploads,
        reservation(),
        subject=clean_subject(form.subject),
        more=form.more,
        heat_map=form.heat_map,
    )
    response = _json(job_status(job, services().model.classes), 202)
    response.headers["Location"] = f"/api/v1/jobs/{job.job}"
    return response


@blueprint.post("/api/v1/jobs/<job>/files")
@operation(
    Operation(
        "Add images to a job that was opened with `more`",
        "jobs",
        JobStatus,
        202,
        form=JobForm,
        files=True,
        problems=(404, 409, *_UPLOAD_PROBLEMS),
    )
)
def extend_job(job: str) -> Response:
    """Take further images of a job."""
    queue, limits = services().jobs, services().settings.limits
    queue.get(job)
    files = uploaded_files()
    form = parse_form(JobForm, request)
    state = queue.add(job, receive(files, limits, limits.job_files), reservation(), more=form.more)
    return _json(job_status(state, services().model.classes), 202)


@blueprint.get("/api/v1/jobs/<job>")
@operation(Operation("State of a job", "jobs", JobStatus, problems=(404,)))
def show_job(job: str) -> Response:
    """Return the progress."""
    return _json(job_status(services().jobs.get(job), services().model.classes))


@blueprint.delete("/api/v1/jobs/<job>")
@operation(Operation("Cancel a job; stored results stay", "jobs", JobStatus, problems=(404,)))
def cancel_job(job: str) -> Response:
    """Stop a job."""
    return _json(job_status(services().jobs.cancel(job), services().model.classes))


@blueprint.get("/api/v1/jobs/<job>/results")
@operation(
    Operation(
        "Results of a job as far as they are ready",
        "jobs",
        JobResults,
        query=ResultsQuery,
        problems=(404, 422),
    )
)
def job_results(job: str) -> Response:
    """Return results after a cursor."""
    query = parse_query(ResultsQuery, request)
    found = services().jobs.get(job)
    state = found.state  # before reading, so that 'done' is never reported with results missing
    search = Search(job=job, after=query.after, oldest_first=True)
    records = services().history.find(search, query.limit)
    name_of = services().service.name_of
    results = [record.result.model_copy(update={"source": name_of(record)}) for record in records]
    following = records[-1].number if records else query.after
    return _json(JobResults(job=job, state=state, results=results, next=following))


def _check_decision(decision: str | None) -> None:
    """Refuse a decision that neither the model at work nor an earlier one of the stored cases can have made."""
    known = services().model.classes.decisions
    if decision is None or decision in known or services().history.count(Search())[decision]:
        return
    raise invalid(f"decision {decision!r}: expected one of {', '.join(known)}")


@blueprint.get("/api/v1/history")
@operation(
    Operation("Search stored cases, newest first", "history", CaseList, query=HistoryQuery, problems=(422,))
)
def history() -> Response:
    """Return a page of cases."""
    query = parse_query(HistoryQuery, request)
    _check_decision(query.decision)
    records = services().history.find(query.search(), query.limit + 1)
    shown = records[: query.limit]
    following = shown[-1].number if len(records) > query.limit else None
    return _json(CaseList(cases=[case_entry(record) for record in shown], next=following))


@blueprint.get("/api/v1/history/<case>")
@operation(Operation("One stored case with its reviews", "history", CaseEntry, problems=(404,)))
def show_case(case: str) -> Response:
    """Return one case."""
    return _json(case_entry(services().history.get(case_id(case))))


@blueprint.delete("/api/v1/history/<case>")
@operation(
    Operation("Delete a case with its reviews and pictures", "history", CaseEntry, problems=(404, 507))
)
def delete_case(case: str) -> Response:
    """Delete one case and return it."""
    record = services().history.get(case_id(case))
    services().history.delete([record.case], actor="api")
    return _json(case_entry(record))


@blueprint.post("/api/v1/history/<case>/reviews")
@operation(
    Operation(
        "Store a review", "history", CaseEntry, 201, body=ReviewInput, problems=(404, 413, 415, 422, 507)
    )
)
def review_case(case: str) -> Response:
    """Store a review; once answered it is on the disk."""
    given = parse_json(ReviewInput, request)
    record = services().history.review(
        case_id(case), given.verdict, given.note.strip(), given.reviewer.strip(), "api"
    )
    services().metrics.reviews.labels(given.verdict.value).inc()
    return _json(case_entry(record), 201)


@blueprint.get("/api/v1/history/<case>/pictures/<kind>")
@operation(
    Operation(
        "The cell or its heat map, where kept or still in memory", "history", "image/png", problems=(404,)
    )
)
def show_picture(case: str, kind: str) -> Response:
    """Return a PNG: the cell, or its heat map at full opacity."""
    png = services().service.picture(case_id(case), kind) if kind in PICTURE_KINDS else None
    if png is None:
        raise not_found(
            "This picture is not kept; pictures of new results stay in memory for a limited time."
        )
    return current_app.response_class(png, mimetype="image/png")


@blueprint.get("/api/v1/subjects/<subject>")
@operation(
    Operation(
        "The pooled result over a subject's stored cells", "history", SubjectResult, problems=(404, 422)
    )
)
def show_subject(subject: str) -> Response:
    """Pool the cells of one subject."""
    records = services().history.find(Search(subject=clean_subject(subject) or ""), limit=100_000)
    if not records:
        raise not_found("There is no stored cell of this subject.")
    return _json(subject_result(subject, [record.result for record in records], services().model))


@blueprint.get("/api/v1/model")
@operation(Operation("The model that answers: manifest and measured results", "model", ModelInfo))
def model() -> Response:
    """Describe the bundle."""
    known = services().model
    return _json(ModelInfo(model=known.reference, manifest=known.manifest, report=known.published_report))


@blueprint.get("/healthz")
@operation(Operation("Whether the process answers", "operation", Health))
def health() -> Response:
    """Answer."""
    return _json(Health(status="ok"))


@blueprint.get("/readyz")
@operation(
    Operation("Whether images can be classified and stored", "operation", Health, also=((503, Health),))
)
def ready() -> Response:
    """Check engine and records."""
    try:
        records = services().history.database.is_current()
    except LeukoscopeError:
        records = False
    checks = {"engine": services().service.batcher.alive, "records": records}
    missing = ", ".join(name for name, good in checks.items() if not good)
    return _json(
        Health(status=f"not ready: {missing}" if missing else "ok", checks=checks), 503 if missing else 200
    )


@blueprint.get("/metrics")
@operation(Operation("Counters for Prometheus", "operation", metrics_module.MEDIA_TYPE))
def metrics() -> Response:
    """Return all counters."""
    return current_app.response_class(services().metrics.text(), content_type=metrics_module.MEDIA_TYPE)


@blueprint.get("/api/v1/openapi.json")
def openapi_document() -> Response:
    """Return the OpenAPI document."""
    return jsonify(build_document(current_app, services().settings.token is not None))


def case_id(text: str) -> str:
    """Return a case id as stored: ids are read without regard to case."""
    return text.strip().upper()


def _json(model: BaseModel, status: int = 200) -> Response:
    response = current_app.response_class(model.model_dump_json(), status=status, mimetype="application/json")
    response.headers["X-Notice"] = RESEARCH_USE
    return response
