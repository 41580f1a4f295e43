"""The page of all commands, from the commands themselves."""

import inspect
import re
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from leukoscope.cli.main import COMMANDS, load_command

COMPLETION = ("install_completion", "show_completion", "help")
NOT_RUN = {
    "records delete": "the case is the reader's",
    "audit verify": "the anchor is the reader's",
    "weights expand": "it needs the package with the first weights",
    "benchmark predict": "a measurement of minutes on a quiet machine",
    "benchmark stream": "a measurement of minutes on a quiet machine",
    "benchmark train": "a measurement of minutes on a quiet machine",
}
"""Command -> why its example cannot be executed by a test; the page says it in a comment."""

_COMMENT = re.compile(r"(<!-- .*? -->)")
_EXAMPLE = re.compile(r"\bExamples?: (?=leukoscope )")


class Entry(NamedTuple):
    """One command with its full name."""

    name: str
    command: Any


def walk_commands() -> Iterator[Entry]:
    """Yield every command that can be run, groups opened, in the order of the list of commands."""
    for name in COMMANDS:
        yield from _walk(name, load_command(name))


def _walk(name: str, command: Any) -> Iterator[Entry]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield Entry(name, command)
        return
    for word, child in inner.items():
        yield from _walk(f"{name} {word}", child)


def render_commands() -> str:
    """Return the page as Markdown."""
    entries = list(walk_commands())
    lines = [
        "# Commands",
        "",
        "Each command prints the same with `--help`. Panels are those of `leukoscope --help`.",
    ]
    for panel in dict.fromkeys(command.panel for command in COMMANDS.values()):
        links = [
            f"[`{entry.name}`](#leukoscope-{entry.name.replace(' ', '-')})"
            for entry in entries
            if COMMANDS[entry.name.split()[0]].panel == panel
        ]
        lines += ["", f"**{panel}:** {', '.join(links)}."]
    for entry in entries:
        lines += ["", *_section(entry)]
    lines += ["", "## Exit codes", "", *_table(["code", "meaning"], _exit_codes())]
    return "\n".join(lines) + "\n"


def _section(entry: Entry) -> list[str]:
    hints = typing.get_type_hints(inspect.unwrap(entry.command.callback), include_extras=True)
    shown = [item for item in entry.command.params if item.name not in COMPLETION and not item.hidden]
    arguments = [item for item in shown if item.param_type_name == "argument"]
    options = [item for item in shown if item.param_type_name == "option"]
    usage = [_argument_text(item) for item in arguments]
    usage += [f"{_option_text(item, hints)[0]}" for item in options if item.required]
    lines = [f"## leukoscope {entry.name}", "", *_prose(entry)]
    optional = ["[OPTIONS]"] if any(not item.required for item in options) else []
    lines += ["", "```text", " ".join(["leukoscope", entry.name, *optional, *usage]), "```"]
    if arguments:
        rows = [[f"`{_argument_text(item)}`", _description(item, hints)] for item in arguments]
        lines += ["", *_table(["argument", "meaning"], rows)]
    if options:
        rows = [[_option_cell(item, hints), _description(item, hints)] for item in options]
        lines += ["", *_table(["option", "meaning"], rows)]
    return lines


def _prose(entry: Entry) -> list[str]:
    """Return the help as paragraphs, examples as code."""
    command = entry.command
    text = inspect.cleandoc(command.help or "") + "\n\n" + inspect.cleandoc(command.epilog or "")
    parts: list[str] = []
    examples: list[str] = []
    for raw in text.split("\n\n"):
        paragraph = " ".join(raw.split())
        if paragraph.startswith("leukoscope "):
            examples.append(paragraph)
            continue
        before, *after = _EXAMPLE.split(paragraph, maxsplit=1)
        examples += after
        if before.strip():
            parts += ["", _escape(before.strip())]
    if examples:
        reason = NOT_RUN.get(entry.name)
        mark = [] if reason is None else [f"<!-- not run: {reason} -->"]
        parts += ["", *mark, "```console", *examples, "```"]
    return parts[1:]


def _argument_text(item: Any) -> str:
    word = item.name.strip("_").upper() + ("..." if item.nargs == -1 else "")
    return word if item.required else f"[{word}]"


def _option_text(item: Any, hints: dict[str, Any]) -> list[str]:
    long_first = sorted(item.opts, key=lambda word: not word.startswith("--"))
    if item.is_flag:
        return [*long_first, *item.secondary_opts]
    choices = _choices(hints.get(item.name))
    value = (
        "|".join(choices) if choices else item.metavar or item.opts[0].lstrip("-").replace("-", "_").upper()
    )
    return [f"{long_first[0]} {value}", *long_first[1:]]


def _option_cell(item: Any, hints: dict[str, Any]) -> str:
    return ", ".join(f"`{word}`" for word in _option_text(item, hints)).replace("|", "\\|")


def _description(item: Any, hints: dict[str, Any]) -> str:
    notes = []
    low, high = _range(hints.get(item.name))
    if low is not None and high is not None:
        notes.append(f"{low} to {high}")
    elif low is not None:
        notes.append(f"from {low}")
    if item.required and item.param_type_name == "option":
        notes.append("required")
    default = item.default.value if isinstance(item.default, Enum) else item.default
    if default is True and item.secondary_opts:
        notes.append(f"default: `{item.opts[0]}`")
    elif isinstance(default, str | int | float | Path) and not isinstance(default, bool):
        notes.append(f"default: `{default}`")
    if item.multiple:
        notes.append("may be repeated")
    if item.envvar:
        notes.append(f"or `{item.envvar}` in the environment")
    text = _escape(" ".join((item.help or "").split()))
    return f"{text} ({'; '.join(notes)})" if notes else text


def _choices(hint: Any) -> list[str]:
    for part in _parts(hint):
        if inspect.isclass(part) and issubclass(part, Enum):
            return [str(member.value) for member in part]
    return []


def _range(hint: Any) -> tuple[float | None, float | None]:
    for part in _parts(hint):
        if hasattr(part, "param_decls"):
            return part.min, part.max
    return None, None


def _parts(hint: Any) -> Iterator[Any]:
    """Yield an annotation and everything inside it, the metadata of Annotated included."""
    yield hint
    for part in (*typing.get_args(hint), *getattr(hint, "__metadata__", ())):
        yield from _parts(part)


def _exit_codes() -> list[list[str]]:
    from leukoscope.cli.main import INTERNAL_ERROR
    from leukoscope.core import errors

    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.LeukoscopeError)
    ]
    codes: dict[int, list[str]] = {}
    for kind in kinds:
        codes.setdefault(kind.exit_code, []).append(f"`{kind.__name__}`")
    rows = [["0", "done"]]
    rows += [
        [str(code), f"an error printed in one line: {', '.join(names)}"]
        for code, names in sorted(codes.items())
    ]
    rows += [
        [str(INTERNAL_ERROR), "an internal error; `leukoscope --debug ...` shows the traceback"],
        ["130", "interrupted with Ctrl-C"],
    ]
    return rows


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _escape(text: str) -> str:
    """Keep Markdown from reading signs of a help text as markup."""
    pieces = _COMMENT.split(text.replace("|", "\\|"))
    pieces[::2] = [piece.replace("<", "\\<").replace("*", "\\*") for piece in pieces[::2]]
    pieces[1::2] = [f"`{piece}`" for piece in pieces[1::2]]
    return "".join(pieces)
