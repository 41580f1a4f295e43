import re
from pathlib import Path

import pytest

from leukoscope.core.errors import UsageError
from leukoscope.inference.journal import RESULTS, Journal
from leukoscope.inference.results import CellResult, ModelReference

MODEL = ModelReference(name="m", version="1", sha256="0" * 64)
SETTINGS = {"tta": 1}


def result(number: int) -> CellResult:
    return CellResult(source=f"{number} ü\n.png", decision="blast", probability=0.9, model=MODEL)


def fill(directory: Path, numbers: range, *, resume: bool = False) -> int:
    with Journal(directory, SETTINGS, resume=resume) as journal:
        for number in numbers:
            journal.append(result(number))
        return journal.done


def test_results_come_back_in_order(tmp_path: Path) -> None:
    fill(tmp_path / "out", range(200))
    with Journal(tmp_path / "out", SETTINGS, resume=True) as journal:
        assert journal.done == 200
        assert list(journal.results()) == [result(number) for number in range(200)]


@pytest.mark.parametrize("cut", [1, 5, 60, 150])
def test_an_incomplete_line_is_removed_and_written_again(tmp_path: Path, cut: int) -> None:
    fill(tmp_path, range(3))
    path = tmp_path / RESULTS
    path.write_bytes(path.read_bytes()[:-cut])
    done = fill(tmp_path, range(2, 5), resume=True)
    assert done == 2
    with Journal(tmp_path, SETTINGS, resume=True) as journal:
        assert [entry.source for entry in journal.results()] == [result(n).source for n in range(5)]


def test_appended_results_can_be_read_before_the_end(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS, resume=False) as journal:
        journal.append(result(1))
        assert [entry.source for entry in journal.results()] == [result(1).source]


def test_old_results_are_not_overwritten(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    before = (tmp_path / RESULTS).read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        fill(tmp_path, range(1))
    assert (tmp_path / RESULTS).read_bytes() == before


def test_other_settings_do_not_continue_them(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with pytest.raises(UsageError, match=r"\btta\b"):
        Journal(tmp_path, {"tta": 4}, resume=True)
    (tmp_path / "predict.json").write_text("[]")
    with pytest.raises(UsageError, match=r"predict\.json"):
        Journal(tmp_path, SETTINGS, resume=True)
    (tmp_path / "predict.json").unlink()
    with pytest.raises(UsageError, match=r"predict\.json"):
        Journal(tmp_path, SETTINGS, resume=True)


def test_results_older_than_an_unused_setting_are_resumed(tmp_path: Path) -> None:
    fill(tmp_path, range(2))
    with Journal(tmp_path, {**SETTINGS, "table": None}, resume=True) as journal:
        assert journal.done == 2


def test_replaced_results_are_gone(tmp_path: Path) -> None:
    fill(tmp_path, range(3))
    with Journal(tmp_path, {"tta": 4}, resume=False, overwrite=True) as journal:
        assert (journal.done, list(journal.results())) == (0, [])


def test_resuming_an_empty_folder_starts_from_zero(tmp_path: Path) -> None:
    assert fill(tmp_path / "new", range(2), resume=True) == 0


def test_foreign_lines_are_named(tmp_path: Path) -> None:
    fill(tmp_path, range(1))
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"source": "x"}\n')
    with (
        Journal(tmp_path, SETTINGS, resume=True) as journal,
        pytest.raises(UsageError, match=r"\b2\b"),
    ):
        list(journal.results())


def test_a_place_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "file"))):
        Journal(tmp_path / "file" / "out", SETTINGS, resume=False)
