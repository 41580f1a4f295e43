"""The application factory: a Flask application from settings, a model and its prediction function."""

import time
from typing import Any

from flask import Flask, Response, g, request

from leukoscope.imaging.decode import DecodeLimits
from leukoscope.inference.predictor import Predictor
from leukoscope.web import problems, security, texts
from leukoscope.web.artifacts import Artifacts
from leukoscope.web.batching import Batcher
from leukoscope.web.context import EXTENSION, Services
from leukoscope.web.jobs import JobQueue
from leukoscope.web.memory import Memory
from leukoscope.web.metrics import Metrics
from leukoscope.web.model import ServedModel
from leukoscope.web.prediction import PredictFn, make_predict_fn
from leukoscope.web.service import Service
from leukoscope.web.settings import MEBIBYTE, WebSettings, check_exposure
from leukoscope.web.storage.database import Database
from leukoscope.web.storage.history import History
from leukoscope.web.uploads import MemoryRequest

_FORM_FIELDS = 16


class WebApplication(Flask):
    """Flask with uploads that stay in memory."""

    request_class = MemoryRequest


def create_app(settings: WebSettings, model: ServedModel, predict: PredictFn) -> Flask:
    """Build the application and start its threads; ``close_app`` ends them.

    Parameters
    ----------
    settings
        Checked for exposure: a public address needs a token.
    model
        Description of the model for pages and API.
    predict
        The engine: classifies a batch of images in one call, from several threads at once.

    Raises
    ------
    UsageError
        The address, the folder or the database cannot be used.
    StorageError
        The records cannot be opened or migrated.
    """
    check_exposure(settings)
    app = WebApplication("leukoscope.web")
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    limits = settings.limits
    app.config.update(
        MAX_CONTENT_LENGTH=limits.request_mb * MEBIBYTE,
        # The parser reads files in pieces of 64 KB and holds each piece against this limit: it must be well above.
        MAX_FORM_MEMORY_SIZE=512 * 1024,
        MAX_FORM_PARTS=limits.request_files + _FORM_FIELDS,
        SEND_FILE_MAX_AGE_DEFAULT=0,
        PROPAGATE_EXCEPTIONS=False,
    )
    memory = Memory(limits.pending_mb * MEBIBYTE)
    access = security.register(app, settings, memory)
    database = Database(settings.database_url, settings.lock_wait_s)
    database.migrate()
    artifacts = Artifacts(limits.artifact_mb * MEBIBYTE, limits.artifact_minutes * 60.0)
    history = History(database, on_delete=artifacts.forget)
    history.note("started", "system", model=model.reference.sha256[:16], version=model.reference.version)
    metrics = Metrics()
    batcher = Batcher(
        predict,
        metrics,
        batch=settings.batch,
        wait_ms=settings.batch_wait_ms,
        queue_images=limits.queue_images,
    )
    service = Service(settings, batcher, history, metrics, artifacts)
    app.extensions[EXTENSION] = Services(
        settings, model, database, history, metrics, batcher, service, JobQueue(service), access, memory
    )
    problems.register(app)
    texts.register(app)
    _measure(app, metrics)
    _add_routes(app)
    return app


def open_app(settings: WebSettings, predictor: Predictor) -> Flask:
    """Build the application over a predictor; see ``create_app``."""
    return create_app(settings, ServedModel.from_bundle(predictor.bundle), make_predict_fn(predictor))


def decode_limits(settings: WebSettings) -> DecodeLimits:
    """Return the limits of the decoder, which are stricter than those of the command line."""
    return DecodeLimits(
        max_bytes=settings.limits.file_mb * MEBIBYTE, max_pixels=settings.limits.megapixels * 1_000_000
    )


def close_app(app: Flask) -> None:
    """End the application's threads and connections."""
    app.extensions[EXTENSION].close()


def _add_routes(app: Flask) -> None:
    from leukoscope.web import api, downloads, pages, review_pages

    for blueprint in (api.blueprint, pages.blueprint, review_pages.blueprint, downloads.blueprint):
        app.register_blueprint(blueprint)


def _measure(app: Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        g.started = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
        endpoint: Any = request.endpoint or "unknown"
        metrics.requests.labels(
            endpoint, request.method if request.endpoint else "other", response.status_code
        ).inc()
        if "started" in g:
            metrics.request_seconds.labels(endpoint).observe(time.perf_counter() - g.started)
        return response
