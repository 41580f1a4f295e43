"""README and docs say what is true: links lead somewhere, commands parse, settings are accepted, references hold.

``test_document_blocks`` executes the blocks.
"""

import configparser
import json
import re
import shlex
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from documents import DOCUMENTS, ROOT, SHELL, Block, blocks, calls, lines_of, name_of, prose
from leukoscope import __version__
from leukoscope.cli.main import COMMANDS, load_command
from leukoscope.core.config import apply_overrides, build, read_toml
from leukoscope.core.errors import ConfigError
from leukoscope.training.settings import TrainSettings
from leukoscope_tools.__main__ import app as tools
from leukoscope_tools.documents.reference import render_reference

SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TREE = re.compile(r"(?:configs|docs|examples|src|tests|tools)/[\w./-]+\.\w+")
MACHINE = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users|mnt|var)/|[A-Z]:\\Users")
ROOT_OPTIONS = {"--help", "-h", "--version", "--debug"}


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
SHELL_BLOCKS = [block for block in ALL_BLOCKS if block.language in SHELL]
FENCED_CALLS = [
    (b.place, line, call) for b in SHELL_BLOCKS for line in lines_of(b.body) for call in calls(line)
]
SPAN_CALLS = [
    (name_of(path), " ".join(match[1].split()))
    for path in DOCUMENTS
    for match in SPAN.finditer(prose(path))
    if match[1].startswith("leukoscope ")
]
TOML = [block for block in ALL_BLOCKS if block.language == "toml"]


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
def test_no_absolute_paths_of_a_machine(path: Path) -> None:
    assert MACHINE.findall(path.read_text(encoding="utf-8")) == []


def test_enough_commands_are_tested() -> None:
    assert len(FENCED_CALLS) > 40
    assert len(SPAN_CALLS) > 20


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


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [__version__]
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_recipe_is_valid_and_named_in_the_guide() -> None:
    guide = (ROOT / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    recipes = sorted((ROOT / "configs").glob("*.toml"))
    for recipe in recipes:
        build(TrainSettings, read_toml(recipe))
    assert [recipe.name for recipe in recipes if f"`configs/{recipe.name}`" not in guide] == []


@pytest.mark.parametrize("name", sorted(render_reference()))
def test_the_reference_agrees_with_the_code(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == render_reference()[name], f"docs/reference/{name} is out of date; run: make docs"


def test_a_stale_page_is_found(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(tools, ["docs", "--out", str(tmp_path)]).exit_code == 0
    assert runner.invoke(tools, ["docs", "--out", str(tmp_path), "--check"]).exit_code == 0
    page = tmp_path / "cli.md"
    page.write_text(page.read_text().replace("leukoscope predict", "leukoscope foresee", 1))
    found = runner.invoke(tools, ["docs", "--out", str(tmp_path), "--check"])
    assert found.exit_code == 1
    assert "cli.md" in found.stderr
    assert "glossary.md" not in found.stderr


def test_the_drawing_of_the_architecture_shows_the_layers_of_the_import_contract() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", encoding="utf-8")
    text = contracts["importlinter:contract:layers"]["layers"]
    layers = [
        [name.strip().removeprefix("leukoscope.") for name in line.split("|")]
        for line in text.strip().splitlines()
    ]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [re.findall(r"│ (\w+)", line) for line in page.splitlines() if line.startswith(" │")]
    drawn = [names for names in rows if names in layers]
    assert drawn == layers
