"""Whatever an option is given, a command ends with a result or a message: never a traceback, never exit code 70."""

import math
from pathlib import Path
from typing import Any

import pytest

import wrong_values as wrong
from leukoscope.core.config import apply_overrides, build, to_mapping
from leukoscope.core.errors import ConfigError
from leukoscope.core.limits import LARGEST_COUNT, LARGEST_SEED
from leukoscope.training.settings import TrainSettings
from leukoscope.web.settings import WebSettings

COMMANDS = wrong.leaves()
SAMPLED = ("audit show", "bundle show", "data split", "predict", "records purge", "smear")
"""Commands of which some calls run in the quick tests: what they import is imported already."""
EVERY = 7


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, small_bundle_path: Path) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    wrong.make_stage(folder, small_bundle_path)
    return folder


@pytest.fixture
def here(stage: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(stage)
    wrong.replace_heavy_work(monkeypatch, name)
    return stage


def faults(calls: list[list[str]]) -> str:
    return "\n".join(filter(None, (wrong.fault(words, wrong.call(words)) for words in calls)))


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_wrong_value_ends_in_a_traceback(name: str, here: Path) -> None:
    assert faults(list(wrong.wrong_calls(name, COMMANDS[name]))) == ""


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_of_wrong_values_ends_in_messages(name: str, here: Path) -> None:
    assert faults(list(wrong.wrong_calls(name, COMMANDS[name]))[::EVERY]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", wrong.RIGHT_CALLS)
def test_the_right_calls_reach_their_work(name: str, here: Path) -> None:
    result = wrong.call(wrong.right_call(name, COMMANDS[name]))
    if name in wrong.HEAVY:
        assert result.exit_code == wrong.WorkReachedError.exit_code, result.output
    else:
        assert result.exit_code == (1 if name in wrong.FINDS_NOTHING else 0), result.output


def test_every_command_has_parameters_that_are_tried() -> None:
    tried = {name: len(list(wrong.wrong_calls(name, command))) for name, command in COMMANDS.items()}
    assert min(tried.values()) >= 5
    assert set(wrong.HEAVY) | set(wrong.RIGHT_CALLS) <= set(COMMANDS)  # no name that is gone


def _having(option: str) -> list[str]:
    return [
        name
        for name, command in COMMANDS.items()
        if any(one.name == option for one in wrong.parameters(command))
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-0.1", "1000"])
@pytest.mark.parametrize("name", _having("--microns-per-pixel"))
def test_a_scale_that_no_photograph_has_is_refused(name: str, value: str, here: Path) -> None:
    result = wrong.call([*wrong.right_call(name, COMMANDS[name]), "--microns-per-pixel", value])
    assert result.exit_code == 2, result.output
    assert "micro" in result.output


@pytest.mark.parametrize(
    ("value", "limit"),
    [("-1", "0"), (str(LARGEST_SEED + 1), str(LARGEST_SEED)), (wrong.HUGE, str(LARGEST_SEED))],
)
@pytest.mark.parametrize("name", _having("--seed"))
def test_every_seed_has_the_same_limits(name: str, value: str, limit: str) -> None:
    result = wrong.call([*wrong.right_call(name, COMMANDS[name]), "--seed", value])
    assert result.exit_code == 2
    assert "--seed" in result.output and limit in result.output


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: Any, **_extra: Any) -> Any:
        raise KeyError("a fault of ours")

    monkeypatch.setattr("leukoscope.cli.bundles.show", broken)
    assert "70" in (wrong.fault(["bundle", "show"], wrong.call(["bundle", "show"])) or "")


@pytest.mark.parametrize("schema", [TrainSettings, WebSettings])
def test_every_wrong_setting_is_refused_or_harmless(schema: type) -> None:
    texts = list(wrong.settings_texts(schema))
    refused = 0
    for text in texts:
        try:
            settings = build(schema, apply_overrides({}, [text]))
        except ConfigError:
            refused += 1
            continue
        for value in _leaves(to_mapping(settings)):
            assert not isinstance(value, float) or math.isfinite(value), text
            assert not isinstance(value, int) or abs(value) <= LARGEST_COUNT, text
    assert refused > len(texts) / 2


def _leaves(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for one in inner for leaf in _leaves(one)]
