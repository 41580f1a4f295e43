"""The connection: SQLite set up for durability, migrations, transactions, and errors with clear messages."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from leukoscope.core.errors import LeukoscopeError, UsageError

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 5.0
"""How long a writer waits for another before the answer is 'busy'."""

_FULL = ("database or disk is full", "no space left", "disk full", "could not extend file")
_BUSY = (
    "database is locked",
    "database table is locked",
    "lock timeout",
    "deadlock detected",
    "queuepool limit",
)


class StorageError(LeukoscopeError):
    """The records cannot be read or written at present; nothing was stored."""


class StorageBusyError(StorageError):
    """Another process holds the records; trying again may help."""


class StorageFullError(StorageError):
    """There is no space left for the records."""


class Database:
    """One engine for the whole process; sessions are opened a transaction at a time.

    Parameters
    ----------
    url
        Any SQLAlchemy URL. For SQLite the folder is created, for readable by the owner only.
    """

    def __init__(self, url: str, lock_wait_s: float = LOCK_WAIT_S) -> None:
        try:
            parsed = sa.make_url(url)
            self.is_sqlite = parsed.get_backend_name() == "sqlite"
            if self.is_sqlite and parsed.database not in (None, "", ":memory:"):
                _private_folder(Path(str(parsed.database)))
                _check_records_file(Path(str(parsed.database)))
            options: dict[str, Any] = (
                {"connect_args": {"timeout": lock_wait_s, "check_same_thread": False}}
                if self.is_sqlite
                else {"pool_pre_ping": True}
            )
            self.engine = sa.create_engine(parsed, pool_size=8, max_overflow=24, pool_timeout=10, **options)
        except (SQLAlchemyError, ImportError, TypeError) as error:
            raise UsageError(
                f"database URL cannot be used ({type(error).__name__}); expected e.g. sqlite:///PATH"
            ) from None
        self._lock_wait_s = lock_wait_s
        self._turn: Lock | None = None
        if self.is_sqlite:
            self._turn = Lock()
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that is durable when the block is left: acknowledged changes survive a kill."""
        with (
            self._turn_to_write(),
            translated_errors(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            session.connection(execution_options={"leukoscope_write": True})
            yield session

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """Let this process's own writers queue before they take a connection.

        SQLite has one writer at a time and lets the others poll with growing pauses: among many of our own threads
        some would wait for seconds while others overtake them.
        """
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=self._lock_wait_s):
            raise StorageBusyError("The records are in use by another process; nothing was stored.")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for reading."""
        with translated_errors(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema up to ``revision``; does nothing if it already is."""
        with translated_errors(), self.engine.execution_options(leukoscope_write=True).begin() as connection:
            command.upgrade(self._alembic(connection), revision)

    def downgrade(self, revision: str) -> None:
        """Take the schema back; used by tests."""
        with translated_errors(), self.engine.execution_options(leukoscope_write=True).begin() as connection:
            command.downgrade(self._alembic(connection), revision)

    def is_current(self) -> bool:
        """True where the database answers and has the newest schema."""
        script = ScriptDirectory.from_config(self._alembic(None))
        with translated_errors(), self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision() == script.get_current_head()

    def wipe_log(self) -> None:
        """After a deletion: empty the write-ahead log, where removed rows stay readable; in the file they are zeroed.

        Best effort: the deletion itself has succeeded, and the next one or the end of the process wipes as well.
        """
        self._tidy("PRAGMA wal_checkpoint(TRUNCATE)")

    def shrink(self) -> None:
        """Give the space of removed rows back to the disk; best effort, and slow in a large file."""
        self._tidy("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")

    def _tidy(self, *statements: str) -> None:
        if not self.is_sqlite:
            return
        try:
            with (
                translated_errors(),
                closing(self.engine.raw_connection()) as connection,
                closing(connection.cursor()) as cursor,
            ):
                for statement in statements:
                    cursor.execute(statement)
        except (sqlite3.Error, StorageError) as error:
            logger.warning("the records could not be tidied after a deletion: %s", error)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _alembic(self, connection: sa.Connection | None) -> Config:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        return config


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn driver failures into ``StorageError`` without table names, paths or SQL in the message."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        text = str(error.orig).lower()
        if any(sign in text for sign in _FULL):
            raise StorageFullError(
                "There is no space left to store the result; nothing was stored."
            ) from error
        if any(sign in text for sign in _BUSY):
            raise StorageBusyError(
                "The records are in use by another process; nothing was stored."
            ) from error
        raise StorageError("The records cannot be read or written at present; nothing was stored.") from error
    except sa.exc.TimeoutError as error:
        raise StorageBusyError("Too many requests use the records at once; nothing was stored.") from error


def _private_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            path.touch(mode=0o600)
    except OSError as error:
        raise UsageError(f"{path.parent}: the folder for records cannot be used: {error.strerror}") from None


def _check_records_file(path: Path) -> None:
    """Refuse an existing file that is no database of records: tables would be written into it."""
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.OperationalError:  # locked by another process, which has checked it
        return
    except sqlite3.DatabaseError:  # no SQLite at all: the driver refuses it and writes nothing
        return
    if tables and not {"alembic_version", "cases"} & tables:
        raise UsageError(f"{path}: a database of another program; name another with --database")


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own implicit BEGIN is switched off: a writer must take its lock before it reads (BEGIN IMMEDIATE),
    # or two writers that have both read deadlock at once instead of waiting.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("leukoscope_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
