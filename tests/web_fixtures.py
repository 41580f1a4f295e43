"""The real web application over the real predictor and the small bundle, for tests of every layer.

What needs the extra ``web`` is imported where it is used, so that the fixtures exist without it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from leukoscope.inference.predictor import Predictor
from small_bundle import sample_paths

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

    from leukoscope.web.context import Services

TOKEN = "correct-horse-battery-staple"
MakeApp = Callable[..., "Flask"]


@pytest.fixture(scope="session")
def web_predictor(small_bundle_path: Path) -> Predictor:
    from leukoscope.web.application import decode_limits
    from leukoscope.web.settings import WebSettings

    limits = decode_limits(WebSettings())
    return Predictor.open(small_bundle_path, threads=1, limits=limits)


@pytest.fixture
def make_app(tmp_path: Path, web_predictor: Predictor) -> Iterator[MakeApp]:
    """Build applications with differing settings; all are closed at the end."""
    from leukoscope.web.application import close_app, open_app
    from leukoscope.web.settings import WebSettings

    opened: list[Flask] = []

    def make(**changes: Any) -> "Flask":
        app = open_app(WebSettings(**{"data": tmp_path / "data", **changes}), web_predictor)
        opened.append(app)
        return app

    yield make
    for app in opened:
        close_app(app)


@pytest.fixture
def app(make_app: MakeApp) -> "Flask":
    return make_app()


@pytest.fixture
def parts(app: "Flask") -> "Services":
    from leukoscope.web.context import services

    return services(app)


@pytest.fixture
def client(app: "Flask") -> "FlaskClient":
    """A program: no cookies, no Origin."""
    return app.test_client(use_cookies=False)


@dataclass(frozen=True)
class Running:
    """A served application."""

    address: str
    app: "Flask"


@contextmanager
def run_server(app: "Flask") -> Iterator[Running]:
    """Serve with waitress, as the command does, on a free port."""
    import waitress

    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=16, ident=None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{server.effective_port}", app)
    finally:
        server.task_dispatcher.shutdown()  # a worker that still wakes the loop must not find its pipe closed
        server.close()
        thread.join(timeout=10)


def cells(count: int) -> list[tuple[str, bytes]]:
    """Names and contents of real sample cells."""
    paths = sample_paths()
    chosen = [paths[index * len(paths) // count] for index in range(count)] if count <= len(paths) else paths
    return [(path.name, path.read_bytes()) for path in chosen]


def form(files: list[tuple[str, bytes]], **fields: str) -> dict[str, Any]:
    """A multipart form for Flask's client."""
    return {"files": [(BytesIO(content), name) for name, content in files], **fields}


def png(rgb: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(rgb).save(stream, "PNG")
    return stream.getvalue()


def wait_for_job(client: "FlaskClient", job: str) -> dict[str, Any]:
    """Poll until a job is over; the limit of a test's time is the only clock."""
    pause = threading.Event()
    while True:
        state = client.get(f"/api/v1/jobs/{job}").get_json()
        if state["state"] not in ("running", "receiving"):
            return dict(state)
        pause.wait(0.05)
