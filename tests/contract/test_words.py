"""Texts and names use the words of CONTRIBUTING.md, and the check finds the others where people read them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from documents import ROOT
from leukoscope_tools.__main__ import app
from leukoscope_tools.documents.words import WORDS, find_all_words, find_words, render_table, update_table

LISTED = "a judge told the price"
"""Three listed words."""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def found(path: Path) -> list[tuple[int, str]]:
    return [(finding.line, finding.found) for finding in find_words(path)]


@pytest.mark.slow
def test_the_repository_has_no_discouraged_word() -> None:
    places = [
        f"{finding.path.relative_to(ROOT)}:{finding.line}: {finding.found}; write: {finding.instead}"
        for finding in find_all_words(ROOT)
    ]
    assert places == []


def test_contributing_shows_the_list() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert update_table(text) == text
    assert text.count("\n| ") == len(WORDS) + 1


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("page.md", f"# Title\n\nIt is {LISTED}.\n", 3),
        ("module.py", f'"""Title.\n\nIt is {LISTED}.\n"""\n', 3),
        ("module.py", f"value = 1\n# {LISTED}\n", 2),
        ("module.py", f"raise ValueError(f'{LISTED}: {{value}}')\n", 1),
        ("page.html", f"<p>\n{LISTED}</p>\n", 2),
        ("recipe.toml", f"key = 1  # {LISTED}\n", 1),
        ("Makefile", f"all:\n\t@true  # {LISTED}\n", 2),
    ],
)
def test_words_are_found_in_texts(tmp_path: Path, name: str, text: str, line: int) -> None:
    assert found(write(tmp_path, name, text)) == [(line, "judge"), (line, "told"), (line, "price")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", f"The key `{LISTED}`.\n\n```console\n{LISTED}\n```\n"),
        ("page.md", f"<!-- leukoscope: results report=x -->\n{LISTED}\n<!-- /leukoscope -->\n"),
        ("page.md", "[Page](https://example.org/judge)\n"),
        ("module.py", "record['judge'] = f'{price} is read'\n"),
        ("page.html", f"<p class='{LISTED}'>{{{{ told }}}}</p>\n"),
    ],
)
def test_code_keys_and_rendered_blocks_are_not_checked(tmp_path: Path, name: str, text: str) -> None:
    assert found(write(tmp_path, name, text)) == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def judge_cells(): ...\n", "judge_cells"),
        ("class ColourMap: ...\n", "ColourMap"),
        ("def draw(colours): ...\n", "colours"),
        ("lowest_price = 1\n", "lowest_price"),
        ("def test_a_value_is_said(): ...\n", "test_a_value_is_said"),
    ],
)
def test_words_are_found_in_names(tmp_path: Path, code: str, name: str) -> None:
    assert found(write(tmp_path, "module.py", code)) == [(1, name)]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("one row a cell", True),
        ("5 bytes a pixel", True),
        ("one row per cell", False),
        ("the cells of a subject", False),
        ("standardised", True),
        ("standardized", False),
        ("precise", False),
        ("the colour", True),
        ("the color", False),
        ("tell the classes apart", True),
    ],
)
def test_phrases_and_spellings(tmp_path: Path, text: str, listed: bool) -> None:
    assert bool(found(write(tmp_path, "page.md", f"{text}\n"))) is listed


def test_the_command_fails_on_a_listed_word_and_writes_the_table(tmp_path: Path) -> None:
    page = write(tmp_path, "CONTRIBUTING.md", "# Contributing\n\n<!-- words -->\n<!-- /words -->\n")
    assert CliRunner().invoke(app, ["words", str(tmp_path)]).exit_code == 1
    assert CliRunner().invoke(app, ["words", str(tmp_path), "--write"]).exit_code == 0
    assert render_table() in page.read_text(encoding="utf-8")
    write(tmp_path, "docs/page.md", f"{LISTED}\n")
    result = CliRunner().invoke(app, ["words", str(tmp_path)])
    assert result.exit_code == 1
    assert "page.md:1: judge" in result.output
