"""Notebooks, gallery, the README's picture and the site: they can be reproduced, and show the shipped bundle."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from documents import ROOT
from leukoscope.assets import default_bundle_path
from leukoscope.cli.main import app
from leukoscope.models.bundle import Bundle
from leukoscope.models.report import Robustness

NOTEBOOKS = sorted(path.stem for path in (ROOT / "examples" / "notebooks").glob("*.ipynb"))
GALLERY = sorted(path.stem for path in (ROOT / "examples" / "gallery").glob("*.py"))
SMALL = {"leakage": "1", "attribution": "3", "novelty": "1"}
MACHINE = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users|mnt|var)/|[A-Z]:\\\\Users")
MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return Bundle.open(default_bundle_path())


@pytest.fixture(scope="module")
def executor() -> ModuleType:
    """``examples/notebooks/execute.py``, which needs the extra ``notebook``."""
    pytest.importorskip("jupytext", reason='needs pip install -e ".[notebook]"')
    pytest.importorskip("nbclient", reason='needs pip install -e ".[notebook]"')
    spec = importlib.util.spec_from_file_location("execute", ROOT / "examples" / "notebooks" / "execute.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "examples" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def kinds(cell: Any) -> list[Any]:
    """What a cell shows, without the numbers: kinds of output, and of data in it."""
    return [sorted(output.get("data", {})) or output["output_type"] for output in cell.get("outputs", [])]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_its_script(name: str, executor: ModuleType) -> None:
    script = executor.read_source(name)
    written = committed(name)
    assert sorted(executor.NAMES) == NOTEBOOKS
    assert [(cell.id, cell.cell_type, cell.source) for cell in script.cells] == [
        (cell["id"], cell["cell_type"], "".join(cell["source"])) for cell in written["cells"]
    ], f"{name}.py has changed; run: make notebooks"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_small_clean_and_of_the_shipped_bundle(name: str, shipped: Bundle) -> None:
    file = ROOT / "examples" / "notebooks" / f"{name}.ipynb"
    assert file.stat().st_size < MAX_BYTES
    assert MACHINE.findall(file.read_text(encoding="utf-8")) == []
    notebook = committed(name)
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert outputs
    assert {output["output_type"] for output in outputs} <= {"display_data", "execute_result", "stream"}
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert notebook["metadata"]["leukoscope"]["bundle"] == shipped.sha256, "run: make refresh"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_is_committed(
    name: str, executor: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    executed = executor.execute(executor.read_source(name), tmp_path)
    assert [kinds(cell) for cell in executed.cells] == [kinds(cell) for cell in committed(name)["cells"]]
    assert "Research use only" in executed.cells[0].source


def test_the_gallery_has_a_picture_and_a_section_for_every_script() -> None:
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    pictures = {path.stem for path in (ROOT / "docs" / "images" / "gallery").glob("*.png")}
    assert set(GALLERY) == pictures
    for name in GALLERY:
        assert f"\n## {name.capitalize()}\n" in page
        assert f"images/gallery/{name}.png" in page
        assert f"../examples/gallery/{name}.py" in page


@pytest.mark.parametrize("name", [name for name in GALLERY if name != "leakage"])
def test_gallery_pictures_are_of_the_shipped_bundle(name: str, shipped: Bundle) -> None:
    path = ROOT / "docs" / "images" / "gallery" / f"{name}.png"
    with Image.open(path) as image:
        assert image.info.get("Source") == shipped.sha256, "run: make refresh"
    assert path.stat().st_size < MAX_BYTES


def test_the_robustness_that_is_shown_is_of_the_shipped_bundle(shipped: Bundle) -> None:
    robustness = Robustness.model_validate_json((ROOT / "docs" / "reports" / "robustness.json").read_bytes())
    measured = (robustness.model_sha256, robustness.decision_sha256, robustness.novelty_sha256)
    files = ("model.onnx", "decision.json", "novelty.safetensors")
    assert measured == tuple(shipped.sums[name] for name in files), "run: make robustness CELLS=cells.csv"
    with Image.open(ROOT / "docs" / "images" / "robustness.png") as image:
        assert image.info["Source"].endswith(f"cells {robustness.cells_sha256[:12]}")
        assert robustness.model_sha256[:12] in image.info["Source"]


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERY)
def test_a_gallery_script_draws_its_picture(name: str, tmp_path: Path) -> None:
    picture = tmp_path / f"{name}.png"
    small = [SMALL[name]] if name in SMALL else []
    answer = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "gallery" / f"{name}.py", picture, *small],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    with (
        Image.open(picture) as drawn,
        Image.open(ROOT / "docs" / "images" / "gallery" / picture.name) as kept,
    ):
        assert drawn.width == kept.width
        assert np.asarray(drawn.convert("L")).std() > 5


@pytest.mark.slow
def test_the_readme_picture_is_of_the_shipped_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    listed = re.search(r"^PICTURED := \$\(addprefix cells/,([^)]*)\) (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    names = [*(f"cells/{name}" for name in listed[1].split()), *listed[2].split()]
    monkeypatch.chdir(ROOT / "src" / "leukoscope" / "assets")
    sheet = tmp_path / "sheet.png"
    CliRunner().invoke(app, ["predict", *names, "--sheet", str(sheet), "--quiet"])
    with Image.open(sheet) as drawn, Image.open(ROOT / "docs" / "images" / "contact_sheet.png") as kept:
        difference = np.abs(np.asarray(drawn, int) - np.asarray(kept, int)).max(axis=2)
    assert (difference > 48).mean() < 1e-3, "the picture shows another model's answers; run: make refresh"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(package, reason='needs pip install -e ".[docs]"')
    command = ["-m", "sphinx", "-c", "docs", "-b", "html", "-W", "--keep-going", "-q", "."]
    answer = subprocess.run(
        [sys.executable, *command, tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    first = (tmp_path / "site" / "README.html").read_text(encoding="utf-8")
    for name in NOTEBOOKS:
        assert f'href="examples/notebooks/{name}.html"' in first
    assert 'href="docs/gallery.html"' in first
    loaded = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:css|js|woff2?|png))"', first)
    assert loaded == [], "the site loads something from elsewhere"
