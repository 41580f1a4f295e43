"""The examples in docstrings run and show what they print."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import leukoscope

SOURCE = Path(leukoscope.__file__).parent
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(SOURCE)], "leukoscope.")
    if not info.ispkg
    and ">>> " in (SOURCE.parent / (info.name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
)


def test_there_are_examples() -> None:
    assert len(MODULES) > 8


@pytest.mark.parametrize("name", ["leukoscope", *MODULES])
def test_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert outcome.attempted
    assert outcome.failed == 0
