"""Puts this folder on the import path, so that tests on every floor can share the modules beside this file."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from leukoscope.assets import default_bundle_path
from leukoscope.inference.predictor import Predictor

pytest_plugins = ("web_fixtures", "evaluation_fixtures")

# Tests neither read nor fill the compiled models of the person who runs them; processes they start inherit this.
MODEL_CACHE = Path(tempfile.mkdtemp(prefix="leukoscope-test-cache-"))
os.environ["LEUKOSCOPE_CACHE"] = str(MODEL_CACHE)

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts; one with a
# handler hands on the default.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure():
    """Leave nothing in the temporary folder of the person who runs the tests."""
    shutil.rmtree(MODEL_CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def small_predictor(small_bundle_path: Path) -> Predictor:
    """The small bundle at work."""
    return Predictor.open(small_bundle_path, threads=2)


@pytest.fixture(scope="session")
def shipped_bundle_path(small_bundle_path: Path) -> Path:
    """The bundle in the package; the small one in a checkout that has none."""
    shipped = default_bundle_path()
    return shipped if shipped.is_dir() else small_bundle_path
