"""What every test gets: shared fixtures, fixed seeds, no traces; and what a light installation leaves out.

The folder of this file is on the import path, so that tests at every level share the modules beside it. They import
what needs an extra (``onnx``, ``flask``, ``pandas``) only when a fixture is used: with the light installation and
pytest alone, the tests that need no extra run and the others are skipped with the command that installs what they lack.
"""

import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from leukoscope.assets import default_bundle_path
from shared_folders import make_once

if TYPE_CHECKING:
    from evaluation_fixtures import Evaluated
    from leukoscope.inference.predictor import Predictor

pytest_plugins = ("web_fixtures",)

EXTRA_OF = {
    "onnxruntime": "onnxruntime",
    **dict.fromkeys(("alembic", "flask", "prometheus_client", "sqlalchemy", "waitress", "werkzeug"), "web"),
    **dict.fromkeys(("cleanlab", "jinja2", "matplotlib", "pandas", "scipy", "sklearn"), "evaluate"),
    **dict.fromkeys(("huggingface_hub", "lightning_fabric", "onnx", "optuna", "timm", "torch"), "train"),
    **dict.fromkeys(
        ("axe_playwright_python", "hypothesis", "jsonschema", "mapie", "playwright", "pytorch_grad_cam"),
        "dev",
    ),
    **dict.fromkeys(("requests", "schemathesis"), "dev"),
}
"""Package that a test module may import -> extra of leukoscope that installs it."""

# Tests neither read nor fill the compiled models of the person who runs them; processes they start inherit this.
MODEL_CACHE = Path(tempfile.mkdtemp(prefix="leukoscope-test-cache-"))
os.environ["LEUKOSCOPE_CACHE"] = str(MODEL_CACHE)

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts; one with a
# handler hands on the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    from hypothesis import settings as hypothesis_settings
except ModuleNotFoundError:
    pass
else:
    # The same examples in every run and no limit by the clock: neither luck nor a slow machine fails a test.
    # ``pytest --hypothesis-profile explore`` draws new ones.
    hypothesis_settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
    hypothesis_settings.register_profile("explore", deadline=None)
    hypothesis_settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Accept what pyproject.toml gives to pytest-timeout where it is not installed."""
    if not pluginmanager.hasplugin("timeout"):
        parser.addoption("--timeout", type=float, help="Ignored: pytest-timeout is not installed.")


class TestModule(pytest.Module):
    """A module of tests; skipped as a whole where a package of an extra is not installed."""

    __test__ = False

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        try:
            return list(super().collect())
        except self.CollectError as error:
            cause = error.__cause__
            package = (getattr(cause, "name", None) or "").partition(".")[0]
            if isinstance(cause, ModuleNotFoundError) and package in EXTRA_OF:
                pytest.skip(needs(package), allow_module_level=True)
            raise


def needs(package: str) -> str:
    """Say which extra installs a package."""
    return f"{package} is not installed: pip install -e '.[{EXTRA_OF[package]}]'"


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return TestModule.from_parent(parent, path=module_path)


def pytest_unconfigure() -> None:
    """Leave nothing in the temporary folder of the person who runs the tests."""
    shutil.rmtree(MODEL_CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def without_trace_records() -> None:
    """Spare pytest the thousands of records that torch's tracer would otherwise give to its log capture."""
    logging.getLogger("torch.__trace").disabled = True


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Start the global random generators the same in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the generator that other libraries draw from
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def small_bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the small bundle."""
    pytest.importorskip("onnx", reason=needs("onnx"))
    from small_bundle import make_small_bundle

    def make(folder: Path) -> None:
        make_small_bundle(folder / "small")

    return make_once(tmp_path_factory, "small-bundle", make) / "small"


@pytest.fixture(scope="session")
def small_predictor(small_bundle_path: Path) -> "Predictor":
    """The small bundle at work."""
    from leukoscope.inference.predictor import Predictor

    return Predictor.open(small_bundle_path, threads=2)


@pytest.fixture(scope="session")
def shipped_bundle_path(request: pytest.FixtureRequest) -> Path:
    """The bundle in the package; the small one in a checkout that has none."""
    shipped = default_bundle_path()
    return shipped if shipped.is_dir() else request.getfixturevalue("small_bundle_path")


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> "Evaluated":
    """Two run folders and their report: evaluated once in a test run, also where several processes share it."""
    pytest.importorskip("pandas", reason=needs("pandas"))
    from evaluation_fixtures import read_evaluated, write_evaluated

    return read_evaluated(make_once(tmp_path_factory, "evaluated", write_evaluated))
