"""The command line imports only what it needs, and prediction runs without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from leukoscope.cli import main
from leukoscope.cli.main import COMMANDS, EXTRAS, app, load_command
from small_bundle import sample_paths

HEAVY = (
    "torch",
    "timm",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "flask",
    "sqlalchemy",
    "onnx",
    "onnxruntime",
)

BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Block())
arguments = sys.argv[2:]
sys.argv = ["leukoscope", *arguments]
from leukoscope.cli.main import run
try:
    run()
finally:
    print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def run_blocked(blocked: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", BLOCK, blocked, *map(str, arguments)]
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def loaded(answer: subprocess.CompletedProcess) -> set[str]:
    line = next(line for line in answer.stderr.splitlines() if line.startswith("LOADED"))
    return set(line.split()[1:])


def test_predict_runs_without_training_packages(small_bundle_path: Path, tmp_path: Path) -> None:
    answer = run_blocked(
        ",".join(HEAVY), "predict", *sample_paths()[:3], "--bundle", small_bundle_path, "--json",
        "--out", tmp_path / "out", "--sheet", tmp_path / "sheet.html",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(rows) == 3
    assert all(row["decision"] != "rejected" for row in rows)
    assert len(list((tmp_path / "out" / "heat_maps").iterdir())) == 3


@pytest.mark.parametrize("arguments", [("verify",), ("show",), ("show", "--card")])
def test_bundles_are_verified_without_training_packages(
    small_bundle_path: Path, arguments: tuple[str, ...]
) -> None:
    verb, *options = arguments
    answer = run_blocked(",".join(HEAVY), "bundle", verb, small_bundle_path, *options)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    "arguments", [("--help",), ("predict", "--help"), ("--version",), ("predict", "--schema")]
)
def test_help_loads_neither_engines_nor_training_packages(arguments: tuple[str, ...]) -> None:
    answer = run_blocked("", *arguments)
    assert answer.returncode == 0, answer.stderr
    assert not loaded(answer) & {*HEAVY, "openvino", "numpy", "PIL"}


def test_predict_loads_nothing_of_other_commands(small_bundle_path: Path) -> None:
    answer = run_blocked("", "predict", sample_paths()[0], "--bundle", small_bundle_path, "-q")
    assert answer.returncode == 0, answer.stderr
    assert not loaded(answer) & {*HEAVY, "rich", "openvino_telemetry", "http"}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_of_the_table_loads_and_has_help_with_an_example(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output


def test_every_registered_command_is_in_the_table() -> None:
    for module_name in {command.module for command in COMMANDS.values()}:
        module = main.importlib.import_module(f"leukoscope.cli.{module_name}")
        if not hasattr(module, "register"):
            continue
        group = typer.Typer()
        module.register(group)
        for name in typer.main.get_group(group).commands:
            assert COMMANDS[name].module == module_name


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("flask", ("serve",), "web"),
        ("onnxruntime", ("predict", "x.png", "--engine", "onnxruntime"), "onnxruntime"),
    ],
)
def test_a_missing_extra_is_named_with_its_remedy(
    small_bundle_path: Path, package: str, arguments: tuple[str, ...], extra: str
) -> None:
    options = ("--bundle", small_bundle_path) if arguments[0] == "predict" else ()
    answer = run_blocked(package, *arguments, *options)
    assert answer.returncode == 2, answer.stderr
    assert f"leukoscope[{extra}]" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_extras_named_are_those_of_the_package() -> None:
    from importlib.metadata import metadata

    provided = set(metadata("leukoscope").get_all("Provides-Extra"))
    assert set(EXTRAS.values()) <= provided


def test_an_unexpected_error_is_one_line_and_a_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch, small_bundle_path: Path
) -> None:
    from leukoscope.cli import predicting

    def broken(options: object) -> int:
        raise RuntimeError("the disk melted")

    monkeypatch.setattr(predicting, "run_predict", broken)
    result = CliRunner().invoke(app, ["predict", "x.png"])
    assert result.exit_code == 70
    assert "internal error: RuntimeError: the disk melted" in result.stderr
    assert "--debug" in result.stderr
    monkeypatch.setenv("LEUKOSCOPE_DEBUG", "")
    debug = CliRunner().invoke(app, ["--debug", "predict", "x.png"])
    assert isinstance(debug.exception, RuntimeError)


def test_unknown_commands_suggest_the_nearest() -> None:
    result = CliRunner().invoke(app, ["predcit"])
    assert result.exit_code == 2
    assert "predict" in result.stderr
