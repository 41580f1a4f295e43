from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from leukoscope.core.config import apply_overrides, build, read_toml, to_mapping
from leukoscope.core.errors import ConfigError


@dataclass(frozen=True)
class Optimizer:
    kind: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate = {self.learning_rate}: must be above 0")


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    nesterov: bool = False
    weights: Path | None = None
    stages: tuple[int, ...] = (4, 5)
    zoom: tuple[float, float] = (0.8, 1.2)
    optimizer: Optimizer = field(default_factory=Optimizer)
    second: Optimizer = field(default_factory=lambda: Optimizer(kind="sgd", learning_rate=0.5))


def test_toml_fills_nested_dataclasses(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        'seed = 3\nstages = [7]\nweights = "a.safetensors"\n[optimizer]\nkind = "sgd"\nlearning_rate = 1\n'
    )
    settings = build(Settings, read_toml(file))
    assert settings == Settings(
        seed=3, stages=(7,), weights=Path("a.safetensors"), optimizer=Optimizer(kind="sgd", learning_rate=1.0)
    )
    assert isinstance(settings.optimizer.learning_rate, float)


def test_a_section_contains_only_differences_from_its_default() -> None:
    settings = build(Settings, {"second": {"learning_rate": 0.25}})
    assert settings.second == Optimizer(kind="sgd", learning_rate=0.25)
    assert settings.optimizer == Optimizer()


def test_round_trip_through_plain_mappings() -> None:
    settings = Settings(seed=9, stages=(1, 2, 3))
    assert build(Settings, to_mapping(settings)) == settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sede": 1}, "'sede'.*'seed'"),
        ({"optimizer": {"lerning_rate": 1.0}}, "optimizer.lerning_rate"),
        ({"seed": "three"}, "seed = 'three'.*int.*str"),
        ({"seed": True}, "seed = True.*int.*bool"),
        ({"nesterov": 1}, "nesterov = 1.*bool.*int"),
        ({"zoom": [1.0]}, "zoom"),
        ({"optimizer": 3}, "optimizer = 3"),
        ({"optimizer": {"kind": "lion"}}, "'lion'.*'adam', 'sgd'"),
        ({"optimizer": {"learning_rate": -1}}, "learning_rate = -1"),
    ],
)
def test_wrong_settings_name_the_key_and_the_remedy(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Settings, settings)


def test_overrides_read_values_as_toml_and_fall_back_to_text() -> None:
    result = apply_overrides(
        {"optimizer": {"kind": "adam"}},
        ["optimizer.learning_rate=2e-4", "stages=[1, 2]", "optimizer.kind=sgd", "a.b.c=true"],
    )
    assert result == {
        "optimizer": {"kind": "sgd", "learning_rate": 2e-4},
        "stages": [1, 2],
        "a": {"b": {"c": True}},
    }


def test_overrides_do_not_change_the_given_mapping() -> None:
    given = {"optimizer": {"kind": "adam"}}
    apply_overrides(given, ["optimizer.kind=sgd"])
    assert given == {"optimizer": {"kind": "adam"}}


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=1", "seed.x=1"])
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"seed": 1}, [override])


def test_missing_and_malformed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        read_toml(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 3")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        read_toml(broken)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("zoom = [0.5, inf]", "zoom"),
        ("zoom = [nan, 1.0]", "zoom"),
        ("seed = 2147483648", "2,147,483,647"),
        ("seed = -9223372036854775808", "seed"),
        (f"seed = 1{'0' * 400}", "401 digits"),
        (f"seed = 1{'0' * 5000}", "TOML"),
        (f"[optimizer]\nlearning_rate = 1{'0' * 400}", "optimizer.learning_rate"),
        ("[optimizer]\nlearning_rate = inf", "optimizer.learning_rate"),
        ('weights = "a\\u0000b"', "NUL"),
        (f"stages = {'[' * 5000}", "TOML"),
    ],
)
def test_values_that_no_setting_can_mean_are_refused(text, named, tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named):
        build(Settings, read_toml(file))
    with pytest.raises(ConfigError):
        build(Settings, apply_overrides({}, [f"seed=1{'0' * 5000}"]))


def test_a_section_names_its_own_limits_before_the_general_ones() -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        build(Settings, {"optimizer": {"learning_rate": float("-inf")}})


def test_text_from_bytes_that_are_not_utf8_is_refused_but_not_in_paths() -> None:
    @dataclass(frozen=True)
    class Named:
        name: str = ""
        folder: Path = Path()

    with pytest.raises(ConfigError, match="UTF-8"):
        build(Named, {"name": "a\udcff"})
    assert build(Named, {"folder": "a\udcff"}).folder == Path("a\udcff")
