"""Every block of commands and of Python in README and documentation is executed, in the order of its page.

``documents`` explains the marks by which a page says what cannot be executed; ``document_stage`` what stands in for the
cohort, the runs and the bundles that the pages name.
"""

import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from document_stage import build_stage, copy_stage, environment, run_line, smaller
from documents import DOCUMENTS, ROOT, SHELL, Block, blocks, lines_of, name_of
from shared_folders import make_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # the first page builds the stage as well

RUN = [path for path in DOCUMENTS if any(block.runs for block in blocks(path))]
SERVE = re.compile(r"leukoscope serve\b")
ADDRESS = "http://127.0.0.1:8000"
REFERENCE = ROOT / "docs" / "reference" / "cli.md"
"""Made from the program's own examples; of those that a guide shows, too, the long ones are executed there only."""
LONG = re.compile(r"leukoscope (evaluate|compare|tune|explain-check|robustness)\b")
"""Takes long, and no other line of the page needs its outputs."""


def plain_lines(block: Block) -> list[str]:
    """The lines of shell in a block, without comments."""
    return [line for line in (re.split(r"\s+# ", line)[0].strip() for line in lines_of(block.body)) if line]


IN_GUIDES = {
    line
    for path in RUN
    if path != REFERENCE
    for block in blocks(path)
    if block.runs and block.language in SHELL
    for line in plain_lines(block)
}


def in_a_guide(block: Block) -> bool:
    """Whether a block of the reference is long and a guide executes its very lines."""
    lines = plain_lines(block)
    return IN_GUIDES.issuperset(lines) and all(LONG.match(line) for line in lines)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_once(tmp_path_factory, "stage", build_stage)


@pytest.mark.parametrize("path", RUN, ids=name_of)
def test_blocks_run_in_the_order_of_their_page(
    path: Path, stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder = copy_stage(stage, tmp_path / "page")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder / ".home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path):
        if not block.runs or (path == REFERENCE and in_a_guide(block)):
            continue
        if block.mark == "server":
            with served("leukoscope serve --data .records", folder) as address:
                monkeypatch.setenv("LEUKOSCOPE_URL", address)
                _execute(block, folder, namespace, address)
        else:
            _execute(block, folder, namespace)
    if any(block.language == "python" and block.runs for block in blocks(path)):
        assert capsys.readouterr().out.strip(), "an example that prints nothing shows nothing"


def test_marks_are_few_and_give_reasons() -> None:
    everything = [
        block for path in DOCUMENTS for block in blocks(path) if block.language in (*SHELL, "python")
    ]
    kept_back = [block.mark.partition(": ")[2] for block in everything if not block.runs]
    assert all(len(reason.split()) > 1 for reason in kept_back)
    assert len(kept_back) < len(everything) / 4


def test_unknown_block_marks_are_errors() -> None:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        above = re.findall(r"^<!-- (?!leukoscope)(.*?) -->\n```(?:console|bash|python)$", text, re.MULTILINE)
        assert sorted(above) == sorted(block.mark for block in blocks(path) if block.mark), name_of(path)


def test_targets_of_make_that_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        word
        for path in DOCUMENTS
        for word in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert named - targets == set()
    assert len(named) > 5


def _execute(block: Block, folder: Path, namespace: dict[str, Any], address: str = ADDRESS) -> None:
    if block.language == "python":
        exec(compile("\n" * block.line + block.body, str(block.path), "exec"), namespace)
        return
    lines = [line for line in lines_of(block.body) if line.strip()]
    for number, line in enumerate(lines, 1):
        if SERVE.match(line):
            with served(line, folder):
                continue
        code, output = run_line(smaller(line).replace(ADDRESS, address), folder)
        wanted = block.exit_code if number == len(lines) else 0
        assert code == wanted, f"{block.place}: {line}\n{output[-3000:]}"


@contextmanager
def served(line: str, folder: Path) -> Iterator[str]:
    """Start a line that serves, on a free port; once it is healthy, yield its address; end it."""
    words = re.sub(r"--port \d+", "", line).partition("#")[0]
    with subprocess.Popen(
        ["bash", "-c", f"exec {words} --port 0"],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watch = threading.Timer(900, process.kill)
        watch.start()
        try:
            yield _wait_until_healthy(process, line)
        finally:
            process.terminate()
            _, rest = process.communicate()
            watch.cancel()
    assert process.returncode == 0, f"{line}: it ended with {process.returncode}: {rest[-1500:]}"


def _wait_until_healthy(process: subprocess.Popen[str], line: str) -> str:
    """Read the address that a starting service prints, ask for its health and return the address."""
    assert process.stderr is not None
    output: list[str] = []
    while not (port := re.search(r"http://\S+?:(\d+)", text := process.stderr.readline())):
        output.append(text)
        assert text, f"{line}: ended before it was ready: {''.join(output)}"
    address = f"http://127.0.0.1:{port[1]}"
    with urllib.request.urlopen(f"{address}/healthz", timeout=30) as response:
        assert response.status == 200
    return address
