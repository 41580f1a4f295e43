"""Cases and reviews: record, find, review, delete. Every change is recorded in the audit log."""

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, delete, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from leukoscope.inference.results import CellResult
from leukoscope.web.storage import audit
from leukoscope.web.storage.database import Database
from leukoscope.web.storage.tables import Case, Picture, Review

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no letter that is read as a digit, so that an id survives a telephone call."""

SelectT = TypeVar("SelectT", bound=Select[*tuple[Any, ...]])

PICTURE_KINDS = ("cell", "heat")


class Verdict(StrEnum):
    """Verdict of a reviewer on a result."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNSURE = "unsure"


class UnknownCaseError(LookupError):
    """There is no case of this id."""


@dataclass(frozen=True, slots=True)
class ReviewRecord:
    """One stored review."""

    verdict: Verdict
    note: str
    reviewer: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CaseRecord:
    """One stored case with its reviews, oldest first."""

    number: int
    case: str
    created_at: datetime
    origin: str
    job: str | None
    name: str | None
    file_sha256: str
    result: CellResult
    reviews: tuple[ReviewRecord, ...] = ()

    @property
    def review(self) -> ReviewRecord | None:
        """The review that counts: the last one."""
        return self.reviews[-1] if self.reviews else None


@dataclass(frozen=True, slots=True)
class NewCase:
    """Record of one classified image. ``pictures`` is empty unless storing images is enabled."""

    result: CellResult
    file_sha256: str
    origin: str
    job: str | None = None
    name: str | None = None
    pictures: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """Search criteria; None means any. ``before`` is the number of the last case already seen."""

    text: str | None = None
    decision: str | None = None
    review: str | None = None
    """A verdict, or ``none`` for cases without a review."""
    subject: str | None = None
    job: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    after: int | None = None
    oldest_first: bool = False


def new_case_id() -> str:
    """Return a random pseudonymous id such as ``LK-7F3K9-2QD4M`` (50 bits); it does not depend on the image."""
    letters = "".join(secrets.choice(_ALPHABET) for _ in range(10))
    return f"LK-{letters[:5]}-{letters[5:]}"


class History:
    """All stored cases and reviews in one ``Database``.

    Parameters
    ----------
    on_delete
        Called with the id of each case that is about to be deleted, so that nothing of it stays elsewhere.
    """

    def __init__(self, database: Database, on_delete: Callable[[str], None] | None = None) -> None:
        self.database = database
        self._on_delete = on_delete

    def record(self, cases: Sequence[NewCase], actor: str) -> list[CaseRecord]:
        """Store classified images in one transaction, with one line in the audit log.

        The stored result names the case instead of the file, unless a name is given to be kept.
        """
        if not cases:
            return []
        for attempt in (1, 2, 3):
            try:
                return self._record(cases, actor)
            except IntegrityError:  # an id of 50 random bits was taken; new ones are drawn
                if attempt == 3:
                    raise
        raise AssertionError("unreachable")

    def _record(self, cases: Sequence[NewCase], actor: str) -> list[CaseRecord]:
        now = datetime.now(UTC)
        with self.database.write() as session:
            rows = [_row(new, now) for new in cases]
            session.add_all(rows)
            session.flush()
            for row, new in zip(rows, cases, strict=True):
                session.add_all(
                    Picture(case_number=row.number, kind=kind, png=png) for kind, png in new.pictures
                )
            counts = Counter(row.decision for row in rows)
            audit.append(
                session,
                "classified",
                actor,
                {
                    "cases": [row.case for row in rows],
                    "decisions": dict(counts),
                    "job": rows[0].job,
                    "model": rows[0].model_sha256[:16],
                    "results": hashlib.sha256("\n".join(row.result for row in rows).encode()).hexdigest(),
                },
            )
            return [_case(row, with_reviews=False) for row in rows]

    def get(self, case: str) -> CaseRecord:
        """Return one case; ``UnknownCaseError`` where there is none."""
        with self.database.read() as session:
            return _case(_find(session, case))

    def find(self, search: Search, limit: int = 50) -> list[CaseRecord]:
        """Return up to ``limit`` matching cases, newest first unless the search sets another order."""
        query = _filtered(select(Case).options(selectinload(Case.reviews)), search)
        order = Case.number.asc() if search.oldest_first else Case.number.desc()
        with self.database.read() as session:
            return [_case(row) for row in session.scalars(query.order_by(order).limit(limit))]

    def count(self, search: Search) -> Counter[str]:
        """Count matching cases by decision; the search's page and decision are left out, missing decisions count 0."""
        wide = replace(search, before=None, after=None, decision=None)
        query = _filtered(select(Case.decision, func.count()), wide).group_by(Case.decision)
        with self.database.read() as session:
            return Counter({row[0]: row[1] for row in session.execute(query)})

    def total(self) -> int:
        """Number of stored cases."""
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(Case)) or 0

    def review(self, case: str, verdict: Verdict, note: str, reviewer: str, actor: str) -> CaseRecord:
        """Store one review; when this returns it is on the disk. The audit log gets the note's hash, not the note."""
        with self.database.write() as session:
            row = _find(session, case)
            row.reviews.append(
                Review(created_at=datetime.now(UTC), verdict=verdict.value, note=note, reviewer=reviewer)
            )
            detail = {"case": row.case, "verdict": verdict.value, "reviewer": reviewer}
            if note:
                detail["note_sha256"] = hashlib.sha256(note.encode()).hexdigest()
            audit.append(session, "reviewed", actor, detail)
            session.flush()
            return _case(row)

    def picture(self, case: str, kind: str) -> bytes | None:
        """Return a kept picture as PNG, or None."""
        query = select(Picture.png).join(Case, Case.number == Picture.case_number)
        with self.database.read() as session:
            return session.scalar(query.where(Case.case == case, Picture.kind == kind))

    def kept_pictures(self, case: str) -> set[str]:
        """Return which kinds of picture are kept of a case."""
        query = select(Picture.kind).join(Case, Case.number == Picture.case_number).where(Case.case == case)
        with self.database.read() as session:
            return set(session.scalars(query))

    def with_picture(self, cases: Sequence[str], kind: str) -> set[str]:
        """Return those of the cases of which a picture of this kind is kept."""
        if not cases:
            return set()
        query = select(Case.case).join(Picture, Case.number == Picture.case_number)
        with self.database.read() as session:
            return set(session.scalars(query.where(Case.case.in_(cases), Picture.kind == kind)))

    def delete(self, cases: Iterable[str], actor: str, reason: str = "request") -> int:
        """Remove cases with reviews and pictures; the audit log keeps that it happened. Returns how many."""
        return self._delete(Case.case.in_(list(cases)), actor, reason)

    def delete_subject(self, subject: str, actor: str) -> int:
        """Remove every case of one subject. The audit log gets a hash of the subject's code."""
        return self._delete(Case.subject == subject, actor, "subject request")

    def purge(self, older_than_days: int, actor: str) -> int:
        """Remove cases older than the given number of days; returns how many."""
        limit = datetime.now(UTC) - timedelta(days=older_than_days)
        removed = self._delete(Case.created_at < limit, actor, f"retention {older_than_days} days")
        if removed:
            self.database.shrink()
        return removed

    def _delete(self, condition: ColumnElement[bool], actor: str, reason: str) -> int:
        with self.database.write() as session:
            found = session.execute(select(Case.number, Case.case).where(condition)).all()
            if self._on_delete is not None:
                for _, case in found:
                    self._on_delete(case)
            for start in range(0, len(found), 500):
                part = found[start : start + 500]
                session.execute(delete(Case).where(Case.number.in_([number for number, _ in part])))
                audit.append(
                    session, "deleted", actor, {"cases": [case for _, case in part], "reason": reason}
                )
        if found:
            self.database.wipe_log()
        return len(found)

    def note(self, event: str, actor: str, **detail: Any) -> None:
        """Add a line to the audit log that belongs to no stored change: a start, an export, a failed sign-in."""
        with self.database.write() as session:
            audit.append(session, event, actor, detail)


