"""Whatever an option is given, a command ends with a result or a message: never a traceback, never exit code 70."""

import contextlib
import enum
import inspect
import math
import re
import typing
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
@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="no such device on this system")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_device_without_an_end_and_json_of_any_depth_end_in_messages(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leukoscope.core.text.MAX_TEXT_BYTES", 100_000)
    calls = [words for _, words in _calls_with(name, (Path,), ("/dev/zero", "deep.json"))]
    assert faults(calls) == ""


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
    few = [name for name, calls in tried.items() if calls < 5]
    assert few == ["bundle list"]  # it takes no value
    assert set(wrong.HEAVY) | set(wrong.RIGHT_CALLS) <= set(COMMANDS)  # no name that is gone


def _having(option: str) -> list[str]:
    return [
        name
        for name, command in COMMANDS.items()
        if any(one.name == option for one in wrong.parameters(command))
    ]


def _calls_with(name: str, kinds: tuple[type, ...], values: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    right, at = wrong.right_call(name, COMMANDS[name]), len(name.split())
    return [
        (one.name, wrong.with_value(right, at, one, value))
        for one in wrong.parameters(COMMANDS[name])
        if one.kind in kinds or (one.kind is not bool and values == ("",))
        for value in values
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_value_is_refused_by_every_option_and_argument(name: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        for option, words in _calls_with(name, (), ("",)):
            result = wrong.call(words)
            assert result.exit_code == 2, words
            assert f"{option} ''" in result.output
        assert list(tmp_path.iterdir()) == []  # '' is not the current folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_number_is_named_with_its_option_and_the_range(name: str, tmp_path: Path) -> None:
    own = {"--microns-per-pixel": "above 0 and below 1000", "--tta": "1, 4, 8"}
    with contextlib.chdir(tmp_path):
        for option, words in _calls_with(name, (int, float), ("-7", "1e30", "seven")):
            value = next(word for word in words if word in ("-7", "1e30", "seven"))
            result = wrong.call(words)
            assert result.exit_code == 2, words
            text = " ".join(result.output.split())
            assert option in text
            assert value in text or "1e+30" in text
            limits = own.get(option) if value == "-7" else None
            if limits is not None:
                assert limits in text
            elif option not in own:  # a text that is no number has no range
                assert re.search(r"from [\d.]+ to [\d.]+|[\d.]+ or more", text), text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_word_that_is_no_choice_is_named_with_the_choices(name: str, tmp_path: Path) -> None:
    hints = typing.get_type_hints(inspect.unwrap(COMMANDS[name].callback))
    with contextlib.chdir(tmp_path):
        for item in COMMANDS[name].params:
            choices = [kind for kind in _types(hints.get(item.name)) if issubclass(kind, enum.Enum)]
            for kind in choices:
                option = max(item.opts, key=len)
                one = wrong.Parameter(option, enum.Enum, True, False)
                right = wrong.right_call(name, COMMANDS[name])
                result = wrong.call(wrong.with_value(right, len(name.split()), one, "nothing-such"))
                assert result.exit_code == 2
                assert f"{option} nothing-such" in result.output
                assert all(str(member.value) in result.output for member in kind)


def _types(hint: Any) -> list[type]:
    return [one for one in (hint, *typing.get_args(hint)) if isinstance(one, type)]


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
