"""Wrong values for every option of every command, one right call a command, and its heavy work replaced.

What an option takes is read from the signature of its command, so that a new command or option is covered by itself.
"""

import dataclasses
import enum
import inspect
import random
import shutil
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cohort_files import write_cohort
from leukoscope.cli.main import COMMANDS, app, load_command
from leukoscope.core.errors import LeukoscopeError
from small_bundle import sample_paths
from synthetic_runs import Cohort, write_run

HUGE = "1" + "0" * 30
NOT_UTF8 = "a\udcff"
WRONG: dict[type, tuple[str, ...]] = {
    int: ("-1", HUGE, "1.5", "x", ""),
    float: ("nan", "inf", "-1", "1e400", "x"),
    str: ("", NOT_UTF8, "no such thing", "a\0b"),
    Path: ("", "loop", "loop/x", "~nobody-here/x", "n" * 300, "folder", "noise.bin", "missing/x", NOT_UTF8),
    enum.Enum: ("", "no such thing"),
}
"""Type of an option -> values, most of them wrong."""

TRAIN = "--cells cohort/cells.csv --splits cohort/splits.json --config config.toml"
NOVELTY = "--cells cohort/cells.csv --splits cohort/splits.json --split only --bundle bundle"
RIGHT_CALLS = {
    "predict": "predict a.webp -q --bundle bundle",
    "smear": "smear field.jpg -q",
    "adapt": "adapt field.jpg --out out/lab.json",
    "demo": "demo --out out/demo",
    "serve": "serve --bundle bundle --data data",
    "records delete": "records delete LK-7F3K9-2QD4M --yes --data records",
    "records purge": "records purge --older-than 90 --yes --data records",
    "audit verify": "audit verify --data records",
    "audit show": "audit show --data records",
    "bundle verify": "bundle verify bundle",
    "bundle show": "bundle show bundle",
    "explain-check": "explain-check a.webp --bundle bundle --limit 1",
    "data import": "data import classes --out out/cells.csv",
    "data verify": "data verify classes",
    "data audit": "data audit cohort/cells.csv --no-baselines --k 2",
    "data explore": "data explore cohort/cells.csv --out out/cohort.png",
    "data split": "data split cohort/cells.csv --protocol grouped --k 2 --out out/splits.json",
    "data sample": "data sample cohort/cells.csv --count 2",
    "data cut": "data cut field.jpg --out out/cut",
    "weights expand": "weights expand --cells cohort/cells.csv --source noise.bin --out out/b3.safetensors",
    "train": f"train {TRAIN} --out out/runs",
    "tune": f"tune {TRAIN} --study out/study.db",
    "cross-validate": "cross-validate cohort/cells.csv --config config.toml --set data.inner_folds=2 --folds 2 "
    "--out out/cv",
    "evaluate": "evaluate run --replicates 200 --out out/report",
    "compare": "compare run --replicates 200 --out out/compared",
    "leakage": "leakage run run2 --replicates 200",
    "novelty": f"novelty a.webp {NOVELTY}",
    "robustness": "robustness cohort/cells.csv --bundle bundle --replicates 200 --out out/robustness -q",
    "export": "export run --out out/bundle",
}
"""A call of each command that gets as far as its work; one that is missing is made of its required parameters."""

HEAVY = {
    "predict": "leukoscope.inference.predictor.Predictor.stream",
    "demo": "leukoscope.inference.predictor.Predictor.stream",
    "explain-check": "leukoscope.inference.explain.check_explanations",
    "smear": "leukoscope.smear.reading.read_smear",
    "adapt": "leukoscope.learning.adapt.adapt",
    "data cut": "leukoscope.smear.cutting.cut_cohort",
    "data explore": "leukoscope.evaluation.explore.draw_cohort",
    "serve": "leukoscope.web.server.serve",
    "bundle verify": "leukoscope.workflows.engine_agreement.reproduce",
    "train": "leukoscope.training.run._execute_run",
    "tune": "leukoscope.training.tune._run_missing",
    "cross-validate": "leukoscope.training.run._execute_run",
    "weights expand": "leukoscope.training.weights.expansion.read_source",
    "evaluate": "leukoscope.evaluation.protocol.evaluate",
    "compare": "leukoscope.evaluation.compare.compare",
    "leakage": "leukoscope.evaluation.leakage.measure_inflation",
    "novelty": "leukoscope.evaluation.ood_report.measure_images",
    "robustness": "leukoscope.workflows.robustness.predict_perturbed",
    "export": "leukoscope.training.fit.checkpoint.load_trained",
}
"""Command -> its work, which begins after every value was looked at. Commands that are quick do all of it."""
FINDS_NOTHING = ("records delete", "data verify")
"""Commands that end with 1 on the stage: no such case is stored, and the images are not the official ones."""


class WorkReachedError(LeukoscopeError):
    """Raised in the place of heavy work."""

    exit_code = 3


@dataclass(frozen=True)
class Parameter:
    """One option or argument of a command.

    Attributes
    ----------
    name
        The option as written, or the argument's name.
    kind
        Key of ``WRONG``.
    is_option
        False for an argument.
    required
        Whether a call must have it.
    """

    name: str
    kind: type
    is_option: bool
    required: bool


def leaves() -> dict[str, Any]:
    """Return every command by its words."""

    def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if not inner:
            yield name, command
        for sub, one in (inner or {}).items():
            yield from below(f"{name} {sub}", one)

    return {path: one for name in COMMANDS for path, one in below(name, load_command(name))}


