"""README and docs say what is true: links lead somewhere, commands parse, cheap ones run, code runs, references hold.

A fenced block after ``<!-- run -->`` is executed line by line, in the order of its document and in one folder; after
``<!-- run: exit 1 -->`` its last line must end with that code. Python blocks are executed always; those after
``<!-- server -->`` have a service to talk to.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from leukoscope.cli.docs import render_reference
from leukoscope.cli.main import COMMANDS, app, load_command
from leukoscope.config import apply_overrides, build, read_toml
from leukoscope.errors import ConfigError
from leukoscope.training.settings import TrainSettings
from web_fixtures import MakeApp, run_server

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>run|run: exit \d+|server) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TREE = re.compile(r"(?:benchmarks|configs|docs|notebooks|src|tests)/[\w./-]+\.\w+")
MACHINE = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users|mnt|var)/|[A-Z]:\\Users")
SEPARATORS = {"|", "&&", ";", ">", ">>", "<"}
ROOT_OPTIONS = {"--help", "-h", "--version", "--debug"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    path: Path
    line: int
    language: str
    mark: str
    body: str

    @property
    def place(self) -> str:
        return f"{name_of(self.path)}:{self.line}"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            path,
            text.count("\n", 0, match.start("language")) + 1,
            match["language"],
            match["mark"] or "",
            match["body"],
        )
        for match in FENCE.finditer(text)
    ]


def prose(path: Path) -> str:
    """The text without fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def lines_of(body: str) -> Iterator[str]:
    yield from body.replace("\\\n", " ").splitlines()


def calls(line: str) -> Iterator[list[str]]:
    """Yield the arguments of every call of leukoscope in a line of shell."""
    words = shlex.split(line, comments=True)
    start = 0
    for end in [*(index for index, word in enumerate(words) if word in SEPARATORS), len(words)]:
        if words[start:end] and words[start] == "leukoscope":
            yield words[start + 1 : end]
        start = end + 1


def find_command(words: list[str]) -> tuple[Any, str, list[str]]:
    """Return the command that words name, its name, and the words after it."""
    assert words[0] in COMMANDS, f"no command {words[0]!r}; there are: {', '.join(COMMANDS)}"
    command, name, rest = load_command(words[0]), words[0], words[1:]
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{name} has no command {rest[0]!r}"
        command, name, rest = command.commands[rest[0]], f"{name} {rest[0]}", rest[1:]
    return command, name, rest


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(match[1]) for match in re.finditer(r"^#+ (.+)$", prose(path), re.MULTILINE)}


