"""A real Chromium against a really served application over the small bundle."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from web_fixtures import Running, run_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from leukoscope.inference.predictor import Predictor

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

PATIENCE_MS = 45_000
"""How long a step may take: nothing on an idle machine comes near it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> "Iterator[Browser]":
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        pytest.skip("no Chromium: install Debian's package chromium, or name the program in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, web_predictor: "Predictor") -> Iterator[Running]:
    from leukoscope.web.application import close_app, open_app
    from leukoscope.web.settings import WebSettings

    app = open_app(WebSettings(data=tmp_path_factory.mktemp("served")), web_predictor)
    with run_server(app) as running:
        yield running
    close_app(app)


@pytest.fixture
def open_page(chromium: "Browser"):
    """Open pages whose console must stay silent: no error, no refused script, style or picture."""
    contexts = []
    complaints: list[str] = []

    def new(width: int = 1280, height: int = 850, **options) -> "Page":
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        return page

    new.complaints = complaints
    yield new
    for context in contexts:
        context.close()
    assert complaints == []
