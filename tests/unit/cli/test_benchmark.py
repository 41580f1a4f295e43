import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leukoscope.cli.benchmark_contestants import CONTESTANTS as RUNNABLE
from leukoscope.cli.benchmark_report import (
    BEGIN,
    END,
    BenchmarkReport,
    Measured,
    derive_targets,
    render_table,
    replace_table,
)
from leukoscope.cli.benchmarking import CONTESTANTS, light_install_mb
from leukoscope.cli.main import app
from leukoscope.errors import UsageError


def row(name: str, ms: float, memory: float = 100.0) -> Measured:
    return Measured(name=name, title=name, median_ms=ms, cells_per_second=1e3 / ms, peak_memory_mb=memory)


ROWS = {
    entry.name: entry
    for entry in (
        row("engine_single", 20.4),
        row("engine_without_map", 20),
        row("engine_streams", 10),
        row("predict_single", 25),
        row("predict_stream", 12.5),
        row("torch_grad_cam", 250),
        row("shell_cold", 1100, 340),
        row("shell_warm", 900),
    )
}


def make_report() -> BenchmarkReport:
    return BenchmarkReport(
        created="2026-01-01T00:00:00+00:00",
        command="leukoscope benchmark predict",
        machine={"processor": "P", "cores": 2},
        versions={"openvino": "1"},
        model={"name": "m"},
        cells=3,
        repetitions=2,
        threads=2,
        rows=tuple(ROWS.values()),
        left_out={"keras_grad_cam": "not installed"},
        targets=derive_targets(ROWS, 300),
        stream_memory_mb=(200, 201, 200, 201),
        stream_rows=1000,
    )


def test_targets_are_the_ratios_of_what_was_measured() -> None:
    targets = {target.name.split()[0]: target for target in derive_targets(ROWS, 450)}
    assert targets["streaming"].value == pytest.approx(0.8)  # 80 cells a second by the best engine row's 100
    assert not targets["streaming"].reached
    assert targets["what"].value == pytest.approx(2)
    assert targets["what"].reached
    assert targets["torch"].value == pytest.approx(10)
    assert targets["peak"].value == 340
    shell = [target for target in derive_targets(ROWS, 450) if target.name.startswith("predict from")]
    assert [(target.value, target.reached) for target in shell] == [(1.1, True), (0.9, False)]
    assert not targets["light"].reached


def test_targets_that_nobody_measured_are_left_out() -> None:
    assert [target.name for target in derive_targets({}, 300)] == ["light install on disk"]


def test_the_table_goes_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{BEGIN}\nstale figures\n{END}\nafter\n")
    replace_table(page, make_report())
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale figures" not in text
    assert render_table(make_report()) in text
    replace_table(page, make_report())
    assert page.read_text() == text


@pytest.mark.parametrize("content", ["no marks", f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_one_pair_of_marks_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    page = tmp_path / "performance.md"
    page.write_text(content)
    with pytest.raises(UsageError, match="once each"):
        replace_table(page, make_report())
    assert page.read_text() == content


def test_every_contestant_can_be_run() -> None:
    assert set(CONTESTANTS) - {"keras_grad_cam"} == set(RUNNABLE) - {"stream_memory"}


def test_light_install_counts_the_engine() -> None:
    assert 100 < light_install_mb() < 1000


@pytest.mark.slow
def test_a_quick_run_measures_and_writes(small_bundle_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "benchmark.json"
    names = ("engine_without_map", "predict_stream", "shell_warm")
    only = [word for name in names for word in ("--only", name)]
    words = ["benchmark", "predict", "--quick", "--bundle", str(small_bundle_path), "--stream-rows", "40"]
    result = CliRunner().invoke(app, [*words, *only, "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = BenchmarkReport.model_validate(json.loads(out.read_text()))
    assert [entry.name for entry in report.rows] == list(names), report.left_out
    assert all(entry.median_ms > 0 for entry in report.rows)
    assert len(report.stream_memory_mb) == 4
    assert {target.name for target in report.targets} >= {"peak resident memory", "light install on disk"}
    wrong = CliRunner().invoke(app, [*words, "--only", "abacus"])
    assert wrong.exit_code == 2
