"""No document of the repository shows a number that its report does not."""

from pathlib import Path

import pytest

from leukoscope_tools.documents.publish import find_stale, has_blocks

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md")
    for path in ROOT.glob(pattern)
    if has_blocks(path.read_text(encoding="utf-8"))
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_agree_with_their_reports(path: Path) -> None:
    assert find_stale(path) == []


def test_a_stale_number_is_found(evaluated, tmp_path: Path) -> None:
    from leukoscope.models.report import write_report
    from leukoscope_tools.documents.publish import publish

    write_report(evaluated.report, tmp_path / "report.json")
    page = tmp_path / "README.md"
    page.write_text("<!-- leukoscope: results report=report.json -->\n<!-- /leukoscope -->\n")
    publish(page)
    cell = evaluated.report.pooled.cell
    worse = cell.measures["roc_auc"].model_copy(update={"value": cell.measures["roc_auc"].value - 0.001})
    changed = evaluated.report.pooled.model_copy(
        update={"cell": cell.model_copy(update={"measures": {**cell.measures, "roc_auc": worse}})}
    )
    write_report(evaluated.report.model_copy(update={"pooled": changed}), tmp_path / "report.json")
    assert len(find_stale(page)) == 1
