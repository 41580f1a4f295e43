from pathlib import Path

import pytest

from leukoscope.core.errors import UsageError
from leukoscope.models.report import Supplement, format_measurement, write_report
from leukoscope_tools.documents.publish import TABLES, find_stale, has_blocks, publish
from made_robustness import make_robustness

CLOSE = "<!-- /leukoscope -->"


@pytest.fixture
def folder(evaluated, tmp_path: Path) -> Path:
    write_report(evaluated.report, tmp_path / "reports" / "report.json")
    return tmp_path


def document(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_is_written_current_and_stale(folder: Path, evaluated) -> None:
    path = document(folder, f"# Title\n<!-- leukoscope: results report=reports/report.json -->{CLOSE}\nend\n")
    assert [stale.line for stale in find_stale(path)] == [2]
    assert publish(path)
    assert not publish(path)
    assert find_stale(path) == []
    text = path.read_text()
    auc = format_measurement(evaluated.report.pooled.cell.measures["roc_auc"])
    assert auc in text
    assert text.startswith("# Title\n")
    assert text.endswith("\nend\n")
    path.write_text(text.replace(auc, "0.999 (0.998 to 1.000)"))
    assert [stale.what for stale in find_stale(path)] == ["results"]


@pytest.mark.parametrize("what", sorted(TABLES))
def test_every_kind_of_block_renders_a_table_or_list(folder: Path, what: str) -> None:
    path = document(folder, f"<!-- leukoscope: {what} report=reports/report.json -->{CLOSE}")
    publish(path)
    body = path.read_text().splitlines()[1:-1]
    assert len(body) >= 2
    if what != "caveats":
        widths = {line.count("|") for line in body}
        assert len(widths) == 1, body


def test_a_value_within_a_sentence(folder: Path, evaluated) -> None:
    path = document(
        folder,
        "AUC <!-- leukoscope: value report=reports/report.json measure=roc_auc split='fold_0 to fold_1' -->?"
        f"{CLOSE}, subjects "
        f"<!-- leukoscope: value report=reports/report.json measure=accuracy level=subject -->{CLOSE}.",
    )
    publish(path)
    text = path.read_text()
    first = format_measurement(evaluated.report.splits[0].cell.measures["roc_auc"])
    second = format_measurement(evaluated.report.pooled.subject_mean.measures["accuracy"], percent=True)
    assert f"-->{first}<!--" in text
    assert f"-->{second}<!--" in text


def test_abstention_and_supplements_are_tables(folder: Path, evaluated) -> None:
    report = evaluated.report
    held = report.pooled.cell.measures["accuracy"]
    supplement = Supplement(name="maps", title="Two words", text="", measures={"rotation": held})
    write_report(report.model_copy(update={"supplements": (supplement,)}), folder / "reports" / "more.json")
    path = document(
        folder,
        f"<!-- leukoscope: abstention report=reports/more.json -->{CLOSE}\n"
        f"<!-- leukoscope: supplement report=reports/more.json name=maps -->{CLOSE}",
    )
    publish(path)
    text = path.read_text()
    decided = report.pooled.abstention.measures["decided"]
    assert "| Decided | " in text and format_measurement(decided, percent=True) in text
    assert f"| rotation | {format_measurement(held)} | {held.n_cells:,} | {held.n_subjects} |" in text


def test_small_changes_are_a_table_from_their_file_or_from_a_report(folder: Path, evaluated) -> None:
    robustness = make_robustness()
    (folder / "reports" / "robustness.json").write_text(robustness.model_dump_json())
    report = evaluated.report.model_copy(update={"robustness": robustness})
    write_report(report, folder / "reports" / "with.json")
    texts = []
    for option in ("robustness=reports/robustness.json", "report=reports/with.json"):
        path = document(folder, f"<!-- leukoscope: robustness {option} -->{CLOSE}")
        publish(path)
        texts.append(path.read_text().splitlines()[1:])
    assert texts[0] == texts[1]
    assert any(line.startswith("| turned by 90° | 0.8 % (0.1 to 2.0) |") for line in texts[0])


def test_literature_shows_no_column_that_is_empty_and_no_threshold_of_ours(folder: Path) -> None:
    path = document(folder, f"<!-- leukoscope: literature -->{CLOSE}")
    publish(path)
    header = next(line for line in path.read_text().splitlines() if line.startswith("| Model"))
    assert "GFLOPs" not in header and "at 0.5" not in header and "Accuracy" in header


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- leukoscope: results report=reports/report.json -->", "<!-- /leukoscope -->"),
        (
            f"<!-- leukoscope: results report=reports/report.json --> <!-- leukoscope: literature -->{CLOSE}",
            "results",
        ),
        (f"<!-- leukoscope: nonsense report=reports/report.json -->{CLOSE}", "nonsense"),
        (f"<!-- leukoscope: results -->{CLOSE}", "report"),
        (f"<!-- leukoscope: results reports/report.json -->{CLOSE}", "reports/report.json"),
        (f"<!-- leukoscope: supplement report=reports/report.json name=luck -->{CLOSE}", "luck"),
        (f"<!-- leukoscope: robustness -->{CLOSE}", "robustness"),
        (f"<!-- leukoscope: robustness report=reports/report.json -->{CLOSE}", "robustness"),
        (f"<!-- leukoscope: value report=reports/report.json measure=luck -->{CLOSE}", "luck"),
    ],
)
def test_a_wrong_block_is_a_usage_error(folder: Path, text: str, message: str) -> None:
    path = document(folder, text)
    with pytest.raises(UsageError, match=message):
        publish(path)
    assert path.read_text() == text


def test_line_ends_of_the_document_are_kept(folder: Path) -> None:
    path = folder / "page.md"
    path.write_bytes(f"a\r\n<!-- leukoscope: literature -->{CLOSE}\r\n".encode())
    publish(path)
    assert path.read_bytes().startswith(b"a\r\n")
    assert path.read_bytes().endswith(b"-->\r\n")
    assert not publish(path)


def test_examples_in_code_are_left_alone(folder: Path) -> None:
    text = (
        "Write `<!-- leukoscope: results report=PATH -->` and `<!-- /leukoscope -->`:\n\n"
        f"```markdown\n<!-- leukoscope: results report=PATH -->\n{CLOSE}\n```\n"
    )
    path = document(folder, text)
    assert not has_blocks(text)
    assert not publish(path)
    block = f"<!-- leukoscope: results report=reports/report.json -->{CLOSE}\n"
    path.write_text(text + block)
    assert publish(path)
    assert path.read_text().startswith(text)
    assert find_stale(path) == []
