"""The same records in PostgreSQL: migrations, search, concurrent chain, triggers."""

import os
import shutil
import socket
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from leukoscope.web.storage.audit import append, verify
from leukoscope.web.storage.database import Database
from leukoscope.web.storage.tables import Base
from web_fixtures import cells, form, wait_for_job

pytestmark = pytest.mark.postgresql


def find_program(name: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


@pytest.fixture(scope="module")
def server():
    """A server of its own on a free port; PostgreSQL refuses to run as root, so root hands over to its user."""
    initdb, control = find_program("initdb"), find_program("pg_ctl")
    if initdb is None or control is None:
        pytest.skip("no PostgreSQL server: install Debian's package postgresql")
    user: dict[str, object] = {}
    # Not below pytest's own folder: that is closed to the user postgres.
    folder = Path(tempfile.mkdtemp(prefix="leukoscope-postgresql-"))
    if os.geteuid() == 0:
        if subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
            pytest.skip("PostgreSQL does not run as root and there is no user postgres")
        user = {"user": "postgres"}
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "data"

    def call(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)  # type: ignore[call-overload]

    call(initdb, "-D", str(data), "-U", "tester", "-A", "trust", "--encoding=UTF8", "--locale=C.UTF-8", "-N")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    subprocess.run(
        [control, "-D", str(data), "-o", options, "-w", "-l", str(folder / "log"), "start"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        **user,  # type: ignore[call-overload]
    )
    yield f"postgresql+psycopg://tester@127.0.0.1:{port}/postgres"
    call(control, "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.fixture
def url(server: str):
    """An empty schema for each test."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return server


@pytest.fixture
def database(url: str):
    database = Database(url)
    database.migrate()
    yield database
    database.close()


def test_migrations_and_tables_agree(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    assert database.is_current()
    database.downgrade("base")
    database.migrate()
    assert database.is_current()


@pytest.mark.parametrize("action", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"])
def test_the_audit_log_cannot_be_changed(database, action):
    with database.write() as session:
        append(session, "classified", "api", {})
    with database.engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="append-only"):
        connection.execute(sa.text(action))


def test_the_chain_does_not_fork_under_concurrency(database):
    def write(number: int) -> None:
        with database.write() as session:
            append(session, "classified", "api", {"number": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(80)))
    with database.read() as session:
        check = verify(session)
    assert (check.intact, check.entries) == (True, 80)


def test_the_whole_application(make_app, url):
    client = make_app(database=url, keep_images=True).test_client(use_cookies=False)
    results = client.post("/api/v1/predict", data=form(cells(4), subject="S-1")).get_json()
    case = results[0]["case"]
    answer = client.post(f"/api/v1/history/{case}/reviews", json={"verdict": "unsure", "note": "50% Zoë_x"})
    assert answer.status_code == 201
    job = client.post("/api/v1/jobs", data=form(cells(3))).get_json()["job"]
    assert wait_for_job(client, job)["done"] == 3
    for query, count in (
        ("q=50%25+zo%C3%AB_", 1),
        ("review=unsure", 1),
        ("review=none", 6),
        ("subject=S-1", 4),
    ):
        assert len(client.get(f"/api/v1/history?{query}").get_json()["cases"]) == count, query
    assert client.get(f"/cases/{case}/cell.png").status_code == 200
    assert client.get("/api/v1/history?since=2020-01-01&until=9999-12-31").get_json()["cases"]
    assert client.get("/export.csv").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert client.delete(f"/api/v1/history/{case}").status_code == 200
    assert client.get(f"/api/v1/history/{case}").status_code == 404
