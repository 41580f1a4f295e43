"""The command line: the list of commands, error handling and lazy imports.

A command's module is imported when the command runs. Its line in ``--help`` of the whole program is in
``COMMANDS``, so that listing the commands imports none of them.
"""

import contextlib
import errno
import importlib
import importlib.util
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
import typer.core
import typer.main

from leukoscope.cli.values import check_values
from leukoscope.core.errors import LeukoscopeError, UsageError
from leukoscope.core.places import expand_user
from leukoscope.core.terms import RESEARCH_USE

DEBUG_VARIABLE = "LEUKOSCOPE_DEBUG"
INTERNAL_ERROR = 70  # sysexits.h: EX_SOFTWARE


class Command(NamedTuple):
    """Module of a command and its line in the list of commands."""

    module: str
    help: str
    panel: str


_USE, _DEVELOP = "Use a model", "Develop a model"

COMMANDS: dict[str, Command] = {
    "predict": Command("operate", "Classify cell images: probability, decision, heat map.", _USE),
    "smear": Command("smear", "Find, measure, name and count the white cells of whole fields.", _USE),
    "adapt": Command("adapt", "Make the profile of a laboratory, with or without corrected cells.", _USE),
    "demo": Command("demo", "Classify the shipped sample cells and write a contact sheet.", _USE),
    "serve": Command("serve", "Start the web application.", _USE),
    "records": Command("serve", "Delete stored cases of the web application.", _USE),
    "audit": Command("serve", "Verify or print the web application's audit log.", _USE),
    "bundle": Command("operate", "Verify, show or list bundles (exported models).", _USE),
    "explain-check": Command("operate", "Measure how faithful a bundle's heat maps are.", _USE),
    "data": Command("data", "Import, verify, audit, split and sample a cohort.", _DEVELOP),
    "weights": Command("weights", "Make initial weights.", _DEVELOP),
    "train": Command("train", "Train a network.", _DEVELOP),
    "cross-validate": Command(
        "cross_validate", "Measure a recipe on every subject, and train the final model.", _DEVELOP
    ),
    "tune": Command("train", "Search settings on inner folds.", _DEVELOP),
    "evaluate": Command("evaluate", "Evaluate runs by subject and write the report.", _DEVELOP),
    "compare": Command("evaluate", "Compare runs and reports, paired by subject.", _DEVELOP),
    "leakage": Command("evaluate", "Measure the inflation of metrics by a leaking split.", _DEVELOP),
    "novelty": Command("novelty", "Measure rejection of out-of-distribution images and of cells.", _DEVELOP),
    "robustness": Command("robustness", "Measure how steady decisions are under small changes.", _DEVELOP),
    "export": Command("export", "Make a bundle from a finished run.", _DEVELOP),
}
"""Name -> module under ``leukoscope.cli`` with ``register(app)``, or with ``app`` for a group of commands."""

EXTRAS: dict[str, str] = {
    "alembic": "web",
    "flask": "web",
    "prometheus_client": "web",
    "sqlalchemy": "web",
    "waitress": "web",
    "onnxruntime": "onnxruntime",
    "cleanlab": "evaluate",
    "jinja2": "evaluate",
    "matplotlib": "evaluate",
    "pandas": "evaluate",
    "scipy": "evaluate",
    "sklearn": "evaluate",
    "lightning_fabric": "train",
    "onnx": "train",
    "onnxscript": "train",
    "optuna": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
}
"""Imported package -> the extra of leukoscope that installs it."""


