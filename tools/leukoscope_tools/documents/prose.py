"""Text that people read in the files of this repository: documents, comments, docstrings, messages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

RENDERED = re.compile(r"^<!-- leukoscope: \S+ .*?-->$.*?^<!-- /leukoscope -->$", re.MULTILINE | re.DOTALL)
WORD_TABLE = re.compile(r"^<!-- words -->$.*?^<!-- /words -->$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
MARKDOWN_CODE = re.compile(r"``[^`]+``|`[^`\n]+`|\]\([^)\s]+\)|https?://\S+")
PLACEHOLDER = re.compile(r"\{[^{}]*\}")
TEMPLATE_CODE = re.compile(r"\{[%{#].*?[%}#]\}|<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL)
TOML_TEXT = re.compile(r"#.*$", re.MULTILINE)

DOCUMENTS = ("*.md", "docs/**/*.md", "weights/*.md", "packaging/**/*.md")
PROGRAMS = ("src/**/*.py", "tools/**/*.py", "examples/**/*.py", "tests/**/*.py", "docs/*.py")
TEMPLATES = ("src/**/templates/*.html", "src/**/templates/*.j2")
SETTINGS = ("configs/**/*.toml", "pyproject.toml", ".importlinter", "Makefile", "packaging/**/*")
GENERATED = ("docs/reference/python-api.md",)  # its docstrings are checked where they are written


class Passage(NamedTuple):
    """One piece of text.

    Attributes
    ----------
    line : int
        Line of its first character, from 1.
    text : str
        The text, code in it replaced by spaces.
    """

    line: int
    text: str


def list_files(root: Path) -> list[Path]:
    """Return the files of a repository whose texts are checked, sorted."""
    patterns = (*DOCUMENTS, *PROGRAMS, *TEMPLATES, *SETTINGS)
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    generated = {root / name for name in GENERATED}
    hidden = {path for path in found if any(p.startswith(".") for p in path.relative_to(root).parts[:-1])}
    return sorted(found - generated - hidden)


def read_passages(path: Path) -> Iterator[Passage]:
    """Yield the passages of one file.

    Left out: fenced and inline code, rendered blocks and addresses of documents; placeholders of messages; tags and
    statements of templates; strings without a space, which are keys.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        for pattern in (RENDERED, WORD_TABLE, FENCE, MARKDOWN_CODE):
            text = pattern.sub(_blank, text)
        yield Passage(1, text)
    elif path.suffix == ".py":
        yield from _read_program(text)
    elif path.suffix in (".html", ".j2"):
        yield Passage(1, TEMPLATE_CODE.sub(_blank, text))
    else:
        for match in TOML_TEXT.finditer(text):
            yield Passage(text.count("\n", 0, match.start()) + 1, match[0])


def read_names(path: Path) -> Iterator[Passage]:
    """Yield the names that a program defines: modules, classes, functions, parameters and variables."""
    if path.suffix != ".py":
        return
    yield Passage(1, path.stem)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield Passage(node.lineno, node.name)
        elif isinstance(node, ast.arg):
            yield Passage(node.lineno, node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield Passage(node.lineno, node.id)


def split_name(name: str) -> str:
    """Return the words of an identifier in lower case, separated by spaces.

    >>> split_name("JobQueue_of_cells")
    'job queue of cells'
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ")
    return spaced.strip().lower()


def _read_program(text: str) -> Iterator[Passage]:
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield Passage(token.start[0], token.string)
        elif token.type == tokenize.STRING and " " in token.string:
            code_free = MARKDOWN_CODE.sub(_blank, PLACEHOLDER.sub(_blank, token.string))
            yield Passage(token.start[0], code_free)


def _blank(match: re.Match[str]) -> str:
    """Replace code by spaces; line breaks stay, so that line numbers hold."""
    return re.sub(r"[^\n]", " ", match[0])
