import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from leukoscope.core.errors import EngineError, UsageError
from leukoscope.models.session import CACHED_MODELS, Session, default_cache_directory
from small_bundle import FEATURES, GRID, SIDE, Weights, forward_by_hand, make_onnx

CELLS = np.random.default_rng(3).integers(0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model() -> bytes:
    return make_onnx().SerializeToString()


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("count", [1, 7])
def test_session_agrees_with_the_network_computed_by_hand(
    model: bytes, engine: str, streaming: bool, count: int
) -> None:
    session = Session(model, engine=engine, threads=2, streaming=streaming)
    forward = session.run(CELLS[:count])
    logits, embedding, maps = forward_by_hand(Weights.draw(), CELLS[:count])
    assert forward.activation_map.shape == (count, 1, GRID, GRID)
    assert forward.embedding.shape == (count, FEATURES)
    for have, wanted in zip(forward, (logits, embedding, maps), strict=True):
        assert have.dtype == np.float32
        np.testing.assert_allclose(have, wanted, rtol=2e-5, atol=1e-6)


def test_a_cells_numbers_do_not_depend_on_its_batch(model: bytes) -> None:
    session = Session(model, threads=2, streaming=True)
    together = session.run(CELLS)
    for index in range(len(CELLS)):
        alone = session.run(CELLS[index : index + 1])
        for have, wanted in zip(alone, together, strict=True):
            assert np.array_equal(have[0], wanted[index])


def test_many_threads_share_one_session(model: bytes) -> None:
    session = Session(model, threads=2)
    wanted = forward_by_hand(Weights.draw(), CELLS)[0]

    def predict(turn: int) -> bool:
        index = turn % len(CELLS)
        if turn % 3:
            have = session.run(CELLS[index : index + 1]).logits[0]
            return bool(np.allclose(have, wanted[index], rtol=2e-5, atol=1e-6))
        return bool(np.allclose(session.run(CELLS).logits, wanted, rtol=2e-5, atol=1e-6))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(predict, range(60)))


def test_started_passes_can_be_abandoned(model: bytes) -> None:
    session = Session(model, threads=1)
    for _ in range(20):
        session.start(CELLS[:1])
    assert np.isfinite(session.run(CELLS[:2]).logits).all()


@pytest.mark.parametrize(
    "cells",
    [
        CELLS.astype(np.float32),
        CELLS[:, :32],
        CELLS[0],
        CELLS[:0],
        np.zeros((1, SIDE, SIDE, 4), np.uint8),
    ],
)
def test_wrong_cells_are_refused_before_the_engine_sees_them(model: bytes, cells: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"\(N, 64, 64, 3\)"):
        Session(model).run(cells)


def test_views_that_are_not_contiguous_are_accepted(model: bytes) -> None:
    session = Session(model)
    turned = CELLS.transpose(0, 2, 1, 3)
    assert np.array_equal(session.run(turned).logits, session.run(np.ascontiguousarray(turned)).logits)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "tensorrt"}, "tensorrt.*openvino"),
        ({"precision": "int8"}, "int8.*f32"),
        ({"threads": 0}, "0.*1"),
        ({"engine": "onnxruntime", "precision": "bf16"}, None),
    ],
)
def test_wrong_settings_say_what_is_possible(model: bytes, settings: dict, words: str | None) -> None:
    with pytest.raises(UsageError, match=words):
        Session(model, **settings)


def test_bf16_runs_or_is_refused_by_what_the_processor_has(model: bytes) -> None:
    try:
        session = Session(model, precision="bf16")
    except EngineError as error:
        assert "bf16" in str(error) or "bfloat16" in str(error)
    else:
        wanted = forward_by_hand(Weights.draw(), CELLS)[0]
        np.testing.assert_allclose(session.run(CELLS).logits, wanted, atol=0.1)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_invalid_models_are_refused_with_one_line(engine: str) -> None:
    with pytest.raises(EngineError) as caught:
        Session(b"this is no model", engine=engine)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_graph_with_other_outputs_is_refused(engine: str) -> None:
    model = make_onnx()
    del model.graph.output[2]
    del model.graph.node[-2:]
    onnx.checker.check_model(model)
    with pytest.raises(EngineError, match="activation_map"):
        Session(model.SerializeToString(), engine=engine)


def test_cache_makes_files_and_survives_damage(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    cache = tmp_path / "cache"
    wanted = Session(path, cache_directory=cache).run(CELLS[:1])
    blobs = list(cache.iterdir())
    assert blobs
    for blob in blobs:
        blob.chmod(0o644)
        blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2])
    again = Session(path, cache_directory=cache).run(CELLS[:1])
    assert np.array_equal(wanted.logits, again.logits)


def test_the_cache_keeps_the_newest_models_only(tmp_path: Path, model: bytes) -> None:
    for age in range(20):
        blob = tmp_path / f"{age}.blob"
        blob.write_bytes(b"old")
        os.utime(blob, (1e9 - age, 1e9 - age))
    (tmp_path / "else.txt").touch()
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    Session(path, cache_directory=tmp_path)
    kept = {path.name for path in tmp_path.glob("?.blob")}
    assert kept == {f"{age}.blob" for age in range(CACHED_MODELS)}
    assert (tmp_path / "else.txt").exists()
    before = sorted(tmp_path.iterdir())
    Session(model, cache_directory=tmp_path)  # from memory: perhaps never seen again
    assert sorted(tmp_path.iterdir()) == before


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, model: bytes) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    session = Session(path, cache_directory=blocked / "cache")
    assert np.isfinite(session.run(CELLS[:1]).logits).all()


def test_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEUKOSCOPE_CACHE", str(tmp_path))
    assert default_cache_directory() == tmp_path
    monkeypatch.setenv("LEUKOSCOPE_CACHE", "off")
    assert default_cache_directory() is None
    monkeypatch.delenv("LEUKOSCOPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_directory() == tmp_path / "xdg" / "leukoscope"


def test_loading_openvino_loads_neither_its_converter_nor_its_telemetry(tmp_path: Path, model: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    code = (
        "import sys\nfrom pathlib import Path\nfrom leukoscope.models.session import Session\n"
        f"Session(Path({str(path)!r}))\n"
        "assert 'openvino' in sys.modules\n"
        "print(sorted(m for m in sys.modules if 'telemetry' in m or m.startswith('openvino.tools.ovc')))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
