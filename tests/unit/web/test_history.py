"""Recording, searching, reviewing and deleting cases in a real SQLite file."""

import hashlib
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from leukoscope.core.classes import BINARY
from leukoscope.core.terms import Reason
from leukoscope.inference.results import CellResult, ModelReference, ReasonDetail
from leukoscope.web.storage.audit import verify
from leukoscope.web.storage.database import Database, StorageBusyError
from leukoscope.web.storage.history import History, NewCase, Search, UnknownCaseError, Verdict, new_case_id
from leukoscope.web.storage.tables import AuditEntry, Case

MODEL = ModelReference(name="small", version="1.0.0", sha256="a" * 64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "records.sqlite3"


@pytest.fixture
def history(file: Path):
    database = Database(f"sqlite:///{file}")
    database.migrate()
    yield History(database)
    database.close()


def result(decision: str = "blast", probability: float | None = 0.9, subject: str | None = None):
    reasons = ()
    if decision == "rejected":
        probability, reasons = None, (ReasonDetail(code=Reason.BLANK, message="Blank."),)
    return CellResult(
        source="Jane Doe 1970.bmp",
        decision=decision,
        probability=probability,
        reasons=reasons,
        subject=subject,
        model=MODEL,
    )


def record(history: History, *results: CellResult, **changes):
    sha256 = hashlib.sha256(b"content").hexdigest()
    return history.record([NewCase(item, sha256, "api", **changes) for item in results], "api")


def test_case_ids_are_random_and_readable():
    drawn = {new_case_id() for _ in range(2000)}
    assert len(drawn) == 2000
    assert all(re.fullmatch(r"LK-[0-9A-HJKMNP-TV-Z]{5}-[0-9A-HJKMNP-TV-Z]{5}", case) for case in drawn)


def test_the_file_name_is_not_stored_unless_asked_for(history, file):
    stored = record(history, result())[0]
    assert stored.result.source == stored.case == stored.result.case
    history.database.close()
    everything = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert b"Jane Doe" not in everything
    kept = record(history, result(), name="Jane Doe 1970.bmp")[0]
    assert history.get(kept.case).name == kept.result.source == "Jane Doe 1970.bmp"


def test_records_are_readable_by_the_owner_only(history, file):
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0


def test_a_stored_result_comes_back_as_it_was(history):
    given = result("uncertain", 0.123456789012345, "S-1")
    before = datetime.now(UTC)
    stored = history.get(record(history, given)[0].case)
    assert stored.result == given.model_copy(update={"source": stored.case, "case": stored.case})
    assert before <= stored.created_at <= datetime.now(UTC)


def test_the_last_review_counts_and_all_are_kept(history):
    case = record(history, result())[0].case
    history.review(case, Verdict.AGREE, "", "AB", "page")
    stored = history.review(case, Verdict.DISAGREE, "looks normal", "CD", "page")
    assert [item.verdict for item in stored.reviews] == [Verdict.AGREE, Verdict.DISAGREE]
    assert stored.review is not None
    assert (stored.review.note, stored.review.reviewer) == ("looks normal", "CD")
    assert [item.case for item in history.find(Search(review="disagree"))] == [case]
    assert history.find(Search(review="agree")) == []


def test_unknown_cases_are_reported(history):
    for call in (history.get, lambda case: history.review(case, Verdict.AGREE, "", "", "api")):
        with pytest.raises(UnknownCaseError):
            call("LK-00000-00000")


@pytest.fixture
def mixed(history):
    # No case id holds a "u", so a subject is never found by the chance of an id.
    record(history, result("blast", 0.9, "subject-1"), result("normal", 0.1, "subject-2"))
    record(history, result("rejected"), result("uncertain", 0.5, "subject-1"), job="job-1")
    cases = list(reversed(history.find(Search())))
    history.review(cases[0].case, Verdict.UNSURE, "100% sure_not", "Zoë", "page")
    return cases


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (Search(), [0, 1, 2, 3]),
        (Search(decision="normal"), [1]),
        (Search(subject="subject-1"), [0, 3]),
        (Search(job="job-1"), [2, 3]),
        (Search(review="none"), [1, 2, 3]),
        (Search(review="unsure"), [0]),
        (Search(text="subject-2"), [1]),
        (Search(text="zoë"), [0]),
        (Search(text="100% sure_not"), [0]),
        (Search(text="%"), [0]),
        (Search(text="_"), [0]),
        (Search(text="nothing like it"), []),
        (Search(text="' OR 1=1 --"), []),
        (Search(since=datetime(2000, 1, 1, tzinfo=UTC)), [0, 1, 2, 3]),
        (Search(until=datetime(2000, 1, 1, tzinfo=UTC)), []),
    ],
)
def test_search(history, mixed, search, found):
    assert sorted(item.case for item in history.find(search)) == sorted(mixed[index].case for index in found)


