"""The project's documents as tests see them: pages, fenced blocks with their marks, calls of the command line.

An HTML comment in the line above a fenced block says how the block is to be executed; without one it simply is.

``<!-- not run: REASON -->``
    It is not executed, because it installs, downloads, or needs what only the reader has.
``<!-- exit 1: REASON -->``
    Its last line must end with that code.
``<!-- server -->``
    It talks to a running service.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>not run: [^\n]+|exit \d+: [^\n]+|server) -->\n)?"
    r"```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SHELL = ("console", "bash")
SEPARATORS = {"|", "&&", ";", ">", ">>", "<"}


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

    @property
    def runs(self) -> bool:
        return self.language in (*SHELL, "python") and not self.mark.startswith("not run")

    @property
    def exit_code(self) -> int:
        """What the last line must end with."""
        match = re.match(r"exit (\d+):", self.mark)
        return int(match[1]) if match else 0


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


def lines_of(body: str) -> list[str]:
    """The lines of shell in a block, continued ones joined."""
    return body.replace("\\\n", " ").splitlines()


def calls(line: str) -> Iterator[list[str]]:
    """Yield the arguments of every call of leukoscope in a line of shell."""
    words = shlex.split(line, comments=True)
    start = 0
    for end in [*(index for index, word in enumerate(words) if word in SEPARATORS), len(words)]:
        if words[start:end] and words[start] == "leukoscope":
            yield words[start + 1 : end]
        start = end + 1
