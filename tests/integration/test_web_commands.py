"""The commands around the stored records, run as a program would run them."""

import json
import re
import sqlite3

import pytest
import typer
from typer.testing import CliRunner

from leukoscope.cli.serve import register
from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.web.application import close_app
from leukoscope.web.context import services
from leukoscope.web.storage.history import Search, UnknownCaseError
from web_fixtures import cells, form


@pytest.fixture
def call(tmp_path):
    """Run a command on the records of the test; errors on purpose come through as they are."""
    program = typer.Typer()
    register(program)

    def run(*arguments: str, code: int = 0) -> str:
        outcome = CliRunner().invoke(program, [*arguments, "--data", str(tmp_path / "data")])
        if isinstance(outcome.exception, LeukoscopeError):
            raise outcome.exception
        assert outcome.exit_code == code, outcome.output
        return outcome.output

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ("127.0.0.2", 9000)),
        (("--host", "127.0.0.1"), ("127.0.0.1", 9000)),
        (("--port", "8000"), ("127.0.0.2", 8000)),
        (("--host", "127.0.0.1", "--port", "8000"), ("127.0.0.1", 8000)),
    ],
)
def test_options_win_over_the_configuration_even_if_they_equal_the_defaults(
    options, expected, call, tmp_path, small_bundle_path, monkeypatch
):
    config = tmp_path / "web.toml"
    config.write_text('host = "127.0.0.2"\nport = 9000\n', encoding="utf-8")
    started = []

    def start(app, _ready):
        with app.app_context():
            started.append((services().settings.host, services().settings.port))
        close_app(app)

    monkeypatch.setattr("leukoscope.web.server.serve", start)
    call("serve", "--config", str(config), "--bundle", str(small_bundle_path), *options)
    assert started == [expected]


@pytest.fixture
def filled(app):
    """Three cases of subject A, one of subject B; returns the application."""
    client = app.test_client(use_cookies=False)
    client.post("/api/v1/predict", data=form(cells(3), subject="A"))
    client.post("/api/v1/predict", data=form(cells(1), subject="B"))
    return app


def test_verify_prints_the_anchor_of_an_intact_log(filled, call):
    found = json.loads(call("audit", "verify", "--json"))
    assert (found["intact"], found["entries"], found["fault"]) == (True, 3, None)
    call("audit", "verify", "--anchor", found["anchor"])
    with pytest.raises(UsageError, match="nonsense"):
        call("audit", "verify", "--anchor", "nonsense")


def test_verify_ends_with_one_where_the_log_was_changed(filled, call, tmp_path):
    with sqlite3.connect(tmp_path / "data" / "records.sqlite3") as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("UPDATE audit SET actor = 'intruder' WHERE sequence = 2")
    connection.close()
    found = json.loads(call("audit", "verify", "--json", code=1))
    assert not found["intact"] and "2" in found["fault"]


def test_show_prints_the_end_of_the_log(filled, call):
    lines = [json.loads(line) for line in call("audit", "show", "--last", "2", "--json").splitlines()]
    assert [line["event"] for line in lines] == ["classified", "classified"]
    assert [line["sequence"] for line in lines] == [2, 3]
    assert "started" in call("audit", "show")


def test_delete_by_case_and_by_subject(filled, call):
    history = services(filled).history
    case = history.find(Search(subject="B"))[0].case
    assert "1" in call("records", "delete", case.lower(), "--yes").split()
    assert history.total() == 3
    with pytest.raises(UnknownCaseError):
        history.get(case)
    call("records", "delete", case, "--yes", code=1)
    assert "3" in call("records", "delete", "--subject", "A", "--yes").split()
    assert history.total() == 0
    assert json.loads(call("audit", "verify", "--json"))["intact"]


def test_purge_asks_first(filled, call):
    call("records", "purge", "--older-than", "1", code=1)  # no answer is no
    assert "0" in call("records", "purge", "--older-than", "1", "--yes").split()
    assert services(filled).history.total() == 4


@pytest.mark.parametrize(
    "arguments", [("records", "delete"), ("records", "delete", "LK-1", "--subject", "A")]
)
def test_delete_needs_exactly_one_kind_of_target(filled, call, arguments):
    with pytest.raises(UsageError, match="--subject"):
        call(*arguments, "--yes")


def test_reading_creates_no_records(call, tmp_path):
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "data"))):
        call("audit", "verify")
    assert not (tmp_path / "data").exists()


def test_serving_a_public_address_without_token_is_refused_before_anything_is_loaded(
    call, tmp_path, monkeypatch
):
    monkeypatch.delenv("LEUKOSCOPE_TOKEN", raising=False)
    with pytest.raises(UsageError, match="LEUKOSCOPE_TOKEN"):
        call("serve", "--host", "0.0.0.0", "--bundle", str(tmp_path / "nowhere"))
    (tmp_path / "token").write_text("\n")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "token"))):
        call("serve", "--token-file", str(tmp_path / "token"))


def test_retention_is_applied_by_the_service(make_app):
    from datetime import UTC, datetime, timedelta

    from sqlalchemy import update

    from leukoscope.web.server import purge
    from leukoscope.web.storage.tables import Case

    app = make_app(retention_days=7)
    client = app.test_client(use_cookies=False)
    client.post("/api/v1/predict", data=form(cells(2), heat_map="true"))
    assert purge(app) == 0
    assert services(app).service.artifacts.size > 0
    with services(app).database.write() as session:
        session.execute(update(Case).values(created_at=datetime.now(UTC) - timedelta(days=8)))
    assert purge(app) == 2
    assert services(app).service.artifacts.size == 0
    assert purge(make_app()) == 0


@pytest.mark.parametrize("command", [("verify",), ("show",)])
@pytest.mark.parametrize(
    "url", ["sqlite:///{}/typo/x.sqlite3", "sqlite:///file:{}/x.sqlite3?uri=true", "sqlite://"]
)
def test_a_database_that_is_not_there_is_refused_and_not_made(call, tmp_path, command, url):
    with pytest.raises(UsageError):
        call("audit", *command, "--database", url.format(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_database_of_something_else_gets_no_tables(call, tmp_path):
    other = tmp_path / "other.sqlite3"
    other.touch()
    with pytest.raises(UsageError, match=r"other\.sqlite3"):
        call("audit", "verify", "--database", f"sqlite:///{other}")
    assert not other.stat().st_size
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(UsageError, match="another program"):
        call("audit", "verify", "--database", f"sqlite:///{other}")
    with sqlite3.connect(other) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    connection.close()
