"""A bundle that was altered, damaged or made to harm is refused, and says why."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from leukoscope.core.classes import BINARY
from leukoscope.core.errors import BundleError
from leukoscope.models.bundle import Bundle, verify_bundle
from leukoscope.models.files import LIMITS, SUMS, hash_bytes, render_sums
from small_bundle import make_onnx


@pytest.fixture
def bundle(small_bundle_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_bundle_path, tmp_path / "bundle"))


def files_of(bundle: Path) -> list[str]:
    return sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())


def sign(bundle: Path) -> None:
    """Write SHA256SUMS again, as an attacker would who can change every file."""
    names = [name for name in files_of(bundle) if name != SUMS]
    (bundle / SUMS).write_text(
        render_sums({name: hash_bytes((bundle / name).read_bytes()) for name in names})
    )


def refused(bundle: Path, words: str | None = None) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)
    checks = verify_bundle(bundle)
    assert not checks[-1].passed


def test_the_untouched_copy_opens(bundle: Path) -> None:
    assert Bundle.open(bundle).manifest.name == "small-test"
    assert all(check.passed for check in verify_bundle(bundle))


def test_one_flipped_bit_in_any_file_is_found(bundle: Path) -> None:
    rng = np.random.default_rng(0)
    for name in files_of(bundle):
        path = bundle / name
        content = bytearray(path.read_bytes())
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        original = path.read_bytes()
        path.write_bytes(content)
        refused(bundle)
        path.write_bytes(original)
    Bundle.open(bundle)


def test_one_byte_more_or_less_in_any_file_is_found(bundle: Path) -> None:
    for name in files_of(bundle):
        path = bundle / name
        original = path.read_bytes()
        for content in (original + b"x", original[:-1]):
            path.write_bytes(content)
            if name == SUMS and content == original[:-1]:
                continue  # only its last line end is gone: every hash still stands there
            refused(bundle)
        path.write_bytes(original)


def test_every_missing_file_is_named(bundle: Path) -> None:
    for name in files_of(bundle):
        path = bundle / name
        original = path.read_bytes()
        path.unlink()
        refused(bundle, name)
        path.write_bytes(original)


@pytest.mark.parametrize(
    "name",
    [
        "model.pkl",
        "run.py",
        "weights.pt",
        "custom_op.so",
        ".hidden",
        "sample/evil.sh",
        "sample/.png",
        "model.onnx.data",
    ],
)
def test_a_file_that_does_not_belong_is_refused_even_when_it_is_listed(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"x")
    sign(bundle)
    refused(bundle, re.escape(name))


def test_a_folder_that_does_not_belong_is_refused(bundle: Path) -> None:
    (bundle / "__pycache__").mkdir()
    refused(bundle, "__pycache__")


def test_links_are_refused(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copy(bundle / "LICENSE", outside)
    (bundle / "LICENSE").unlink()
    (bundle / "LICENSE").symlink_to(outside)
    refused(bundle, "LICENSE")


def test_a_linked_sample_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "sample").rename(tmp_path / "elsewhere")
    (bundle / "sample").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    refused(bundle, "sample")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_without_waiting(bundle: Path) -> None:
    (bundle / "LICENSE").unlink()
    os.mkfifo(bundle / "LICENSE")
    refused(bundle, "LICENSE")


@pytest.mark.parametrize("name", ["manifest.json", "LICENSE", "sample/expected.json", "novelty.safetensors"])
def test_sizes_are_bounded_before_reading(bundle: Path, name: str) -> None:
    with (bundle / name).open("r+b") as file:
        file.truncate(LIMITS[name] + 1)  # sparse: takes no space
    refused(bundle, rf"{LIMITS[name] + 1:,}.*{LIMITS[name]:,}")


@pytest.mark.parametrize(
    "line",
    ["0" * 64 + "  ../outside", "0" * 64 + "  /etc/passwd", "nonsense", "0" * 64 + " model.onnx", "\x00\xff"],
)
def test_hash_lists_that_point_elsewhere_are_refused(bundle: Path, line: str) -> None:
    path = bundle / SUMS
    path.write_text(path.read_text() + line + "\n", encoding="latin-1")
    refused(bundle)


def test_a_hash_listed_twice_is_refused(bundle: Path) -> None:
    path = bundle / SUMS
    path.write_text(path.read_text() * 2)
    refused(bundle, SUMS)


Edit = Callable[[dict], None]
THIRD = BINARY.classes[1].model_dump() | {"name": "monocyte"}


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("manifest.json", lambda m: m.update(schema_version=3), "schema_version"),
        ("manifest.json", lambda m: m.update(startup_script="x.py"), "startup_script"),
        ("manifest.json", lambda m: m.pop("licenses"), "licenses"),
        ("manifest.json", lambda m: m.update(input_px=128), "input_px"),
        ("manifest.json", lambda m: m.update(classes=["blast", "normal"]), "classes"),
        ("manifest.json", lambda m: m["classes"]["classes"].append(dict(THIRD)), "K = 3"),
        ("manifest.json", lambda m: m["classes"]["classes"][1].update(name="normal"), "more than once"),
        ("manifest.json", lambda m: m.update(task="diagnosis"), "task"),
        ("manifest.json", lambda m: m["domain"].update(microns_per_pixel=0), "microns_per_pixel"),
        ("decision.json", lambda m: m["conformal"]["classes"].pop("blast"), "fitted for the classes"),
        ("decision.json", lambda m: m.update(bias={"monocyte": 1.0}), "fitted for the classes"),
        ("manifest.json", lambda m: m["outputs"][1].update(shape=["N", 13]), "model.onnx has"),
        ("manifest.json", lambda m: m["outputs"].reverse(), "graph of"),
        ("manifest.json", lambda m: m.update(flops=float("nan")), "manifest.json"),
        ("manifest.json", lambda m: m.update(name="../../x"), "name"),
        ("decision.json", lambda m: m.update(schema_version=9), "schema_version.*9"),
        ("decision.json", lambda m: m.update(temperature=0), "temperature"),
        ("decision.json", lambda m: m.update(default_operating_point="none"), "default_operating_point"),
    ],
)
def test_wrong_content_is_refused_even_with_right_hashes(
    bundle: Path, name: str, edit: Edit, words: str
) -> None:
    content = json.loads((bundle / name).read_text())
    edit(content)
    (bundle / name).write_text(json.dumps(content))
    sign(bundle)
    refused(bundle, words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000])
def test_manifests_that_are_no_json_object_are_refused(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    sign(bundle)
    refused(bundle, "manifest.json")


def test_a_pickle_in_place_of_safetensors_is_not_run(bundle: Path, tmp_path: Path) -> None:
    import pickle

    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.write_text, (tmp_path / "harm", "done"))

    (bundle / "novelty.safetensors").write_bytes(pickle.dumps(Harm()))
    sign(bundle)
    refused(bundle, "safetensors")
    assert not (tmp_path / "harm").exists()


def test_novelty_of_another_width_is_refused(bundle: Path) -> None:
    from leukoscope.decision.novelty import NoveltyModel

    other = NoveltyModel.fit(np.random.default_rng(0).normal(size=(40, 13)))
    save_file(dict(other.to_tensors()), bundle / "novelty.safetensors")
    sign(bundle)
    refused(bundle, r"\b13\b.*\b12\b")


def test_a_model_with_outside_weights_is_refused_before_any_engine_opens_it(
    bundle: Path, tmp_path: Path
) -> None:
    onnx.save_model(make_onnx(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    shutil.copy(tmp_path / "m.onnx", bundle / "model.onnx")
    sign(bundle)
    refused(bundle, r"model\.onnx")


def test_an_edited_card_is_found(bundle: Path) -> None:
    card = bundle / "MODEL_CARD.md"
    card.write_text(card.read_text() + "\nIt reaches 99 % accuracy.\n")
    sign(bundle)
    checks = {check.name: check for check in verify_bundle(bundle)}
    assert not checks["card"].passed


def test_a_swapped_sample_cell_list_is_found(bundle: Path) -> None:
    path = bundle / "sample" / "expected.json"
    content = json.loads(path.read_text())
    content["cells"].pop()
    path.write_text(json.dumps(content))
    sign(bundle)
    checks = {check.name: check for check in verify_bundle(bundle)}
    assert not checks["sample"].passed


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_path_that_is_not_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=name):
        Bundle.open(tmp_path / name)