ALL_BLOCKS = [block for path in DOCUMENTS for block in blocks(path)]
SHELL = [block for block in ALL_BLOCKS if block.language in ("console", "bash")]
FENCED_CALLS = [(b.place, line, call) for b in SHELL for line in lines_of(b.body) for call in calls(line)]
SPAN_CALLS = [
    (name_of(path), " ".join(match[1].split()))
    for path in DOCUMENTS
    for match in SPAN.finditer(prose(path))
    if match[1].startswith("leukoscope ")
]
RUN = sorted({block.path for block in SHELL if block.mark.startswith("run")})
PYTHON = sorted({block.path for block in ALL_BLOCKS if block.language == "python"})
TOML = [block for block in ALL_BLOCKS if block.language == "toml"]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone as far as the documents' paths go."""
    (tmp_path / "src").symlink_to(ROOT / "src", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(SPAN.sub("", prose(path))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(place):
            broken.append(f"{target}: no such heading")
    assert not broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_are_named_exist(path: Path) -> None:
    named = [span for span in SPAN.findall(prose(path)) if TREE.fullmatch(span)]
    assert [span for span in named if not (ROOT / span).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_path_of_somebodys_machine(path: Path) -> None:
    assert MACHINE.findall(path.read_text(encoding="utf-8")) == []


def test_there_is_something_to_test() -> None:
    assert len(FENCED_CALLS) > 40
    assert len(SPAN_CALLS) > 20
    assert len(RUN) > 2
    assert len(PYTHON) > 1


@pytest.mark.parametrize(("place", "line", "call"), FENCED_CALLS, ids=lambda value: str(value)[:60])
def test_commands_parse(place: str, line: str, call: list[str]) -> None:
    if call and call[0] in ROOT_OPTIONS:
        return
    command, name, rest = find_command(call)
    if {"--help", "-h"} & set(rest):
        return
    assert not hasattr(command, "commands"), f"{place}: {line!r} names a group, not a command"
    try:
        command.make_context(name, rest).close()
    except Exception as error:
        pytest.fail(f"{place}: {line!r}: {getattr(error, 'message', error)}")


@pytest.mark.parametrize(("place", "text"), SPAN_CALLS, ids=lambda value: str(value)[:60])
def test_commands_named_in_sentences_exist_with_their_options(place: str, text: str) -> None:
    words = shlex.split(text)[1:]
    if words[0] in ROOT_OPTIONS:
        return
    command, name, rest = find_command(words)
    known = {word for item in command.params for word in (*item.opts, *item.secondary_opts)} | ROOT_OPTIONS
    options = {word.partition("=")[0] for word in rest if word.startswith("-") and len(word) > 1}
    assert options <= known, f"{place}: {name} has no {', '.join(options - known)}"


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_commands_run_in_the_order_of_their_document(path: Path, clone: Path) -> None:
    for block in blocks(path):
        if not block.mark.startswith("run"):
            continue
        listed = [call for line in lines_of(block.body) for call in calls(line)]
        assert len(listed) == len(block.body.splitlines()), f"{block.place}: only leukoscope can be run"
        for number, call in enumerate(listed, 1):
            wanted = int(block.mark.rpartition(" ")[2]) if number == len(listed) and ":" in block.mark else 0
            result = CliRunner().invoke(app, call)
            assert result.exit_code == wanted, f"{block.place}: {shlex.join(call)}: {result.output[-2000:]}"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_python_runs(
    path: Path, clone: Path, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path):
        if block.language != "python":
            continue
        code = compile("\n" * block.line + block.body, str(path), "exec")
        if block.mark == "server":
            with run_server(make_app()) as running:
                monkeypatch.setenv("LEUKOSCOPE_URL", running.address)
                exec(code, namespace)
        else:
            exec(code, namespace)
    assert capsys.readouterr().out.strip(), "an example that prints nothing shows nothing"


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.place)
def test_settings_shown_are_accepted(block: Block) -> None:
    from leukoscope.web.settings import WebSettings

    def search_space(content: dict[str, Any]) -> None:
        for key, entry in content.items():
            values = entry.get("choices") if isinstance(entry, dict) else None
            for value in values or (entry["low"], entry["high"]):
                build(TrainSettings, apply_overrides({}, [f"{key}={json.dumps(value)}"]))

    content = tomllib.loads(block.body)
    refusals = []
    for read in (partial(build, TrainSettings), partial(build, WebSettings), search_space):
        try:
            read(content)
            return
        except (ConfigError, TypeError) as error:
            refusals.append(str(error))
    pytest.fail(f"{block.place}: {'; '.join(refusals)}")


def test_every_recipe_is_valid_and_named_in_the_guide() -> None:
    guide = (ROOT / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    recipes = sorted((ROOT / "configs").glob("*.toml"))
    for recipe in recipes:
        build(TrainSettings, read_toml(recipe))
    assert [recipe.name for recipe in recipes if f"`configs/{recipe.name}`" not in guide] == []


@pytest.mark.parametrize("name", sorted(render_reference()))
def test_the_reference_is_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == render_reference()[name], f"docs/reference/{name} has drifted; run: make docs"


def test_a_page_that_has_drifted_is_found(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["docs", "--out", str(tmp_path)]).exit_code == 0
    assert runner.invoke(app, ["docs", "--out", str(tmp_path), "--check"]).exit_code == 0
    page = tmp_path / "cli.md"
    page.write_text(page.read_text().replace("leukoscope predict", "leukoscope foresee", 1))
    found = runner.invoke(app, ["docs", "--out", str(tmp_path), "--check"])
    assert found.exit_code == 1
    assert "cli.md" in found.stderr
    assert "glossary.md" not in found.stderr