class LazyGroup(typer.core.TyperGroup):
    """A group whose commands are imported when they run, and whose errors are printed as one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, command in COMMANDS.items():
            if importlib.util.find_spec(f"leukoscope.cli.{command.module}") is not None:
                stand_in = typer.core.TyperCommand(name, help=command.help, rich_help_panel=command.panel)
                self.commands[name] = stand_in

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in the order of the table."""
        return list(self.commands)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments name, and import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if command is None else load_command(str(name)), rest

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run; print each expected error as one line on stderr and exit with its code."""
        _print_any_letter()
        try:
            args, extra = _with_home(args, extra)
            try:
                return super().main(*args, **extra)
            finally:
                sys.stdout.flush()  # a full disk is noticed here, not at the interpreter's end
        except LeukoscopeError as error:
            _fail(str(error), error.exit_code, error)
        except ModuleNotFoundError as error:
            _fail_missing(error)
        except OSError as error:
            _fail_system(error)
        except Exception as error:
            _fail_internal(error)


def _with_home(args: tuple[Any, ...], extra: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Expand ``~`` where the shell does not: in ``--out=~/results`` and in arguments of other programs."""
    given = extra.get("args", args[0] if args else None)
    words = [str(word) for word in (sys.argv[1:] if given is None else given)]
    wrong = next((word for word in words if "\0" in word), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r}: holds a NUL character; leave it out")
    return (), {**extra, "args": [_expand_home(word) for word in words]}


def _expand_home(word: str) -> str:
    option, separator, value = word.partition("=") if word.startswith("--") else ("", "", word)
    # A text such as '~ 50 cells' or '~50' names no user and stays as it is.
    if not re.match(r"~$|~[\w.-]*/", value) or os.path.lexists(value):
        return word
    return f"{option}{separator}{expand_user(value)}"


def load_command(name: str) -> Any:
    """Import a command's module and return its click command."""
    module = importlib.import_module(f"leukoscope.cli.{COMMANDS[name].module}")
    if hasattr(module, "register"):
        app = typer.Typer(rich_markup_mode=None)
        module.register(app)
        command = typer.main.get_group(app).commands[name]
    else:
        command = typer.main.get_command(module.app)
        command.name = name
    check_values(command)
    return command


def _print_any_letter() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _fail(message: str, exit_code: int, error: BaseException) -> NoReturn:
    if os.environ.get(DEBUG_VARIABLE):
        raise error
    try:
        sys.stdout.flush()
    except OSError:
        _close_stdout()
    typer.secho(f"leukoscope: {message}", fg="red", err=True)
    sys.exit(exit_code)


def _fail_internal(error: Exception) -> NoReturn:
    text = f"internal error: {type(error).__name__}: {error}"
    _fail(f"{text}; run again with --debug and report the output", INTERNAL_ERROR, error)


def _fail_system(error: OSError) -> NoReturn:
    """Exit with a message if the system refused a file; other OS errors are bugs of this program."""
    if error.errno == errno.EPIPE:  # the reader closed the pipe, as with `| head`
        _close_stdout()
        sys.exit(LeukoscopeError.exit_code)
    where = "" if error.filename is None else f"{os.fspath(error.filename)}: "
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = f"{where}no space is left to write; free some, or name another place"
    elif error.filename is None:
        _fail_internal(error)
    else:
        text = f"{where}{error.strerror}; correct the path or its rights, or name another"
    _fail(text, LeukoscopeError.exit_code, error)


def _close_stdout() -> None:
    """Discard output that cannot be written; else the interpreter would fail again at its end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail_missing(error: ModuleNotFoundError) -> NoReturn:
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        _fail(f"internal error: {error}; reinstall leukoscope", INTERNAL_ERROR, error)
    text = f'this command needs {package}, which is not installed; run: pip install "leukoscope[{extra}]"'
    _fail(text, UsageError.exit_code, error)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"leukoscope {version('leukoscope')}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=RESEARCH_USE,
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show the traceback of an error (also ${DEBUG_VARIABLE}=1).")
    ] = False,
) -> None:
    """Leukemia detection from single-cell images: train, evaluate by subject, explain and serve.

    Try: leukoscope predict cell.bmp
    """
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the entry point of the installed program."""
    app(None if arguments is None else list(arguments), prog_name="leukoscope")


if __name__ == "__main__":
    run()