def _row(new: NewCase, now: datetime) -> Case:
    case = new_case_id()
    result = new.result.model_copy(update={"source": new.name or case, "case": case, "heat_map": None})
    return Case(
        case=case,
        created_at=now,
        origin=new.origin,
        job=new.job,
        subject=result.subject,
        name=new.name,
        file_sha256=new.file_sha256,
        decision=result.decision,
        probability=result.probability,
        model_sha256=result.model.sha256,
        result=result.model_dump_json(),
        reviews=[],
    )


def _case(row: Case, with_reviews: bool = True) -> CaseRecord:
    reviews = (
        tuple(
            ReviewRecord(Verdict(item.verdict), item.note, item.reviewer, item.created_at)
            for item in row.reviews
        )
        if with_reviews
        else ()
    )
    return CaseRecord(
        number=row.number,
        case=row.case,
        created_at=row.created_at,
        origin=row.origin,
        job=row.job,
        name=row.name,
        file_sha256=row.file_sha256,
        result=CellResult.model_validate_json(row.result),
        reviews=reviews,
    )


def _find(session: Session, case: str) -> Case:
    row = session.scalar(select(Case).options(selectinload(Case.reviews)).where(Case.case == case))
    if row is None:
        raise UnknownCaseError(case)
    return row


def _filtered(query: SelectT, search: Search) -> SelectT:
    latest = (
        select(Review.verdict)
        .where(Review.case_number == Case.number)
        .order_by(Review.number.desc())
        .limit(1)
        .correlate(Case)
        .scalar_subquery()
    )
    conditions: list[ColumnElement[bool]] = []
    if search.text:
        conditions.append(_matches(search.text))
    if search.decision is not None:
        conditions.append(Case.decision == search.decision)
    if search.review == "none":
        conditions.append(~Case.reviews.any())
    elif search.review:
        conditions.append(latest == search.review)
    if search.subject is not None:
        conditions.append(Case.subject == search.subject)
    if search.job is not None:
        conditions.append(Case.job == search.job)
    if search.since is not None:
        conditions.append(Case.created_at >= search.since)
    if search.until is not None:
        conditions.append(Case.created_at < search.until)
    if search.before is not None:
        conditions.append(Case.number < search.before)
    if search.after is not None:
        conditions.append(Case.number > search.after)
    return query.where(*conditions)


def _matches(text: str) -> ColumnElement[bool]:
    """Case id, subject, kept name, note or reviewer holds the text; or it is the start of the file's SHA-256."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    pattern = f"%{escaped}%"
    in_reviews = Case.reviews.any(
        or_(Review.note.ilike(pattern, escape="\\"), Review.reviewer.ilike(pattern, escape="\\"))
    )
    columns = [column.ilike(pattern, escape="\\") for column in (Case.case, Case.subject, Case.name)]
    conditions = [*columns, in_reviews]
    if len(text) >= 8 and all(letter in "0123456789abcdefABCDEF" for letter in text):
        conditions.append(Case.file_sha256.startswith(text.lower()))
    return or_(*conditions)