def test_search_by_case_and_by_the_files_hash(history, mixed):
    assert [item.case for item in history.find(Search(text=mixed[2].case[3:].lower()))] == [mixed[2].case]
    prefix = hashlib.sha256(b"content").hexdigest()[:12]
    assert len(history.find(Search(text=prefix))) == 4
    assert history.find(Search(text="0" * 12)) == []


def test_pages_hold_every_case_once(history):
    record(history, *[result() for _ in range(23)])
    seen, before = [], None
    while page := history.find(Search(before=before), limit=5):
        seen += [item.case for item in page]
        before = page[-1].number
    assert len(seen) == len(set(seen)) == 23


def test_counts_are_by_decision(history, mixed):
    assert history.count(Search()) == dict.fromkeys(BINARY.decisions, 1)
    assert history.count(Search(subject="subject-1", decision="blast")) == {
        "blast": 1,
        "uncertain": 1,
    }


def test_deletion_removes_review_and_picture_from_the_file_itself(history, file):
    secret = "unmistakable-note-4711"
    stored = record(history, result(), pictures=(("cell", b"PNG-unmistakable-4712"),))[0]
    history.review(stored.case, Verdict.AGREE, secret, "AB", "page")
    assert history.picture(stored.case, "cell") == b"PNG-unmistakable-4712"
    assert history.delete([stored.case], "cli") == 1
    history.database.close()
    left = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert secret.encode() not in left
    assert b"PNG-unmistakable-4712" not in left
    with pytest.raises(UnknownCaseError):
        history.get(stored.case)
    with history.database.read() as session:
        events = session.scalars(select(AuditEntry.event).order_by(AuditEntry.sequence)).all()
        assert events == ["classified", "reviewed", "deleted"]
        assert verify(session).intact


def test_deletion_by_subject(history, mixed):
    assert history.delete_subject("subject-1", "cli") == 2
    assert history.total() == 2
    assert history.delete_subject("subject-1", "cli") == 0


def test_retention_removes_only_what_is_old(history, mixed):
    old = datetime.now(UTC) - timedelta(days=31)
    with history.database.write() as session:
        session.execute(update(Case).where(Case.case == mixed[0].case).values(created_at=old))
    assert history.purge(30, "system") == 1
    assert mixed[0].case not in {item.case for item in history.find(Search())}
    assert history.purge(30, "system") == 0


def test_the_audit_log_holds_no_note_name_or_subject(history):
    stored = record(history, result(subject="S-secret"), name="Jane Doe.bmp")[0]
    history.review(stored.case, Verdict.AGREE, "private note", "AB", "page")
    history.delete_subject("S-secret", "cli")
    with history.database.read() as session:
        text = json.dumps([line.detail for line in session.scalars(select(AuditEntry))])
    assert stored.case in text
    for word in ("S-secret", "Jane", "private"):
        assert word not in text


def test_writers_wait_without_blocking_readers(file):
    """More writers wait than there are connections; reading continues, and no writer is refused or lost."""
    database = Database(f"sqlite:///{file}", lock_wait_s=60)
    database.migrate()
    history = History(database)
    writers = 48  # more than the pool lends
    threads = [threading.Thread(target=history.note, args=("waited", "test")) for _ in range(writers)]
    with database.write():
        for thread in threads:
            thread.start()
        assert history.total() == 0  # would wait for a connection in vain
    for thread in threads:
        thread.join()
    with database.read() as session:
        check = verify(session)
    database.close()
    assert (check.intact, check.entries) == (True, writers)


def test_a_writer_that_waits_too_long_gets_an_error(file):
    database = Database(f"sqlite:///{file}", lock_wait_s=0.05)
    database.migrate()
    refused: list[Exception] = []

    def write() -> None:
        try:
            History(database).note("waited", "test")
        except StorageBusyError as error:
            refused.append(error)

    thread = threading.Thread(target=write)
    with database.write():
        thread.start()
        thread.join()
    database.close()
    assert len(refused) == 1
