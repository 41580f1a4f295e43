"""Schemas of the API in addition to the result schema of the command line; OpenAPI is generated from them."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

from leukoscope.core.classes import ClassSchema
from leukoscope.core.terms import RESEARCH_USE
from leukoscope.inference.results import CellResult, ModelReference
from leukoscope.models.report import Report
from leukoscope.web.jobs import Job, JobState
from leukoscope.web.storage.history import CaseRecord, Search, Verdict

LINE = r"^[^\x00-\x1f\x7f]*$"
"""One line of text: no control characters."""
PARAGRAPH = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
"""Text with line breaks and tabs."""
LARGEST_CURSOR = 2**53 - 1

Cursor = Annotated[int, Field(ge=0, le=LARGEST_CURSOR)]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Question(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CellResults(RootModel[list[CellResult]]):
    """One object per image, in the order of the files; archives are replaced by their members."""


class JobStatus(_Answer):
    """State of a job."""

    job: str
    state: JobState
    total: int = Field(ge=0, description="Images taken so far.")
    done: int = Field(ge=0, description="Images classified and stored.")
    decisions: dict[str, int] = Field(
        description="Predicted images by decision: each class, `uncertain` and `rejected`."
    )
    created_at: datetime
    subject: str | None
    detail: str | None = Field(description="Why a job failed.")
    results: str = Field(description="Address of the results.")
    page: str = Field(description="Address of the HTML page.")


class CaseReview(_Answer):
    """One stored review."""

    verdict: Verdict
    note: str
    reviewer: str
    created_at: datetime


class CaseEntry(_Answer):
    """One stored case."""

    case: str
    number: int = Field(description="Running number; the cursor of lists.")
    created_at: datetime
    origin: str = Field(description="How the image came: api or job.")
    job: str | None
    file_sha256: str = Field(description="SHA-256 of the file's bytes, to find a case again by its image.")
    result: CellResult
    reviews: list[CaseReview] = Field(description="Oldest first; the last one counts.")


class CaseList(_Answer):
    """A page of cases."""

    cases: list[CaseEntry]
    next: int | None = Field(
        description="Give it back as `before` (or `after` for results of a job) for the next page."
    )
    notice: str = RESEARCH_USE


class JobResults(_Answer):
    """Results of a job in the order they were stored."""

    job: str
    state: JobState
    results: list[CellResult]
    next: int = Field(description="Give it back as `after` for what comes later.")
    notice: str = RESEARCH_USE


class ModelInfo(_Answer):
    """Which model answers: its manifest and its measured results."""

    model: ModelReference
    manifest: dict[str, Any] = Field(description="manifest.json of the bundle.")
    report: Report | None = Field(description="report.json of the bundle: every measured number.")
    notice: str = RESEARCH_USE


class Health(_Answer):
    """Whether the process answers, and whether it can work."""

    status: str = Field(description="'ok', or the missing part.")
    checks: dict[str, bool] = Field(default_factory=dict)


class UploadForm(_Question):
    """The fields of an upload other than its files."""

    subject: str | None = Field(
        default=None,
        max_length=120,
        pattern=LINE,
        description="Code of the subject of all images. A pseudonym: never a name.",
    )
    heat_map: bool = Field(default=False, description="Draw the heat maps and offer them for an hour.")


class JobForm(UploadForm):
    """The fields of a job's upload."""

    heat_map: bool = Field(default=True, description="Draw the heat maps and offer them for an hour.")
    more: bool = Field(default=False, description="Keep the job open for further files.")


class HistoryQuery(_Question):
    """What to look for in the history."""

    q: str | None = Field(
        default=None,
        max_length=200,
        pattern=LINE,
        description="Part of a case id, subject, note, reviewer or kept file name; or the start of a file's SHA-256.",
    )
    decision: str | None = Field(
        default=None, pattern="^[a-z][a-z0-9_]{0,39}$", description="A class, `uncertain` or `rejected`."
    )
    review: Annotated[str, Field(pattern="^(agree|disagree|unsure|none)$")] | None = Field(
        default=None, description="The verdict that counts, or `none` for cases without review."
    )
    subject: str | None = Field(default=None, max_length=120, pattern=LINE)
    job: str | None = Field(default=None, max_length=40, pattern="^[A-Za-z0-9_-]*$")
    since: date | None = Field(default=None, description="First day, UTC.")
    until: date | None = Field(default=None, description="Last day, UTC, included.")
    before: Cursor | None = Field(default=None, description="Cursor from `next`.")
    limit: int = Field(default=50, ge=1, le=200)

    def search(self) -> Search:
        """Return the search for this query; empty fields mean any."""
        return Search(
            text=(self.q or "").strip() or None,
            decision=self.decision,
            review=self.review,
            subject=self.subject or None,
            job=self.job or None,
            since=_midnight(self.since),
            until=_midnight(self.until, after=1),
            before=self.before,
        )


class ResultsQuery(_Question):
    """Which results of a job."""

    after: Cursor = Field(default=0, description="Cursor from `next`.")
    limit: int = Field(default=100, ge=1, le=500)


class ReviewInput(_Question):
    """The review of one result."""

    verdict: Verdict
    note: str = Field(
        default="", max_length=2000, pattern=PARAGRAPH, description="Free text; no personal data."
    )
    reviewer: str = Field(default="", max_length=60, pattern=LINE, description="Initials or a code.")


def job_status(job: Job, classes: ClassSchema) -> JobStatus:
    """Describe a job."""
    return JobStatus(
        job=job.job,
        state=job.state,
        total=job.total,
        done=job.done,
        decisions={decision: job.decisions[decision] for decision in classes.decisions},
        created_at=job.created_at,
        subject=job.subject,
        detail=job.failure,
        results=f"/api/v1/jobs/{job.job}/results",
        page=f"/jobs/{job.job}",
    )


def case_entry(record: CaseRecord) -> CaseEntry:
    """Describe a stored case."""
    return CaseEntry(
        case=record.case,
        number=record.number,
        created_at=record.created_at,
        origin=record.origin,
        job=record.job,
        file_sha256=record.file_sha256,
        result=record.result,
        reviews=[
            CaseReview(
                verdict=item.verdict, note=item.note, reviewer=item.reviewer, created_at=item.created_at
            )
            for item in record.reviews
        ],
    )


def _midnight(day: date | None, after: int = 0) -> datetime | None:
    if day is None:
        return None
    try:
        return datetime.combine(day, time(), tzinfo=UTC) + timedelta(days=after)
    except OverflowError:  # the last day of the calendar has no day after
        return None
