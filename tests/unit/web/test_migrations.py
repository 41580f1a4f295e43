"""The migrations build exactly the tables the code uses, and can be taken back."""

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from leukoscope.core.errors import UsageError
from leukoscope.web.storage.database import Database, StorageError
from leukoscope.web.storage.tables import Base


@pytest.fixture
def database(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'records.sqlite3'}")
    yield database
    database.close()


def test_migrations_and_tables_agree(database):
    database.migrate()
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert database.is_current()


def test_migrating_twice_changes_nothing(database):
    database.migrate()
    database.migrate()
    assert database.is_current()


def test_downgrade_leaves_nothing_behind(database):
    database.migrate()
    database.downgrade("base")
    assert set(sa.inspect(database.engine).get_table_names()) <= {"alembic_version"}
    assert not database.is_current()
    database.migrate()
    assert database.is_current()


def test_a_file_that_is_no_database_is_refused_without_its_path(tmp_path):
    file = tmp_path / "records.sqlite3"
    file.write_bytes(b"certainly not a database" * 100)
    database = Database(f"sqlite:///{file}")
    with pytest.raises(StorageError) as caught:
        database.migrate()
    assert str(tmp_path) not in str(caught.value)
    database.close()


@pytest.mark.parametrize("url", ["nonsense", "mysql+nodriver://x/y", "sqlite:////proc/none/x.sqlite3"])
def test_a_wrong_url_is_a_usage_error(url):
    with pytest.raises(UsageError):
        Database(url)


def test_sqlite_is_set_up_for_durability(database):
    database.migrate()
    with database.engine.connect() as connection:
        read = lambda name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()  # noqa: E731
        assert (read("journal_mode"), read("synchronous"), read("foreign_keys")) == ("wal", 2, 1)
