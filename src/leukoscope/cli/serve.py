"""``leukoscope serve``, ``audit`` and ``records``: run the web application and maintain its records."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leukoscope.core.errors import UsageError
from leukoscope.core.limits import LARGEST_COUNT, LONGEST_RETENTION_DAYS
from leukoscope.core.text import check_utf8, read_text

if TYPE_CHECKING:
    from leukoscope.web.settings import WebSettings
    from leukoscope.web.storage.database import Database

TOKEN_VARIABLE = "LEUKOSCOPE_TOKEN"  # noqa: S105 - a name, not a secret
DATABASE_VARIABLE = "LEUKOSCOPE_DATABASE"

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder for records and the session key. [default: the user's data folder]"),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database", envvar=DATABASE_VARIABLE, help="SQLAlchemy URL. [default: SQLite in the data folder]"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

audit_app = typer.Typer(no_args_is_help=True, help="Show and verify the audit log.")
records_app = typer.Typer(no_args_is_help=True, help="Delete stored cases.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the program."""
    app.command("serve", epilog="Example: leukoscope serve --port 8000 --keep-images --retention-days 90")(
        serve
    )
    app.add_typer(audit_app, name="audit")
    app.add_typer(records_app, name="records")


def serve(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on; a public one needs a token. [default: 127.0.0.1]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 selects a free one. [default: 8000]")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of the model bundle. [default: the shipped one]")
    ] = None,
    engine: Annotated[str, typer.Option(help="openvino, onnxruntime or onnxruntime-cuda.")] = "openvino",
    data: Data = None,
    database: DatabaseUrl = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the access token; or set {TOKEN_VARIABLE}.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Host name under which the service is addressed; may be repeated."),
    ] = None,
    https: Annotated[
        bool, typer.Option("--https", help="A proxy in front terminates TLS: secure cookies, HSTS.")
    ] = False,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Store cells and heat maps with results.")
    ] = False,
    keep_names: Annotated[bool, typer.Option("--keep-names", help="Store file names with results.")] = False,
    retention_days: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LONGEST_RETENTION_DAYS,
            help="Delete cases after this number of days. [default: keep until deleted]",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings; command-line options override it.")
    ] = None,
) -> None:
    """Start the web interface and the API, offline, on this machine.

    Uploads are classified in memory and not kept unless asked for. Stop with Ctrl-C.
    """
    from rich.console import Console

    from leukoscope.inference.predictor import Predictor
    from leukoscope.web.application import decode_limits, open_app
    from leukoscope.web.server import serve as run_server
    from leukoscope.web.settings import EVERY_ADDRESS, check_exposure

    given = {
        "host": host,
        "port": port,
        "data": data,
        "database": database,
        "token": _read_token(token_file),
        "hosts": tuple(allow_host) if allow_host else None,
        "https": https or None,
        "keep_images": keep_images or None,
        "keep_names": keep_names or None,
        "retention_days": retention_days,
    }
    settings = _settings(config, {name: value for name, value in given.items() if value is not None})
    check_exposure(settings)
    console = Console(stderr=True)
    with console.status("Loading the model"):
        # One form of the model for one image and for many: half the memory, no compiling while requests wait.
        predictor = Predictor.open(bundle, engine=engine, limits=decode_limits(settings), streaming=True)
        app = open_app(settings, predictor)

    def ready(address: str) -> None:
        from leukoscope.core.terms import RESEARCH_USE

        console.print(f"leukoscope is ready at [bold]{address}[/bold]   (Ctrl-C stops it)", highlight=False)
        console.print(
            f"Model {predictor.model.name} {predictor.model.version}. {RESEARCH_USE}", highlight=False
        )
        if settings.host.strip("[]") in EVERY_ADDRESS and not settings.hosts:
            console.print(
                "Other machines are answered only under names given with --allow-host.", highlight=False
            )

    run_server(app, ready)


