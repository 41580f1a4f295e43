"""Whatever an option is given, a command ends with a result or a message: never a traceback, never exit code 70."""

from pathlib import Path

import pytest

import wrong_values as wrong

COMMANDS = wrong.leaves()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, small_bundle_path: Path) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    wrong.make_stage(folder, small_bundle_path)
    return folder


@pytest.fixture
def here(stage: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(stage)
    wrong.replace_heavy_work(monkeypatch)
    return stage


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_wrong_value_ends_in_a_traceback(name: str, here: Path) -> None:
    command = COMMANDS[name]
    faults = [wrong.fault(words, wrong.call(words)) for words in wrong.wrong_calls(name, command)]
    assert not any(faults), "\n".join(filter(None, faults))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_right_calls_reach_their_work(name: str, here: Path) -> None:
    result = wrong.call(wrong.right_call(name, COMMANDS[name]))
    assert result.exit_code in (0, wrong.WorkReachedError.exit_code), result.output
