"""The finder's bundle: its content, what is refused, and that changes are detected."""

import json
import shutil
from pathlib import Path

import onnx
import pytest

import leukoscope
from leukoscope.assets import default_bundle_path, finder_bundle_path
from leukoscope.core.errors import BundleError, UsageError
from leukoscope.inference.predictor import Predictor
from leukoscope.models.bundle import Bundle, open_bundle, verify_bundle
from leukoscope.models.files import SUMS, hash_bytes, render_sums
from leukoscope.models.finder_bundle import FinderBundle, write_finder_bundle
from leukoscope.models.registry import resolve_model
from leukoscope.smear.finder_network import load_finder

FILES = {"model.onnx", "manifest.json", "MODEL_CARD.md", "LICENSE", "DATA_LICENSE", "report.json", SUMS}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(finder_bundle_path(), tmp_path / "mine"))


def sign(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name != SUMS)
    (folder / SUMS).write_text(
        render_sums({name: hash_bytes((folder / name).read_bytes()) for name in names})
    )


def test_the_shipped_finder_is_complete_and_evaluated() -> None:
    assert {path.name for path in finder_bundle_path().iterdir()} == FILES
    assert all(check.passed for check in verify_bundle(finder_bundle_path()))
    bundle = FinderBundle.open(finder_bundle_path())
    graph = onnx.load(bundle.model_path).graph
    stored = sum(
        onnx.numpy_helper.to_array(tensor).size for tensor in graph.initializer if tensor.data_type in (1, 10)
    )
    assert bundle.manifest.parameters == stored
    assert bundle.report is not None
    finders = {row.finder for row in bundle.report.rows}
    assert finders == {"network", "classical", "scikit-image"}


def test_every_model_is_listed_by_its_task(monkeypatch: pytest.MonkeyPatch, copy: Path) -> None:
    monkeypatch.setenv("LEUKOSCOPE_MODELS", str(copy.parent))
    assert leukoscope.list_models() == ["cnmc", "leukoscope-kinds", "finder", "mine"]
    assert leukoscope.list_models("finder") == ["finder", "mine"]
    assert leukoscope.list_models("cell") == ["cnmc"]
    assert load_finder("mine").name == load_finder(copy).name == load_finder().name
    assert resolve_model(Path("finder")) == finder_bundle_path()


def test_a_bundle_of_another_task_is_refused(small_bundle_path: Path) -> None:
    for place in (small_bundle_path, default_bundle_path()):
        assert isinstance(open_bundle(place), Bundle)
        with pytest.raises(BundleError, match="task cell"):
            load_finder(place)
    with pytest.raises(BundleError, match="smear --finder"):
        Predictor.open("finder")
    with pytest.raises(UsageError, match="finder"):
        load_finder("best")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_byte_is_detected(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError):
        FinderBundle.open(copy)
    assert not all(check.passed for check in verify_bundle(copy))


def test_a_file_of_another_task_is_refused(copy: Path) -> None:
    shutil.copy(default_bundle_path() / "decision.json", copy)
    sign(copy)
    with pytest.raises(BundleError, match=r"decision\.json"):
        FinderBundle.open(copy)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("maps", ["cell", "nucleus"], "maps"),
        ("microns_per_pixel", 0.5, r"0\.5"),
        ("center_threshold", 1.5, "center_threshold"),
        ("classes", ["normal", "blast"], "classes"),
        ("task", "kinds", "missing"),
        ("task", "ensemble", "missing"),
        ("divisor_px", 0, "divisor_px"),
    ],
)
def test_an_unsupported_manifest_is_refused(copy: Path, field: str, value: object, words: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest[field] = value
    (copy / "manifest.json").write_text(json.dumps(manifest))
    sign(copy)
    with pytest.raises(BundleError, match=words):
        open_bundle(copy)


def test_a_card_that_differs_from_the_report_is_detected(copy: Path) -> None:
    card = (copy / "MODEL_CARD.md").read_text()
    (copy / "MODEL_CARD.md").write_text(card.replace("0.9", "1.0"))
    sign(copy)
    failed = [check.name for check in verify_bundle(copy) if not check.passed]
    assert failed == ["card"]


def test_only_a_bundle_is_replaced(copy: Path, tmp_path: Path) -> None:
    bundle = FinderBundle.open(finder_bundle_path())
    parts = {
        "model_path": bundle.model_path,
        "manifest": bundle.manifest,
        "report": None,
        "license_text": "Apache-2.0\n",
        "data_license": "MIT\n",
    }
    written = write_finder_bundle(copy, **parts)  # type: ignore[arg-type]
    assert written.report is None and "report.json" not in written.sums
    assert "not been evaluated" in written.read("MODEL_CARD.md").decode()
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "text.tex").write_text("years of work")
    with pytest.raises(BundleError, match="thesis"):
        write_finder_bundle(thesis, **parts)  # type: ignore[arg-type]
    assert (thesis / "text.tex").read_text() == "years of work"
