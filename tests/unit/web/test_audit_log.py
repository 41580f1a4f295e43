"""The audit log reveals every way of changing it behind its back."""

import re
import sqlite3
from pathlib import Path

import pytest

from leukoscope.web.storage.audit import AuditCheck, append, verify
from leukoscope.web.storage.database import Database, StorageError

LINES = 6


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite3"


@pytest.fixture
def database(file: Path):
    database = Database(f"sqlite:///{file}")
    database.migrate()
    with database.write() as session:
        for number in range(LINES):
            append(session, "classified", "api", {"cases": [f"LK-{number}"]})
    yield database
    database.close()


def check(database: Database, anchor: str | None = None) -> AuditCheck:
    with database.read() as session:
        return verify(session, anchor)


def tamper(file: Path, *statements: str) -> None:
    """Change the file as with the SQLite tool: triggers off first."""
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_an_unchanged_log_is_intact(database):
    found = check(database)
    assert (found.intact, found.entries, found.fault) == (True, LINES, None)


@pytest.mark.parametrize(
    "action", ["UPDATE audit SET actor = 'intruder'", "DELETE FROM audit WHERE sequence = 2"]
)
def test_the_database_itself_refuses_changes(database, file, action):
    with sqlite3.connect(file) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(action)
    connection.close()
    assert check(database).intact


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("UPDATE audit SET detail = '{}' WHERE sequence = 3", 3),
        ("UPDATE audit SET at = '2020-01-01' WHERE sequence = 1", 1),
        ("DELETE FROM audit WHERE sequence = 4", 4),
        ("DELETE FROM audit WHERE sequence = 6", 6),
        ("DELETE FROM audit", None),
        ("DELETE FROM audit_head", None),
        (
            "INSERT INTO audit SELECT 7, at, event, actor, detail, previous, 'x' FROM audit WHERE sequence = 6",
            7,
        ),
    ],
)
def test_tampering_is_found(database, file, statement, line):
    tamper(file, statement)
    found = check(database)
    assert not found.intact
    assert found.fault
    assert line is None or re.search(rf"\b{line}\b", found.fault)


def test_a_log_rewritten_as_a_whole_is_found_by_an_anchor_only(database, file, tmp_path):
    anchor = check(database).anchor
    other = Database(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    other.migrate()
    with other.write() as session:
        for number in range(LINES):
            append(session, "classified", "api", {"cases": [f"LK-forged-{number}"]})
    assert check(other).intact
    assert not check(other, anchor).intact and check(other, anchor).fault
    other.close()
    assert check(database, anchor).intact


def test_an_anchor_beyond_the_end_means_lines_were_lost(database):
    found = check(database, f"9:{'0' * 64}")
    assert not found.intact and re.search(r"\b9\b", found.fault)


@pytest.mark.parametrize("anchor", ["", "12", "x:" + "0" * 64, "3:abc"])
def test_a_wrong_anchor_is_a_usage_error(database, anchor):
    if anchor:
        with pytest.raises(ValueError, match=re.escape(anchor)):
            check(database, anchor)
    else:
        assert check(database, anchor).intact


def test_a_failed_change_leaves_no_line(database):
    def change() -> None:
        with database.write() as session:
            append(session, "classified", "api", {})
            raise StorageError("stop")

    with pytest.raises(StorageError):
        change()
    assert check(database).entries == LINES
