"""The lines that documentation and API page show to programmers work as they stand."""

import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from leukoscope.inference.results import CellResult
from small_bundle import sample_paths
from web_fixtures import MakeApp, Running, run_server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def running(make_app: MakeApp) -> Iterator[Running]:
    with run_server(make_app()) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the file that the examples name."""
    with Image.open(sample_paths()[0]) as cell:
        cell.convert("RGB").save(tmp_path / "cell.bmp")
    return tmp_path


def examples_on_the_page(running: Running) -> list[str]:
    client = running.app.test_client(use_cookies=False)
    page = client.get("/api", base_url=running.address).get_data(as_text=True)
    return [
        html.unescape(text) for text in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page, re.DOTALL)
    ]


def curl_line_of_the_guide(running: Running) -> str:
    guide = (ROOT / "docs" / "how-to" / "serve.md").read_text("utf-8")
    (line,) = re.findall(r"^curl .*$", guide, re.MULTILINE)
    return str(line).replace("http://127.0.0.1:8000", running.address)


@pytest.mark.parametrize("place", ["page", "guide"])
def test_the_curl_line_works(running: Running, folder: Path, place: str):
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    line = examples_on_the_page(running)[0] if place == "page" else curl_line_of_the_guide(running)
    assert running.address in line
    answer = subprocess.run(
        [*shlex.split(line), "--silent", "--fail"], cwd=folder, capture_output=True, check=True, timeout=60
    )
    (result,) = json.loads(answer.stdout)
    assert CellResult.model_validate(result).source == "cell.bmp"


def test_the_python_lines_of_the_page_work(running: Running, folder: Path):
    program = examples_on_the_page(running)[1]
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    assert re.fullmatch(r"cell\.bmp (blast|normal|uncertain|rejected) (0\.\d+|None)\n", answer.stdout)