@audit_app.command("verify", epilog="Example: leukoscope audit verify --anchor 1042:9f86d081...")
def audit_verify(
    data: Data = None,
    database: DatabaseUrl = None,
    anchor: Annotated[
        str | None, typer.Option(help="SEQUENCE:DIGEST printed by an earlier run and stored elsewhere.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that no line of the audit log was changed, removed or inserted; exit code 1 if one was.

    Keep the printed anchor outside this machine: given back later, it also reveals a log rewritten as a whole.
    """
    from leukoscope.web.storage.audit import verify

    records = _open_records(data, database)
    try:
        with records.read() as session:
            check = verify(session, anchor)
    except ValueError as error:
        raise UsageError(str(error)) from None
    finally:
        records.close()
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "intact": check.intact,
                    "entries": check.entries,
                    "anchor": check.anchor,
                    "fault": check.fault,
                }
            )
        )
    elif check.intact:
        typer.echo(f"intact: {check.entries} lines\nanchor: {check.anchor}")
    else:
        typer.echo(f"BROKEN: {check.fault}\n{check.entries} lines before it hold")
    if not check.intact:
        raise typer.Exit(1)


@audit_app.command("show", epilog="Example: leukoscope audit show --last 20")
def audit_show(
    data: Data = None,
    database: DatabaseUrl = None,
    last: Annotated[int, typer.Option(min=1, max=LARGEST_COUNT, help="Number of lines from the end.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Print the end of the audit log, oldest line first; with --json one object per line."""
    from sqlalchemy import select

    from leukoscope.web.storage.tables import AuditEntry

    records = _open_records(data, database)
    try:
        with records.read() as session:
            lines = list(session.scalars(select(AuditEntry).order_by(AuditEntry.sequence.desc()).limit(last)))
    finally:
        records.close()
    for line in reversed(lines):
        if as_json:
            names = ("sequence", "at", "event", "actor", "detail", "previous", "digest")
            typer.echo(json.dumps({name: getattr(line, name) for name in names}))
        else:
            typer.echo(f"{line.sequence:>6}  {line.at[:19]}  {line.event:<14} {line.actor:<7} {line.detail}")


@records_app.command("delete", epilog="Example: leukoscope records delete LK-7F3K9-2QD4M")
def records_delete(
    cases: Annotated[list[str] | None, typer.Argument(help="Case ids.")] = None,
    subject: Annotated[str | None, typer.Option(help="Delete every case of this subject.")] = None,
    data: Data = None,
    database: DatabaseUrl = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete cases permanently, with their reviews and images; the audit log records the deletion."""
    from leukoscope.web.storage.history import History

    if bool(cases) == bool(subject):
        raise UsageError("name cases or --subject, one of the two")
    for text in (*(cases or ()), subject or ""):
        check_utf8(text, "id")
    what = f"every case of subject {subject!r}" if subject else f"{len(cases or ())} cases"
    if not yes:
        typer.confirm(f"Delete {what} for good?", abort=True)
    records = _open_records(data, database)
    try:
        history = History(records)
        wanted = [case.upper() for case in cases or ()]
        removed = history.delete_subject(subject, "cli") if subject else history.delete(wanted, "cli")
    finally:
        records.close()
    typer.echo(f"{removed} cases deleted")
    if not removed or (wanted and removed < len(set(wanted))):
        raise typer.Exit(1)


@records_app.command("purge", epilog="Example: leukoscope records purge --older-than 90 --yes")
def records_purge(
    older_than: Annotated[int, typer.Option(min=1, max=LONGEST_RETENTION_DAYS, help="Days.")],
    data: Data = None,
    database: DatabaseUrl = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete cases older than a number of days, as `serve --retention-days` does every hour."""
    from leukoscope.web.storage.history import History

    if not yes:
        typer.confirm(f"Delete every case older than {older_than} days for good?", abort=True)
    records = _open_records(data, database)
    try:
        typer.echo(f"{History(records).purge(older_than, 'cli')} cases deleted")
    finally:
        records.close()


def _settings(config: Path | None, given: dict[str, object]) -> "WebSettings":
    from leukoscope.core.config import build, read_toml
    from leukoscope.web.settings import WebSettings

    settings = read_toml(config) if config else {}
    return build(WebSettings, {**settings, **given})


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        token = read_text(path).strip()
    except OSError as error:
        raise UsageError(f"{path}: the token cannot be read: {error.strerror}") from None
    if not token:
        raise UsageError(f"{path}: the token file is empty")
    return token


def _open_records(data: Path | None, database: str | None) -> "Database":
    """Open existing records without creating any."""
    from sqlalchemy import inspect

    from leukoscope.web.settings import WebSettings, default_data_folder
    from leukoscope.web.storage.database import Database, translated_errors
    from leukoscope.web.storage.tables import AuditEntry

    settings = WebSettings(data=data or default_data_folder(), database=database)
    remedy = "name their folder with --data" if database is None else "correct --database"
    file = _sqlite_file(settings.database_url)
    if file is not None and not (file.is_file() and file.stat().st_size):
        raise UsageError(f"{file}: there are no records; {remedy}")
    records = Database(settings.database_url)
    with translated_errors():
        found = inspect(records.engine).has_table(AuditEntry.__tablename__)
    if not found:
        records.close()
        raise UsageError(f"{file or 'the database'}: there are no records; {remedy}")
    records.migrate()
    return records


def _sqlite_file(url: str) -> Path | None:
    """Return the file that a URL of SQLite names; None for another server or an invalid URL."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        return None  # opening it reports the error
    if parsed.get_backend_name() != "sqlite":
        return None
    return Path((parsed.database or ":memory:").removeprefix("file:"))