def parameters(command: Any) -> list[Parameter]:
    """Return what takes a value; flags take none."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    found = []
    for item in command.params:
        kind = _kind(hints.get(item.name))
        if kind is not None:
            option = item.param_type_name == "option"
            name = max(item.opts, key=len) if option else item.name
            found.append(Parameter(name, kind, option, bool(item.required)))
    return found


def _kind(hint: Any) -> type | None:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    if typing.get_origin(hint) is list:
        hint = typing.get_args(hint)[0]
    if not isinstance(hint, type) or hint is bool:
        return None
    return next((kind for kind in WRONG if issubclass(hint, kind) and hint is not bool), None)


def right_call(name: str, command: Any) -> list[str]:
    """Return the right call of a command, as words."""
    if name in RIGHT_CALLS:
        return RIGHT_CALLS[name].split()
    words = name.split()
    sample = {int: "2", float: "0.5", str: "a.webp", Path: "a.webp", enum.Enum: "x"}
    for one in parameters(command):
        if one.required:
            words += [*([one.name] if one.is_option else []), sample[one.kind]]
    return words


def wrong_calls(name: str, command: Any) -> Iterator[list[str]]:
    """Yield calls in which one value is another than in the right call."""
    right = right_call(name, command)
    for one in parameters(command):
        for value in WRONG[one.kind]:
            yield with_value(right, len(name.split()), one, value)


def with_value(right: list[str], at: int, one: Parameter, value: str) -> list[str]:
    """Put a value into a call: in the place of the option's own, or of the first argument."""
    words = list(right)
    if not one.is_option:
        if at < len(words) and not words[at].startswith("-"):
            words[at] = value
            return words
        return [*words[:at], value, *words[at:]]
    if one.name in words:
        words[words.index(one.name) + 1] = value
        return words
    return [*words, one.name, value]


def make_stage(folder: Path, bundle: Path) -> None:
    """Write what the right calls read, and the odd files that wrong values name."""
    shutil.copy(sample_paths()[0], folder / "a.webp")
    write_cohort(folder / "cohort", subjects=8, cells_each=2)
    for path in sorted((folder / "cohort" / "images").iterdir()):
        kind = "blast" if int(path.name[1 : path.name.index("_")]) % 2 == 0 else "normal"
        place = folder / "classes" / kind / path.name.partition("_")[0] / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for name in ("run", "run2"):
        write_run(folder / name, train=Cohort(4, 3, 10), test=Cohort(4, 3, 10))
    shutil.copytree(bundle, folder / "bundle")
    (folder / "config.toml").write_text("seed = 1\n[network]\narch = 'resnet10t'\nweights = 'none'\n")
    fields = Path(__file__).parent / "data" / "smear_fields"
    shutil.copy(fields / "BloodImage_00176.jpg", folder / "field.jpg")
    (folder / "folder").mkdir()
    (folder / "folder" / "note.txt").write_text("a note\n")
    (folder / "noise.bin").write_bytes(random.Random(0).randbytes(2000))
    (folder / "loop").symlink_to("loop")
    (folder / "deep.json").write_text("[" * 100_000)
    make_records(folder / "records")


def make_records(folder: Path) -> None:
    """Write empty records of the web application."""
    from leukoscope.web.settings import WebSettings
    from leukoscope.web.storage.database import Database

    folder.mkdir()
    records = Database(WebSettings(data=folder).database_url)
    records.migrate()
    records.close()


def replace_heavy_work(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the heavy work of a command end with ``WorkReachedError``; a name that is gone fails."""

    def reached(*_args: Any, **_extra: Any) -> Any:
        raise WorkReachedError("reached")

    if name in HEAVY:
        monkeypatch.setattr(HEAVY[name], reached)


def call(words: list[str]) -> Result:
    """Run a call in this process."""
    return CliRunner().invoke(app, words)


def fault(words: list[str], result: Result) -> str | None:
    """Say what is wrong with how a call ended; None for a result, a message or reached work."""
    ends = (0, 1, 2, WorkReachedError.exit_code)
    text = result.output
    if result.exit_code in ends and "Traceback" not in text and "internal error" not in text:
        return None
    shown = " ".join(word[:40].encode("unicode_escape").decode() for word in words)
    return f"{shown}\n    -> {result.exit_code}: {text.strip()[-300:]}"


def settings_texts(schema: type) -> Iterator[str]:
    """Yield ``section.key=value`` with every wrong value of every setting, and sections in the place of values."""
    values = {
        int: ("-1", HUGE, "1.5", "nan", "'x'", "true", "[]"),
        float: ("nan", "inf", "-inf", "-1.0", HUGE, "1e308", "'x'", "true"),
        bool: ("1", "'x'", "nan"),
        str: ("''", "'no such thing'", '"a\\u0000b"', "1", "[]"),
    }
    everything = tuple(dict.fromkeys(value for some in values.values() for value in some))
    for path, hint in _settings(schema, ""):
        for value in values.get(hint, everything):
            yield f"{path}={value}"


def _settings(schema: type, where: str) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        path, hint = f"{where}{field.name}", hints[field.name]
        yield path, hint
        if dataclasses.is_dataclass(hint):
            yield from _settings(typing.cast(type, hint), f"{path}.")
