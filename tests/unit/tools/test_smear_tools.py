"""The tools that measure finders: matching of boxes, intervals, and what they render."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from leukoscope.models.finder_card import finder_table, scale_table
from leukoscope.models.finder_manifest import FinderReport
from leukoscope.smear.records import CellRecord, FieldRecord

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "docs" / "reports" / "smear-fields.json"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location(
        "smear_fields_tool", ROOT / "tools" / "smear_fields.py"
    )
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def record(*boxes: tuple[int, int, int, int], border: bool = False) -> FieldRecord:
    cells = [
        CellRecord(cell=i + 1, box=box, outline=(), nucleus_outline=(), score=1, touches_border=border)
        for i, box in enumerate(boxes)
    ]
    return FieldRecord(image="a", cells=tuple(cells))


def count(tool: ModuleType, found: FieldRecord, known: list[tuple[float, ...]]) -> dict[str, int]:
    counts = dict.fromkeys(("annotated", "found", "hit", "boxes_with_center", "cells_in_box"), 0)
    tool._count(counts, found, known, (200, 200))
    return counts


def test_each_box_counts_once_and_border_boxes_are_ignored(tool: ModuleType) -> None:
    box = (20, 20, 60, 60)
    twice = count(tool, record(box, (22, 22, 62, 62)), [box])
    assert twice == {"annotated": 1, "found": 2, "hit": 1, "boxes_with_center": 1, "cells_in_box": 2}
    half = count(tool, record((20, 20, 60, 38)), [box])
    assert (half["hit"], half["boxes_with_center"]) == (0, 1)
    edge = count(tool, record((0, 20, 40, 60)), [(0, 20, 40, 60)])
    assert set(edge.values()) == {0}
    assert count(tool, record(box, border=True), [])["found"] == 0


def test_intervals_contain_the_value(tool: ModuleType) -> None:
    share = tool._share(9, 10)
    assert share.low == pytest.approx(0.596, abs=1e-3) and share.high == pytest.approx(0.982, abs=1e-3)
    assert tool._share(0, 0).value is None
    spread = tool._resampled(list(np.linspace(0, 1, 101)), "image", np.median)
    assert spread.value == 0.5 and 0.3 < spread.low < 0.5 < spread.high < 0.7


def test_the_published_report_renders_every_row() -> None:
    report = FinderReport.from_json(REPORT.read_bytes())
    table = finder_table(report).splitlines()
    assert len(table) == 2 + len(report.rows) and all(row.count("|") == table[0].count("|") for row in table)
    assert len(scale_table(report).splitlines()) == 2 + len(report.scale)
    assert {row.factor for row in report.scale} == {0.5, 0.7, 1.0, 1.4, 2.0}
    assert {row.fields.partition(" ")[0] for row in report.scale} == {"Munich", "PBC", "BCCD", "Chula"}


def test_the_median_scale_of_resized_images_is_right() -> None:
    for row in FinderReport.from_json(REPORT.read_bytes()).scale:
        assert row.ratio.value is not None and 0.95 <= row.ratio.value <= 1.05
