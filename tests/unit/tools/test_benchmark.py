import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from leukoscope_tools.__main__ import app
from leukoscope_tools.benchmark.backends import BACKENDS as RUNNABLE
from leukoscope_tools.benchmark.backends import Job
from leukoscope_tools.benchmark.machine import MachineWatch, resident_mb
from leukoscope_tools.benchmark.records import derive_targets, read_performance, read_stream
from leukoscope_tools.benchmark.run import BACKENDS, light_install_mb


def test_every_backend_can_be_run() -> None:
    assert set(BACKENDS) - {"keras_grad_cam"} == set(RUNNABLE)


@pytest.mark.parametrize("name", ["torch_eager", "torch_grad_cam"])
def test_torch_backends_follow_the_network(name: str, tmp_path: Path) -> None:
    cells = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "prepared.npy", cells)
    threads = torch.get_num_threads()
    try:
        backend = RUNNABLE[name](Job("", [], str(tmp_path / "prepared.npy"), 1, "resnet10t", 64))
        assert [entry.wall_ms > 0 for entry in backend.predict(range(2))] == [True, True]
    finally:
        torch.set_num_threads(threads)


def test_light_install_counts_the_engine() -> None:
    assert 100 < light_install_mb() < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")
def test_memory_of_a_process_that_is_gone() -> None:
    with pytest.raises(ProcessLookupError):
        resident_mb(2**22 + 1)  # above the largest process id of Linux


def test_the_machine_record_contains_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["leukoscope_tools/__main__.py", "benchmark", "predict", "a b.bmp"])
    machine = MachineWatch().machine(threads=2)
    assert machine.command == "python -m leukoscope_tools benchmark predict 'a b.bmp'"
    assert machine.others_share is None or 0 <= machine.others_share <= 1


def test_a_benchmark_without_a_backend_or_with_a_broken_image_fails(
    small_bundle_path: Path, tmp_path: Path
) -> None:
    def run(*words: str) -> tuple[int, str]:
        common = ["benchmark", "predict", "--quick", "--bundle", str(small_bundle_path)]
        result = CliRunner().invoke(app, [*common, *words])
        return result.exit_code, result.stderr

    code, text = run("--only", "keras_grad_cam")
    assert code == 1
    assert "--keras-python" in text
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    code, text = run(str(broken), "--only", "keras_grad_cam")
    assert code == 2
    assert str(broken) in text
    assert run("--threads", "0")[0] == run("--threads", "-1")[0] == 2


@pytest.mark.slow
def test_a_quick_run_measures_and_writes(small_bundle_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "performance.json"
    names = ("engine_without_map", "predict_single", "predict_stream", "shell_warm")
    only = [word for name in names for word in ("--only", name)]
    words = ["benchmark", "predict", "--quick", "--bundle", str(small_bundle_path)]
    result = CliRunner().invoke(app, [*words, *only, "--out", str(out)])
    assert result.exit_code == 0, result.output
    measured = read_performance(out)
    assert [entry.name for entry in measured.rows] == list(names), measured.left_out
    assert all(len(entry.rounds_ms) == 2 and entry.median_ms > 0 for entry in measured.rows)
    rows = {entry.name: entry for entry in measured.rows}
    assert rows["predict_stream"].start_s > 0
    assert rows["predict_single"].p50_ms <= rows["predict_single"].p95_ms
    assert {target.name for target in derive_targets(measured)} == {
        "what the map adds to a forward pass",
        "predict from the shell, a warm model cache",
        "peak resident memory",
        "light install on disk",
    }


def test_an_unknown_backend_is_wrong_usage() -> None:
    assert CliRunner().invoke(app, ["benchmark", "predict", "--only", "abacus"]).exit_code == 2


def test_a_backend_that_cannot_run_is_left_out_with_its_reason(small_bundle_path: Path) -> None:
    words = [
        "benchmark",
        "predict",
        "--quick",
        "--bundle",
        str(small_bundle_path),
        "--only",
        "keras_grad_cam",
    ]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert "--keras-python" in json.loads(result.stdout)["left_out"]["keras_grad_cam"]
    result = CliRunner().invoke(app, [*words, "--json", "--keras-python", sys.executable])
    assert "tensorflow" in json.loads(result.stdout)["left_out"]["keras_grad_cam"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched through /proc")
def test_a_stream_survives_being_interrupted_and_killed(small_bundle_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "stream.json"
    words = ["benchmark", "stream", "--rows", "2000", "--every", "0.05", "--bundle", str(small_bundle_path)]
    result = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = read_stream(out)
    assert (report.misplaced_rows, report.differing_answers) == (0, 0)
    assert [stop.signal for stop in report.stops] == ["SIGINT", "SIGKILL"]
    assert 100 <= report.stops[0].rows < report.stops[1].rows < 2000
    assert report.samples
