import re
from pathlib import Path

import pytest

from leukoscope.core.errors import UsageError
from leukoscope_tools.benchmark.records import (
    PERFORMANCE_BLOCKS,
    Machine,
    Measured,
    MemorySample,
    ModelFacts,
    Performance,
    Stop,
    StreamReport,
    derive_targets,
    read_performance,
    render_backends,
    render_stream,
    write_record,
)
from leukoscope_tools.documents.publish import find_stale, publish

MACHINE = Machine(
    created="2026-01-01T00:00:00+00:00",
    command="python -m leukoscope_tools benchmark predict",
    processor="P",
    cores=2,
    threads=2,
    system="S",
    versions={"openvino": "1"},
    others_share=0.02,
)
MODEL = ModelFacts(
    name="m", version="1", sha256="ab" * 32, architecture="efficientnet_b3", input_px=224,
    parameters=10_700_000, flops=1_900_000_000, size_mb=21.6,
)  # fmt: skip


def row(name: str, *ms: float, memory: float = 100.0) -> Measured:
    return Measured(name=name, title=name, rounds_ms=ms, throughput=True, peak_memory_mb=memory)


ROWS = (
    row("engine_single", 20, 40, 20),  # the second round ran on a slower machine
    row("engine_without_map", 20, 40, 20).model_copy(update={"map_ratio": 1.02}),
    row("engine_streams", 10, 20, 10),
    row("predict_single", 25, 50, 25),
    row("predict_stream", 12.5, 40, 12.5),
    row("torch_grad_cam", 250, 600, 250),
    row("shell_cold", 1100, 1100, 1100, memory=340),
    row("shell_warm", 900, 900, 900),
)


def performance(*rows: Measured, install_mb: float = 450) -> Performance:
    return Performance(
        machine=MACHINE, model=MODEL, cells=3, rounds=3, light_install_mb=install_mb, rows=rows,
        left_out={"keras_grad_cam": "not installed"},
    )  # fmt: skip


def test_targets_are_ratios_within_a_round() -> None:
    found = [(target.value, target.reached) for target in derive_targets(performance(*ROWS))]
    for expected in (
        (pytest.approx(0.8), False),  # streaming, of the best engine row's throughput
        (pytest.approx(2), True),  # what the map adds, in percent
        (pytest.approx(10), True),  # torch with Grad-CAM, times one prediction
        (1.1, True),  # from the shell, cold
        (0.9, False),  # from the shell, warm
        (340, True),  # peak memory
        (450, False),  # light install
    ):
        assert expected in found, (expected, found)


def test_targets_without_measurements_are_left_out() -> None:
    assert [target.value for target in derive_targets(performance())] == [450]  # the installation alone


def test_the_table_has_every_backend_and_names_skipped_ones() -> None:
    text = render_backends(performance(*ROWS))
    assert [line.split(" | ")[0] for line in text.splitlines()[2:10]] == [f"| {entry.name}" for entry in ROWS]
    assert len({line.count("|") for line in text.splitlines()[:10]}) == 1
    assert "keras_grad_cam, not installed" in text


@pytest.mark.parametrize("what", sorted(PERFORMANCE_BLOCKS))
def test_a_page_is_rendered_from_the_file_and_a_changed_figure_is_found(tmp_path: Path, what: str) -> None:
    write_record(performance(*ROWS), tmp_path / "performance.json")
    assert read_performance(tmp_path / "performance.json") == performance(*ROWS)
    page = tmp_path / "performance.md"
    page.write_text(f"<!-- leukoscope: {what} performance=performance.json -->\n<!-- /leukoscope -->\n")
    assert publish(page)
    assert find_stale(page) == []
    digits = [place for place, letter in enumerate(page.read_text()) if letter in "12345"]
    text = page.read_text()
    page.write_text(text[: digits[-1]] + "9" + text[digits[-1] + 1 :])
    assert [stale.what for stale in find_stale(page)] == [what]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "performance.json"
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"performance\.json"):
        read_performance(path)
    with pytest.raises(UsageError, match=r"missing\.json"):
        read_performance(tmp_path / "missing.json")


def test_a_stream_reports_memory_by_tenths_and_lost_rows() -> None:
    samples = tuple(MemorySample(rows=number, resident_mb=200 + number / 10) for number in range(1, 101))
    report = StreamReport(
        machine=MACHINE, model=MODEL, rows=100, cells=7, samples=samples, stops=(Stop(rows=50, signal="SIGKILL"),),
        misplaced_rows=0, differing_answers=3,
    )  # fmt: skip
    assert report.memory_parts()[0] == pytest.approx(200.55)
    assert report.memory_growth_mb() == pytest.approx(8.0)
    text = render_stream(report)
    assert re.search(r"SIGKILL\b.*\b50\b", text)
    assert re.search(r"\b3\b", text)


def test_tenths_without_a_sample_repeat_the_one_before() -> None:
    report = StreamReport(
        machine=MACHINE, model=MODEL, rows=100, cells=7, samples=(MemorySample(rows=5, resident_mb=210),), stops=(),
        misplaced_rows=0, differing_answers=0,
    )  # fmt: skip
    assert report.memory_parts() == [210] * 10
